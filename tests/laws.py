"""Exact laws and measures shared by the tests."""

import torch
from torch import Tensor

from mfcdm.analytic import ExchangeableGaussian, GaussianMixture, ShapeMixture
from mfcdm.metrics import sliced_wasserstein_distance


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def five_components() -> GaussianMixture:
    """A mixture in R^3, off centre, of unequal weights and spreads."""
    means = torch.randn(5, 3, generator=generator(5), dtype=torch.float64)
    return GaussianMixture(means, stds=[0.1, 0.2, 0.3, 0.15, 0.25], weights=[1, 2, 1, 3, 1])


def three_shapes() -> ShapeMixture:
    g = generator(3)
    return ShapeMixture([GaussianMixture(torch.randn(5, 3, generator=g), 0.15) for _ in range(3)])


def strong_interaction(num_particles: int) -> ExchangeableGaussian:
    """The common shift is as large as a particle's own spread, so B carries half of the score: c = a N."""
    return ExchangeableGaussian(a=0.5, c=0.5 * num_particles)


def pooled(x: Tensor) -> Tensor:
    """All clouds as one, (1, B N, D)."""
    return x.reshape(1, -1, x.shape[-1])


def pooled_error(x: Tensor, y: Tensor) -> float:
    """Sliced Wasserstein distance between all points of two sets of clouds."""
    return float(sliced_wasserstein_distance(pooled(x), pooled(y)))


def shape_error(x: Tensor, law: ShapeMixture, seed: int) -> float:
    """Mean over the clouds of the distance to fresh points of the shape that is nearest, (B, N, D) -> number."""
    g = generator(seed)
    fresh = [shape.sample(len(x), x.shape[1], g, dtype=x.dtype) for shape in law.shapes]
    distances = torch.stack([sliced_wasserstein_distance(x, y) for y in fresh])
    return float(distances.min(dim=0).values.mean())
