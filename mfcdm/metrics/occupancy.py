"""Jensen-Shannon divergence between the occupancies of space of two sets of clouds."""

from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from mfcdm.metrics.arguments import Array, check_alike, separate
from mfcdm.wording import counted

Outside = Literal["refuse", "cell"]

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
    outside: Outside = "refuse",
) -> float:
    """Jensen-Shannon divergence, in bits, between the occupancies of a grid by two sets of clouds (0 is best).

    JSD = 1/2 KL(p | m) + 1/2 KL(q | m), m = (p + q) / 2, where p and q are the mean histograms of the clouds on
    resolution^D equal cells: every cloud weighs the same, whatever its cardinality. It sees where points are, summed
    over clouds, and nothing of how they form shapes.

    Args:
        a: (A, N, D).
        b: (B, M, D).
        resolution: cells along an axis.
        bounds: (low, high) of the box, numbers or (D,) tensors; default (-1, 1), the box of normalised clouds, or where
            points lie outside of that, which is no cell, the smallest cube about both sets. No point is clipped.
        lengths_a: (A,) rows that each cloud of a owns; padding may be NaN.
        lengths_b: (B,) rows that each cloud of b owns.
        outside: what to do with points beyond given bounds: "refuse", or "cell": all space outside is one more cell.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: if a point lies outside of given bounds, the shapes do not fit, a set or a cloud is empty, a
            coordinate is not finite, or the grid or the box is impossible.

    Source: Achlioptas et al., Learning representations and generative models for 3D point clouds (2018).
    """
    p, q = occupancies(a, b, resolution, bounds, lengths_a=lengths_a, lengths_b=lengths_b, outside=outside)
    return float(divergence(mean_occupancy(p), mean_occupancy(q)))


def occupancies(
    a: Tensor,
    b: Tensor,
    resolution: int,
    bounds: Bounds | None,
    *,
    lengths_a: Tensor | None = None,
    lengths_b: Tensor | None = None,
    outside: Outside = "refuse",
) -> tuple[csr_array, csr_array]:
    """Histogram of every cloud over the cells, rows of sum 1: (A, cells) and (B, cells); arguments as above.

    The last cell is all space outside the box; with outside="refuse" it is empty.
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
        for bound in (_default_bounds([*left, *right], outside) if bounds is None else bounds)
    )
    if not bool((low < high).all() & (high - low).isfinite().all()):
        raise ValueError(f"bounds must be finite with low < high, but are {low.tolist()} and {high.tolist()}")
    return _rows("a", left, resolution, low, high, outside), _rows("b", right, resolution, low, high, outside)


def _default_bounds(clouds: list[Tensor], outside: Outside) -> Bounds:
    """(-1, 1) where it holds all points (N, D) of the clouds or outside is a cell, else the least cube about them."""
    if outside == "cell":
        return DEFAULT_BOUNDS
    low = torch.stack([cloud.amin(dim=0) for cloud in clouds]).amin(dim=0).double()
    high = torch.stack([cloud.amax(dim=0) for cloud in clouds]).amax(dim=0).double()
    if bool((low >= DEFAULT_BOUNDS[0]).all() & (high <= DEFAULT_BOUNDS[1]).all()):
        return DEFAULT_BOUNDS
    side = (high - low).max()
    # Rounding must not put a face inside of the points on it; a lone point gets a cube about it.
    middle, reach = (low + high) / 2, side / 2 * (1 + 1e-12) + (high.abs() + low.abs()).max() * 1e-15
    return middle - reach, middle + reach


def mean_occupancy(rows: csr_array) -> Array:
    """Mean histogram of a set, (cells,) of sum 1."""
    return np.asarray(rows.sum(axis=0)).ravel() / rows.shape[0]


def divergence(p: Array, q: Array) -> Array:
    """Jensen-Shannon divergence, in bits, of histograms (..., cells) of sum 1."""
    m = (p + q) / 2
    # An empty cell adds nothing, and m = 0 only where p and q are.
    gain = _entropy_terms(p) + _entropy_terms(q) - 2 * _entropy_terms(m)
    return np.clip(gain.sum(axis=-1) / (2 * np.log(2)), 0, 1)


def _entropy_terms(p: Array) -> Array:
    return p * np.log(np.where(p > 0, p, 1))


def _rows(name: str, clouds: list[Tensor], resolution: int, low: Tensor, high: Tensor, outside: Outside) -> csr_array:
    """Histogram of every cloud, (S, resolution^D + 1)."""
    dim = len(low)
    strides = resolution ** torch.arange(dim - 1, -1, -1, device=low.device)
    cells, weights = [], []
    for index, cloud in enumerate(clouds):
        x = cloud.double()
        beyond = ((x < low) | (x > high)).any(dim=1)
        if outside == "refuse" and bool(beyond.any()):
            size = counted(int(beyond.sum()), "point")
            raise ValueError(
                f"cloud {index} of {name} has {size} outside the box from {low.tolist()} to "
                f"{high.tolist()}, for instance {x[beyond][0].tolist()}: give bounds that hold all clouds"
            )
        # The upper faces belong to the last cells.
        place = ((x - low) / (high - low) * resolution).clamp(0, resolution - 1).long()  # (N, D)
        cells.append((place * strides).sum(dim=1).masked_fill(beyond, resolution**dim).cpu().numpy())
        weights.append(np.full(len(x), 1 / len(x)))
    starts = np.cumsum([0, *(len(cell) for cell in cells)])
    shape = (len(clouds), resolution**dim + 1)
    rows = csr_array((np.concatenate(weights), np.concatenate(cells), starts), shape=shape)
    rows.sum_duplicates()
    return rows
