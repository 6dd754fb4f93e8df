"""Chamfer distance: squared, mean + mean, unscaled."""

from typing import Literal, get_args

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from mfcdm.metrics.arguments import as_array, paired, result_dtype
from mfcdm.metrics.pytorch3d_interop import pytorch3d_chamfer

Backend = Literal["auto", "pytorch3d"]

# Differences held at once on an accelerator: 2^26 float32 numbers are 256 MiB.
MAX_DIFFERENCES = 2**26

# Below this many queries starting threads costs more than it saves.
QUERIES_WORTH_THREADS = 2**13


def chamfer_distance(
    x: Tensor,
    y: Tensor,
    lengths_x: Tensor | None = None,
    lengths_y: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Chamfer distance between clouds, which may differ in cardinality.

    CD = 1/N sum_i min_j |x_i - y_j|^2 + 1/M sum_j min_i |x_i - y_j|^2, exact to rounding: nearest points are found in
    float64 (a k-d tree on the CPU, all differences block by block on an accelerator, in the dtype of the input there),
    and squares are taken of differences of coordinates. Differentiable at any size: the gradient holds the nearest
    points fixed, which is the gradient wherever they are unique.

    Args:
        x: (B, N, D).
        y: (B, M, D).
        lengths_x: (B,) rows that each cloud of x owns; padding may be NaN.
        lengths_y: (B,) rows that each cloud of y owns.
        backend: "auto" is the above; "pytorch3d" is PyTorch3D's own code (`pytorch3d_chamfer`), taken when named only.

    Returns:
        (B,), squared units of the coordinates; float64 if an input is, otherwise float32.

    Raises:
        ValueError: if the shapes do not fit, a cloud is empty, a coordinate is not finite, or the backend is unknown.
        PyTorch3DMissing: if it was named and is not installed.

    Source: Fan, Su & Guibas, A point set generation network (2017), with means in place of sums.
    """
    check_backend(backend)
    if backend == "pytorch3d":
        return pytorch3d_chamfer(x, y, lengths_x, lengths_y)
    distances = []
    for x_b, y_b in paired(x, y, lengths_x, lengths_y):
        forth, back = nearest_indices(x_b, y_b), nearest_indices(y_b, x_b)
        distances.append((x_b - y_b[forth]).square().sum(-1).mean() + (y_b - x_b[back]).square().sum(-1).mean())
    return torch.stack(distances) if distances else torch.zeros(0, dtype=result_dtype(x, y), device=x.device)


def check_backend(backend: str) -> None:
    """Refuse a name that is no backend of the chamfer distance.

    Raises:
        ValueError: with one sentence that names it.
    """
    if backend not in get_args(Backend):
        raise ValueError(f"backend must be one of {', '.join(map(repr, get_args(Backend)))}, but is {backend!r}")


@torch.no_grad()
def nearest_indices(x: Tensor, y: Tensor) -> Tensor:
    """For each point of one cloud the index of the nearest point of another.

    Args:
        x: (N, D).
        y: (M, D), M >= 1.

    Returns:
        (N,) int64.
    """
    return _nearest_by_tree(x, y) if x.device.type == "cpu" else _nearest_by_differences(x, y)


def _nearest_by_tree(x: Tensor, y: Tensor) -> Tensor:
    workers = torch.get_num_threads() if len(x) >= QUERIES_WORTH_THREADS else 1
    _, index = cKDTree(as_array(y)).query(as_array(x), workers=workers)
    return torch.from_numpy(index)


def _nearest_by_differences(x: Tensor, y: Tensor) -> Tensor:
    rows = max(1, MAX_DIFFERENCES // len(y))
    return torch.cat([squared_distances(part, y).argmin(dim=-1) for part in x.split(rows)])


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """All |x_i - y_j|^2 from differences: |x|^2 + |y|^2 - 2xy would cancel away from the origin.

    Args:
        x: (..., N, D).
        y: (..., M, D).

    Returns:
        (..., N, M).
    """
    total = (x[..., :, None, 0] - y[..., None, :, 0]).square()
    for axis in range(1, x.shape[-1]):  # coordinate by coordinate: no tensor of N M D numbers
        total = total + (x[..., :, None, axis] - y[..., None, :, axis]).square()
    return total
