"""Sliced Wasserstein distance between point clouds."""

import torch
from torch import Tensor

from mfcdm.metrics.arguments import paired, result_dtype
from mfcdm.randomness import standard_normal


def sliced_wasserstein_distance(
    x: Tensor,
    y: Tensor,
    *,
    num_projections: int = 128,
    generator: torch.Generator | None = None,
    lengths_x: Tensor | None = None,
    lengths_y: Tensor | None = None,
) -> Tensor:
    """Root mean square, over random directions, of the 2-Wasserstein distance of the projected clouds.

    SW^2 = E_theta int_0^1 (F^-1(q) - G^-1(q))^2 dq with the quantile functions of <theta, x> and <theta, y>; for N = M
    that is 1/N sum_i (<theta, x>_(i) - <theta, y>_(i))^2, where (i) sorts. The clouds may differ in cardinality.

    Args:
        x: (B, N, D).
        y: (B, M, D).
        num_projections: directions theta, uniform on the sphere and shared by all clouds.
        generator: draws the directions; default a fixed one, so that two calls can be compared.
        lengths_x: (B,) rows that each cloud of x owns; padding may be NaN.
        lengths_y: (B,) rows that each cloud of y owns.

    Returns:
        (B,), in the units of the coordinates; float64 if an input is, otherwise float32.

    Raises:
        ValueError: if the shapes do not fit, a cloud is empty, or a coordinate is not finite.

    Source: Bonneel et al., Sliced and Radon Wasserstein barycenters of measures (2015).
    """
    pairs = paired(x, y, lengths_x, lengths_y)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    dtype = result_dtype(x, y)
    theta = standard_normal((x.shape[2], num_projections), generator, dtype=dtype, device=x.device)
    theta = theta / theta.norm(dim=0, keepdim=True)
    distances = [_projected(x_b @ theta, y_b @ theta) for x_b, y_b in pairs]
    return torch.stack(distances) if distances else torch.zeros(0, dtype=dtype, device=x.device)


def _projected(x: Tensor, y: Tensor) -> Tensor:
    """Root mean square over columns of the 2-Wasserstein distance of (N, P) and (M, P)."""
    x, y = x.sort(dim=0).values, y.sort(dim=0).values
    num_x, num_y = len(x), len(y)
    if num_x == num_y:
        return (x - y).square().mean().sqrt()
    # Both quantile functions are constant between neighbouring multiples of 1/N and 1/M; in units of 1/(N M):
    ends = torch.cat([torch.arange(num_x, device=x.device) * num_y, torch.arange(num_y, device=x.device) * num_x])
    ends = ends.unique()  # sorted
    width = torch.diff(ends, append=ends.new_full((1,), num_x * num_y)).to(x) / (num_x * num_y)
    gap = x[ends // num_y] - y[ends // num_x]  # (pieces, P)
    return (width[:, None] * gap.square()).sum(dim=0).mean().sqrt()
