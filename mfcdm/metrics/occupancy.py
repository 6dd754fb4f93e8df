"""Jensen-Shannon divergence between the occupancies of space of two sets of clouds."""

import torch
from torch import Tensor

from mfcdm.metrics.arguments import check_alike, separate

Bounds = tuple[float | Tensor, float | Tensor]

# The box of clouds that are normalised to it.
DEFAULT_BOUNDS: Bounds = (-1.0, 1.0)

MAX_CELLS = 2**27


@torch.no_grad()
def jensen_shannon_divergence(
    a: Tensor,
    b: Tensor,
    resolution: int = 28,
    bounds: Bounds | None = None,
    *,
    lengths_a: Tensor | None = None,
    lengths_b: Tensor | None = None,
) -> float:
    """Jensen-Shannon divergence, in bits, between the occupancies of a grid by two sets of clouds (0 is best).

    JSD = 1/2 KL(p | m) + 1/2 KL(q | m), m = (p + q) / 2, where p and q are the mean histograms of the clouds on
    resolution^D equal cells: every cloud weighs the same, whatever its cardinality. It sees where points are, summed
    over clouds, and nothing of how they form shapes.

    Args:
        a: (A, N, D).
        b: (B, M, D).
        resolution: cells along an axis.
        bounds: (low, high) of the box, numbers or (D,) tensors; default (-1, 1). No point is clipped or left out.
        lengths_a: (A,) rows that each cloud of a owns; padding may be NaN.
        lengths_b: (B,) rows that each cloud of b owns.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: if a point lies outside the box, the shapes do not fit, a set or a cloud is empty, a coordinate is
            not finite, or the grid or the box is impossible.

    Source: Achlioptas et al., Learning representations and generative models for 3D point clouds (2018).
    """
    left, right = separate("a", a, lengths_a), separate("b", b, lengths_b)
    check_alike(a, b)
    dim = a.shape[-1]
    if not left or not right:
        raise ValueError(f"both sets need at least one cloud, got {len(left)} and {len(right)}")
    if resolution < 1 or resolution**dim > MAX_CELLS:
        raise ValueError(f"resolution must be 1 or more, with at most {MAX_CELLS:,} cells, but is {resolution}")
    low, high = (
        torch.as_tensor(bound, dtype=torch.float64, device=a.device).expand(dim)
        for bound in (DEFAULT_BOUNDS if bounds is None else bounds)
    )
    if not bool((low < high).all() & (high - low).isfinite().all()):
        raise ValueError(f"bounds must be finite with low < high, but are {low.tolist()} and {high.tolist()}")

    p = _occupancy("a", left, resolution, low, high)
    q = _occupancy("b", right, resolution, low, high)
    m = (p + q) / 2
    # xlogy: an empty cell adds nothing, and m = 0 only where p and q are.
    gain = torch.xlogy(p, p) + torch.xlogy(q, q) - 2 * torch.xlogy(m, m)
    return float((gain.sum() / 2 / torch.tensor(2.0, dtype=torch.float64).log()).clamp(0, 1))


def _occupancy(name: str, clouds: list[Tensor], resolution: int, low: Tensor, high: Tensor) -> Tensor:
    """Mean histogram of the clouds over the cells, (resolution^D,), of sum 1."""
    dim = len(low)
    strides = resolution ** torch.arange(dim - 1, -1, -1, device=low.device)
    histogram = torch.zeros(resolution**dim, dtype=torch.float64, device=low.device)
    for index, cloud in enumerate(clouds):
        x = cloud.double()
        outside = ((x < low) | (x > high)).any(dim=1)
        if bool(outside.any()):
            raise ValueError(
                f"{int(outside.sum())} points of cloud {index} of {name} lie outside the box from {low.tolist()} to "
                f"{high.tolist()}, for instance {x[outside][0].tolist()}: give bounds that hold all clouds"
            )
        # The upper faces belong to the last cells.
        cell = ((x - low) / (high - low) * resolution).long().clamp(max=resolution - 1)  # (N, D)
        weight = torch.full((len(x),), 1 / (len(x) * len(clouds)), dtype=torch.float64, device=x.device)
        histogram.index_add_(0, (cell * strides).sum(dim=1), weight)
    return histogram
