"""What a ball convolution accepts: each refusal is one sentence that names the value and what would fit.

Shapes, dtypes and devices are checked everywhere. Values (lengths within their range, bandwidths above zero) are
checked for tensors on the CPU only: on an accelerator a look at a value stalls the stream.
"""

import math
import numbers

import torch
from torch import Tensor

NORMALIZATIONS = ("mean", "kernel")


def check_clouds(
    x: Tensor, radius: float, lengths: Tensor | None, y: Tensor | None, source_lengths: Tensor | None
) -> None:
    """Refuse queries, sources, lengths or a radius that do not fit together.

    Raises:
        ValueError: with one sentence that names the value.
    """
    _check_points("x", x)
    if y is None and source_lengths is not None:
        raise ValueError("source_lengths needs y: without y the sources are x, with its lengths")
    if y is not None:
        _check_points("y", y)
        if y.shape[0] != x.shape[0] or y.shape[2] != x.shape[2]:
            raise ValueError(
                f"y must have the B and D of x, (B, M, D) beside (B, N, D), but y has shape {tuple(y.shape)} "
                f"and x {tuple(x.shape)}"
            )
        _check_device("y", y, x)
        _check_lengths("source_lengths", source_lengths, y)
    _check_lengths("lengths", lengths, x)
    _check_radius(radius, x.dtype)


def check_values(x: Tensor, v: Tensor, bandwidth: Tensor, y: Tensor | None, normalize: str) -> None:
    """Refuse values, bandwidths or a normalisation that do not fit the clouds.

    Raises:
        ValueError: with one sentence that names the value.
    """
    _check_floating("v", v)
    num_clouds, num_sources = (x if y is None else y).shape[:2]
    if v.ndim != 4 or v.shape[0] != num_clouds or v.shape[2] != num_sources:
        raise ValueError(
            f"v must be (B, H, M, C) with B = {num_clouds} clouds and M = {num_sources} sources, "
            f"but has shape {tuple(v.shape)}"
        )
    _check_device("v", v, x)
    _check_floating("bandwidth", bandwidth)
    if tuple(bandwidth.shape) != (v.shape[1],):
        raise ValueError(
            f"bandwidth must be (H,) = ({v.shape[1]},), one for each head of v, but has shape {tuple(bandwidth.shape)}"
        )
    _check_device("bandwidth", bandwidth, x)
    if bandwidth.device.type == "cpu" and not bool(((bandwidth > 0) & bandwidth.isfinite()).all()):
        raise ValueError(f"bandwidth must be finite and above 0, but is {bandwidth.tolist()}")
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"normalize must be one of {', '.join(map(repr, NORMALIZATIONS))}, but is {normalize!r}")


def _check_points(name: str, points: Tensor) -> None:
    _check_floating(name, points)
    if points.ndim != 3 or points.shape[2] == 0:
        raise ValueError(f"{name} must be (B, N, D) with D >= 1, but has shape {tuple(points.shape)}")


def _check_floating(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor, but is a {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must have a floating-point dtype, but has {tensor.dtype}")


def _check_device(name: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.device != x.device:
        raise ValueError(f"{name} must be on the device of x, {x.device}, but is on {tensor.device}")


def _check_lengths(name: str, lengths: Tensor | None, points: Tensor) -> None:
    if lengths is None:
        return
    num_clouds, num_rows = points.shape[:2]
    if not isinstance(lengths, Tensor) or lengths.dtype not in (torch.int64, torch.int32):
        kind = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        raise ValueError(f"{name} must be an int64 tensor, but is {kind}")
    if tuple(lengths.shape) != (num_clouds,):
        raise ValueError(
            f"{name} must be (B,) = ({num_clouds},), one for each cloud, but has shape {tuple(lengths.shape)}"
        )
    _check_device(name, lengths, points)
    if lengths.device.type == "cpu" and bool(((lengths < 0) | (lengths > num_rows)).any()):
        raise ValueError(f"{name} must lie in [0, {num_rows}], the rows of a cloud, but is {lengths.tolist()}")


def _check_radius(radius: float, dtype: torch.dtype) -> None:
    if not isinstance(radius, numbers.Real) or isinstance(radius, bool):
        raise ValueError(f"radius must be a number, but is {radius!r}")
    if not (math.isfinite(radius) and radius > 0):
        raise ValueError(f"radius must be finite and above 0, but is {radius}")
    info = torch.finfo(torch.promote_types(dtype, torch.float32))
    if not 4 * info.tiny <= radius <= info.max / 4:
        raise ValueError(f"radius must lie in [{4 * info.tiny:.3g}, {info.max / 4:.3g}] for {dtype}, but is {radius}")
