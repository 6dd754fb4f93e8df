"""The ball convolution in C, on the CPU: `ball.c` behind an autograd function.

The C code takes tensors of any strides in their own order and sorts rows into tiles itself; here is only the
bookkeeping. It runs on torch.get_num_threads() threads, and the result does not depend on their number. In a forked
process it runs on one, because the threads of an OpenMP runtime do not survive a fork.
"""

import ctypes
import os
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mfcdm.interaction import native_library
from mfcdm.interaction.geometry import BallGeometry
from mfcdm.interaction.reference import compute_dtype, sharpness, unit_of_length

MAX_DIM = 3

_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True
    native_library.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def reason_unavailable(x: Tensor | None = None) -> str | None:
    """Return why the backend cannot run, here or on these queries, as a phrase; None where it can.

    The first call that gets as far compiles or loads the library; later ones only look.

    Args:
        x: queries (B, N, D), or None to ask about the machine only.
    """
    if x is not None and x.device.type != "cpu":
        return f"it runs on the CPU, but x is on {x.device}"
    if x is not None and x.shape[-1] > MAX_DIM:
        return f"it takes up to {MAX_DIM} dimensions, but x has {x.shape[-1]}"
    found = native_library.library()
    return found if isinstance(found, str) else None


def ball_convolution_native(
    x: Tensor,
    v: Tensor,
    bandwidth: Tensor,
    *,
    radius: float,
    y: Tensor | None = None,
    lengths: Tensor | None = None,
    source_lengths: Tensor | None = None,
    normalize: str = "mean",
    geometry: BallGeometry | None = None,
) -> Tensor:
    """Compute `ball_convolution_reference` from the near pairs of tiles alone, in C.

    out_bhi = 1/Z sum_{j < source_len_b} w_h(|x_i - y_j|) v_bhj. Arguments and result as there; memory is
    O(B H (N + M) C).

    Args:
        x: queries (B, N, D) on the CPU, D at most 3.
        v: values on the sources (B, H, M, C).
        bandwidth: bandwidths (H,), in the units of x.
        radius: truncation radius, in the units of x.
        y: sources (B, M, D); x, with its lengths, if None.
        lengths: number of queries of each cloud (B,).
        source_lengths: number of sources of each cloud (B,).
        normalize: "mean" or "kernel".
        geometry: the geometry of the same clouds and radius; built here if None.

    Returns:
        The convolution (B, H, N, C), in the dtype of v.

    Raises:
        MemoryError: there is not enough memory.
    """
    if geometry is None:
        geometry = BallGeometry.build(x, radius, lengths, y, source_lengths)
    dtype = compute_dtype(x, v, bandwidth) if y is None else compute_dtype(x, y, v, bandwidth)
    kappa = sharpness(bandwidth.to(dtype), radius)  # (H,)
    return _NativeConvolution.apply(x, y, v, kappa, geometry, normalize == "kernel")


