"""Sets of ellipsoids for the tests of the evaluation."""

import torch

from mfcdm.datasets import Clouds


def ellipsoids(count, num_points, seed=0, size=1.0, spread=0.5):
    """Surfaces of random axes: `spread` is how much they vary, `size` scales all."""
    g = torch.Generator().manual_seed(seed)
    points = torch.nn.functional.normalize(torch.randn(count, num_points, 3, generator=g), dim=2)
    return 0.4 * size * points * (1 - spread * torch.rand(count, 1, 3, generator=g))


def a_set(count, num_points, **options):
    return Clouds.join(list(ellipsoids(count, num_points, **options)))
