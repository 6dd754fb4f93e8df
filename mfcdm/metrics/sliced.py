"""Sliced Wasserstein distance between point clouds."""

import torch
from torch import Tensor

from mfcdm.randomness import standard_normal


def sliced_wasserstein_distance(
    x: Tensor, y: Tensor, *, num_projections: int = 128, generator: torch.Generator | None = None
) -> Tensor:
    """Root mean square, over random directions, of the 2-Wasserstein distance of the projected clouds.

    SW^2 = E_theta 1/N sum_i (<theta, x>_(i) - <theta, y>_(i))^2, where (i) sorts.

    Args:
        x: (B, N, D).
        y: (B, N, D).
        num_projections: directions theta, uniform on the sphere and shared by all clouds.
        generator: draws the directions; default a fixed one, so that two calls can be compared.

    Returns:
        (B,), in the units of the coordinates.

    Raises:
        ValueError: if the shapes differ.

    Source: Bonneel et al., Sliced and Radon Wasserstein barycenters of measures (2015).
    """
    if x.ndim != 3 or x.shape != y.shape:
        raise ValueError(f"two clouds of one shape (B, N, D) are needed, got {tuple(x.shape)} and {tuple(y.shape)}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    theta = standard_normal((x.shape[2], num_projections), generator, dtype=x.dtype, device=x.device)
    theta = theta / theta.norm(dim=0, keepdim=True)
    gap = (x @ theta).sort(dim=1).values - (y @ theta).sort(dim=1).values  # (B, N, P)
    return gap.square().mean(dim=(1, 2)).sqrt()
