"""What a distance between clouds accepts: each refusal is one sentence that names the value."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def separate(name: str, x: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """The clouds of a padded batch one by one, each with the rows that it owns.

    Args:
        name: what the batch is called in a refusal.
        x: (B, N, D) floating.
        lengths: (B,) rows that each cloud owns, or None where all own N.

    Returns:
        B tensors (N_b, D), in float32 or float64.

    Raises:
        ValueError: if the shapes do not fit, a cloud is empty, or a row that a cloud owns is not finite.
    """
    if x.ndim != 3 or x.shape[2] == 0:
        raise ValueError(f"{name} must be (B, N, D) with D >= 1, but has shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must have a floating-point dtype, but has {x.dtype}")
    if lengths is not None and (lengths.is_floating_point() or tuple(lengths.shape) != (len(x),)):
        raise ValueError(
            f"the lengths of {name} must be ({len(x)},) integers, one for each cloud, "
            f"but are {tuple(lengths.shape)} {lengths.dtype}"
        )
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    sizes = [x.shape[1]] * len(x) if lengths is None else [int(length) for length in lengths.tolist()]
    clouds = []
    for index, size in enumerate(sizes):
        if not 1 <= size <= x.shape[1]:
            raise ValueError(f"cloud {index} of {name} must own 1 to {x.shape[1]} points, but owns {size}")
        clouds.append(x[index, :size])
    # One look at all clouds first: a look at each would stall an accelerator once a cloud.
    if clouds and not bool(torch.stack([cloud.isfinite().all() for cloud in clouds]).all()):
        index = next(index for index, cloud in enumerate(clouds) if not bool(cloud.isfinite().all()))
        raise ValueError(f"cloud {index} of {name} has NaN or infinite coordinates")
    return clouds


def check_alike(x: Tensor, y: Tensor) -> None:
    """Refuse clouds of different dimension or on different devices.

    Raises:
        ValueError: with one sentence that names the value.
    """
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"both sides must have points of one dimension, but have {x.shape[-1]} and {y.shape[-1]}")
    if x.device != y.device:
        raise ValueError(f"both sides must be on one device, but are on {x.device} and {y.device}")


def paired(x: Tensor, y: Tensor, lengths_x: Tensor | None, lengths_y: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """Cloud b of x with cloud b of y, both without padding and of one dtype.

    Raises:
        ValueError: as `separate` and `check_alike`, or if the two batches differ in size.
    """
    left, right = separate("x", x, lengths_x), separate("y", y, lengths_y)
    check_alike(x, y)
    if len(x) != len(y):
        raise ValueError(f"x and y must hold equally many clouds, but hold {len(x)} and {len(y)}")
    dtype = result_dtype(x, y)
    return [(x_b.to(dtype), y_b.to(dtype)) for x_b, y_b in zip(left, right, strict=True)]


def result_dtype(x: Tensor, y: Tensor) -> torch.dtype:
    """The wider dtype of the two, float32 at least: half precision would make ties of unequal distances."""
    return torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)


def as_array(x: Tensor) -> Array:
    """A cloud (N, D) in float64 in host memory."""
    return x.detach().double().cpu().numpy()
