"""Clouds as float32, where that leaves their shape."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

COARSEST = 1e-3  # of a cloud's extent: the step between neighbouring float32 numbers where the cloud lies


def as_float32(points: NDArray[Any], name: str) -> NDArray[np.float32]:
    """A copy of points as float32; where that would make a lattice of a cloud far from the origin, it is refused.

    Args:
        points: (N, D) of any numbers; those that float32 holds exactly stay as they are, however coarse.
        name: of the cloud, for a complaint.

    Returns:
        (N, D); a coordinate too large for float32 is infinite.

    Raises:
        ValueError: if float32 is coarser, at the cloud's largest coordinate, than a thousandth of its extent.
    """
    with np.errstate(over="ignore"):  # what is too large is refused by `check_cloud`
        cast = np.array(points, dtype=np.float32, order="C")
    if cast.dtype == points.dtype or cast.ndim != 2 or not cast.size or not np.isfinite(cast).all():
        return cast
    extent, largest = float(np.ptp(points.astype(np.float64), axis=0).max()), float(np.abs(cast).max())
    step = float(np.spacing(np.float32(largest)))
    if step > COARSEST * extent > 0 and bool((cast != points).any()):
        raise ValueError(
            f"{name} has coordinates up to {largest:.6g}, where float32 has steps of {step:.3g}, too coarse for a "
            f"cloud {extent:.3g} across; subtract an offset from its coordinates first"
        )
    return cast


def check_precision(x: Tensor, name: str) -> None:
    """Refuse a cloud (N, D), of any type, that `as_float32` refuses.

    Raises:
        ValueError: as there.
    """
    if x.dtype.itemsize > 4 or not x.is_floating_point():
        as_float32(x.detach().cpu().numpy(), name)