class _NativeConvolution(torch.autograd.Function):
    """The normalised sums over near pairs, as a function of x, y, v and kappa."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor | None, v: Tensor, kappa: Tensor, geometry: BallGeometry, kernel: bool
    ) -> Tensor:
        num_clouds, num_heads, _, num_channels = v.shape
        num_queries = x.shape[1]
        wide = kappa.new_empty(num_clouds, num_heads, num_queries, num_channels)  # (B, H, N, C)
        inverse_z = kappa.new_empty(num_clouds, num_heads, num_queries)
        _run("ball_forward", geometry, kernel, x, y, v, kappa, out=wide, inverse_z=inverse_z)
        out = wide.to(v.dtype)
        ctx.geometry, ctx.kernel = geometry, kernel
        ctx.save_for_backward(x, y, v, kappa, inverse_z, wide if kernel else None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, v, kappa, inverse_z, out = ctx.saved_tensors
        needs = ctx.needs_input_grad
        dx, dy, dv, dkappa = (
            torch.empty_like(t, dtype=kappa.dtype, memory_format=torch.contiguous_format) if needed else None
            for t, needed in zip((x, y, v, kappa), needs, strict=False)
        )
        self_interaction = y is None  # then the sweep over the sources gives both roles of x
        _run(
            "ball_backward",
            ctx.geometry,
            ctx.kernel,
            x,
            y,
            v,
            kappa,
            out=out,
            inverse_z=inverse_z,
            g=g,
            dx=None if self_interaction else dx,
            dy=dx if self_interaction else dy,
            dv=dv,
            dkappa=dkappa,
        )
        return (
            None if dx is None else dx.to(x.dtype),
            None if dy is None else dy.to(y.dtype),
            None if dv is None else dv.to(v.dtype),
            dkappa,
            None,
            None,
        )


# The structures of ball.h.


class _Array(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("strides", ctypes.c_int64 * 4))


class _Side(ctypes.Structure):
    _fields_ = (
        ("num_rows", ctypes.c_int64),
        ("num_tiles", ctypes.c_int64),
        ("order", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("points", _Array),
        ("offsets", ctypes.c_void_p),
        ("near", ctypes.c_void_p),
    )


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_clouds", "num_heads", "num_channels", "dim", "num_threads")),
        *((name, ctypes.c_int64) for name in ("kernel", "self_interaction")),
        *((name, ctypes.c_double) for name in ("unit", "squared_radius")),
        ("kappa", ctypes.c_void_p),
        ("queries", _Side),
        ("sources", _Side),
        *((name, _Array) for name in ("v", "out", "g")),
        ("inverse_z", ctypes.c_void_p),
        *((name, _Array) for name in ("dx", "dy", "dv")),
        ("dkappa", ctypes.c_void_p),
    )


def _run(
    function: str,
    geometry: BallGeometry,
    kernel: bool,
    x: Tensor,
    y: Tensor | None,
    v: Tensor,
    kappa: Tensor,
    *,
    out: Tensor | None,
    inverse_z: Tensor,
    g: Tensor | None = None,
    dx: Tensor | None = None,
    dy: Tensor | None = None,
    dv: Tensor | None = None,
    dkappa: Tensor | None = None,
) -> None:
    """Call a function of ball.c. The tensors of results are in the dtype of kappa; None means not wanted."""
    dtype = kappa.dtype
    kappa, x, v = kappa.contiguous(), x.to(dtype), v.to(dtype)
    y = x if y is None else y.to(dtype)
    g = None if g is None else g.to(dtype)
    unit = unit_of_length(geometry.radius)
    transpose = geometry if function == "ball_forward" else geometry.transpose  # the forward pass needs none
    num_tiles = x.shape[0] * max(geometry.query_tiles, geometry.source_tiles)
    problem = _Problem(
        num_clouds=v.shape[0],
        num_heads=v.shape[1],
        num_channels=v.shape[3],
        dim=x.shape[2],
        num_threads=1 if _forked else max(1, min(torch.get_num_threads(), num_tiles)),
        kernel=kernel,
        self_interaction=geometry.self_interaction,
        unit=unit,
        squared_radius=(geometry.radius * unit) ** 2,
        kappa=kappa.data_ptr(),
        queries=_side(x, geometry.query_tiles, geometry.query_order, geometry.query_lengths, geometry),
        sources=_side(y, geometry.source_tiles, geometry.source_order, geometry.source_lengths, transpose),
        v=_array(v),
        out=_array(out),
        g=_array(g),
        inverse_z=inverse_z.data_ptr(),
        dx=_array(dx),
        dy=_array(dy),
        dv=_array(dv),
        dkappa=None if dkappa is None else dkappa.data_ptr(),
    )
    library = native_library.library()
    if isinstance(library, str):
        raise RuntimeError(library)
    precision = 32 if dtype == torch.float32 else 64
    if not getattr(library, f"{function}_{precision}")(ctypes.byref(problem)):
        raise MemoryError(f"not enough memory for a ball convolution of values {tuple(v.shape)}")


def leave_out_of_graphs() -> None:
    """Have torch.compile end its graphs at the calls of ball.c, which it cannot trace.

    Called when something is compiled, as what it imports takes a second.
    """
    global _run
    _run = torch.compiler.disable(_run)


def _array(tensor: Tensor | None) -> _Array:
    """Describe a tensor (B, H, N, C), or points (B, N, D) as those of one head."""
    if tensor is None:
        return _Array(None, (0, 0, 0, 0))
    strides = tensor.stride()
    return _Array(tensor.data_ptr(), strides if len(strides) == 4 else (strides[0], 0, *strides[1:]))


def _side(points: Tensor, num_tiles: int, order: Tensor, lengths: Tensor, near: BallGeometry) -> _Side:
    """Describe the queries or the sources; the near list of `near` is that from this side to the other."""
    return _Side(
        points.shape[1],
        num_tiles,
        order.data_ptr(),
        lengths.data_ptr(),
        _array(points),
        near.near_offsets.data_ptr(),
        near.near_tiles.data_ptr(),
    )
