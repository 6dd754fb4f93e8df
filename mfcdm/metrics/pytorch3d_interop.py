"""PyTorch3D's clouds and chamfer distance, where PyTorch3D is installed; it is imported when it is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mfcdm.datasets.clouds import Clouds
from mfcdm.metrics.arguments import check_alike, result_dtype, separate

DIMENSION = 3  # of every point in a Pointclouds


class PyTorch3DMissing(ImportError):
    """PyTorch3D was asked for and cannot be imported."""


def to_pointclouds(clouds: Clouds | Tensor, lengths: Tensor | None = None) -> Any:
    """The clouds as a `pytorch3d.structures.Pointclouds`, without padding, dtype, device and gradients kept.

    Args:
        clouds: `Clouds`, or (B, N, 3).
        lengths: (B,) rows that each cloud of a tensor owns; padding may be NaN.

    Raises:
        PyTorch3DMissing: if PyTorch3D is not installed.
        ValueError: if the points are not of dimension 3, a cloud is empty, or a coordinate is not finite.
    """
    if isinstance(clouds, Clouds):
        if lengths is not None:
            raise ValueError("Clouds know their own lengths; lengths belong to a tensor (B, N, 3)")
        lengths = clouds.lengths
        clouds = clouds.x
    with _asked_for():
        from pytorch3d.structures import Pointclouds
    points = separate("clouds", clouds, lengths)
    if clouds.shape[2] != DIMENSION:
        raise ValueError(f"PyTorch3D's Pointclouds hold points of dimension 3, but these have {clouds.shape[2]}")
    return Pointclouds(points=points)


def from_pointclouds(pointclouds: Any) -> Clouds:
    """The points of a `pytorch3d.structures.Pointclouds` as `Clouds`; normals and features stay behind.

    Args:
        pointclouds: B clouds (N_i, 3); dtype, device and gradients are kept.

    Returns:
        x (B, max N_i, 3), 0 on padding, and lengths where N_i differs.

    Raises:
        ValueError: if there is no cloud, one is empty, or a coordinate is not finite.
    """
    points = list(pointclouds.points_list())
    if not points:
        raise ValueError("at least one cloud is needed, got none")
    x = pad_sequence(points, batch_first=True)
    sizes = torch.tensor([len(cloud) for cloud in points])
    separate("pointclouds", x, sizes)  # refuses what is empty or not finite
    return Clouds(x, None if bool((sizes == sizes[0]).all()) else sizes)


def pytorch3d_chamfer(x: Tensor, y: Tensor, lengths_x: Tensor | None = None, lengths_y: Tensor | None = None) -> Tensor:
    """`mfcdm.metrics.chamfer_distance` as PyTorch3D computes it: squared, mean + mean, one number a pair.

    Its `chamfer_distance` with point_reduction="mean", batch_reduction=None and its default norm 2, whose distances are
    squared: the same definition. It computes in the dtype of the input, on the CPU in float32 alone.

    Args:
        x: (B, N, D).
        y: (B, M, D).
        lengths_x: (B,) rows that each cloud of x owns; padding may be NaN.
        lengths_y: (B,) rows that each cloud of y owns.

    Returns:
        (B,), squared units of the coordinates.

    Raises:
        PyTorch3DMissing: if PyTorch3D is not installed.
        ValueError: if the shapes do not fit, a cloud is empty, a coordinate is not finite, or float64 clouds are on
            the CPU.
    """
    left, right = separate("x", x, lengths_x), separate("y", y, lengths_y)
    check_alike(x, y)
    if len(left) != len(right):
        raise ValueError(f"x and y must hold equally many clouds, but hold {len(left)} and {len(right)}")
    dtype = result_dtype(x, y)
    with _asked_for():
        from pytorch3d.loss import chamfer_distance
    if dtype == torch.float64 and x.device.type == "cpu":
        raise ValueError("PyTorch3D computes in float32 on the CPU, but these clouds are float64")
    if not left:
        return torch.zeros(0, dtype=dtype, device=x.device)
    (x, lengths_x), (y, lengths_y) = _padded(left, dtype), _padded(right, dtype)
    reductions = {"batch_reduction": None, "point_reduction": "mean"}
    distances, _ = chamfer_distance(x, y, x_lengths=lengths_x, y_lengths=lengths_y, **reductions)
    return distances


def _padded(clouds: list[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Clouds in one batch, 0 on padding, and their lengths on the same device, as PyTorch3D wants them."""
    lengths = torch.tensor([len(cloud) for cloud in clouds], device=clouds[0].device)
    return pad_sequence([cloud.to(dtype) for cloud in clouds], batch_first=True), lengths


@contextmanager
def _asked_for() -> Iterator[None]:
    """Around an import of PyTorch3D."""
    try:
        yield
    except ImportError as error:
        raise PyTorch3DMissing(
            f"PyTorch3D was asked for and cannot be imported ({error}); it has to be built from its source, and "
            "nothing here needs it: leave it out"
        ) from error
