"""The public convolution: it validates, chooses a backend and runs it."""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from mfcdm.interaction import triton_launch
from mfcdm.interaction.arguments import check_clouds, check_values
from mfcdm.interaction.geometry import BallGeometry
from mfcdm.interaction.native import MAX_DIM, ball_convolution_native, reason_unavailable
from mfcdm.interaction.reference import ball_convolution_reference, compute_dtype
from mfcdm.interaction.tiled import ball_convolution_tiled
from mfcdm.interaction.triton_backend import ball_convolution_triton

KNOWN_BACKENDS = ("reference", "tiled", "native", "triton")

# "auto" takes the dense reference up to this many pairs B N M, by the backend that it would take above. Measured with
# 4 heads of 16 channels on one CPU thread: below, sorting (1.2 ms, however few the points) costs more than it saves.
# "native" breaks even at 2^16 if it sorts for one call, at 2^14 if several layers share the geometry; "tiled" at 2^18,
# where the dense intermediates leave the caches. "triton" sorts as "tiled" does.
DENSE_PAIRS = {"native": 2**15, "tiled": 2**18, "triton": 2**18}


class BackendUnavailable(RuntimeError):
    """An explicitly requested backend cannot run here."""


def _reference(x: Tensor, v: Tensor, bandwidth: Tensor, *, geometry: BallGeometry | None, **options: object) -> Tensor:
    """Ignore the geometry: the definition takes every pair."""
    return ball_convolution_reference(x, v, bandwidth, **options)  # type: ignore[arg-type]


# Every backend is called as (x, v, bandwidth, *, radius, y, lengths, source_lengths, normalize, geometry).
_BACKENDS: dict[str, Callable[..., Tensor]] = {
    "reference": _reference,
    "tiled": ball_convolution_tiled,
    "native": ball_convolution_native,
    "triton": ball_convolution_triton,
}


def available_backends() -> tuple[str, ...]:
    """Return the names of the backends that can run here; the first call may compile "native", in a second or two."""
    return tuple(name for name in _BACKENDS if _reason_against(name) is None)


def uses_geometry(x: Tensor, y: Tensor | None = None, backend: str = "auto") -> bool:
    """Return whether `ball_convolution` with this backend would sort these clouds, so that sorting once can be shared.

    Args:
        x: queries (B, N, D).
        y: sources (B, M, D); x if None.
        backend: as in `ball_convolution`.
    """
    return (_choose(x, y, _widest(x, y)) if backend == "auto" else backend) != "reference"


def ball_convolution(
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
    backend: str = "auto",
) -> Tensor:
    """Average the values of the sources in a ball about each query.

        out_bhi = 1/Z sum_{j < source_len_b} w_h(|x_i - y_j|) v_bhj
        w_h(r)  = exp(-r^2 / (2 bandwidth_h^2)) max(0, 1 - r^2 / radius^2)^2

    with Z = source_len_b for "mean" (an empty cloud gives 0) and Z = sum_j w_h for "kernel" (0 where nobody is near, or
    where all weights underflow). Without y the sources are the queries, and j = i is included. Differentiable once in
    x, y, v and bandwidth. Rows beyond a length may hold anything, NaN too: their values never matter, their outputs and
    gradients are 0. It computes in the widest of the dtypes of x, y, v and bandwidth, float32 at least, under autocast
    too.

    Args:
        x: queries (B, N, D), D >= 1.
        v: values on the sources (B, H, M, C).
        bandwidth: one bandwidth a head (H,), above 0, in the units of x.
        radius: truncation radius, above 0, in the units of x.
        y: sources (B, M, D); x, with its lengths, if None.
        lengths: number of queries of each cloud (B,) int64; N if None.
        source_lengths: number of sources of each cloud (B,) int64; M if None. Only with y.
        normalize: "mean" or "kernel".
        geometry: `BallGeometry.build` of the same x, radius, lengths, y and source_lengths, to share among calls. Its
            shapes, device and radius are compared; on the CPU its lengths too, and one point of every tile.
        backend: "reference" (dense, the definition), "tiled" (near pairs of tiles, in torch), "native" (the same in C,
            for D <= 3 on the CPU, on torch.get_num_threads() threads; compiled on first use), "triton" (the same on
            CUDA, for D <= 3, in float32) or "auto": the fastest for these shapes and this device, in the same
            precision. Where "auto" would take "native" or "triton" but cannot, it takes "tiled" and warns once.

    Returns:
        The averages (B, H, N, C), in the dtype of v.

    Raises:
        ValueError: an argument does not fit. The values of bandwidth and lengths are checked on the CPU only: on an
            accelerator the check would stall the stream.
        BackendUnavailable: the requested backend cannot run here.
    """
    check_clouds(x, radius, lengths, y, source_lengths)
    check_values(x, v, bandwidth, y, normalize)
    if geometry is not None:
        geometry.check(x, radius, lengths, y, source_lengths)
    dtype = _widest(x, y, v, bandwidth)
    name = _choose(x, y, dtype) if backend == "auto" else backend
    if name not in KNOWN_BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(map(repr, KNOWN_BACKENDS))}, but is {name!r}")
    reason = _reason_against(name, x, dtype)
    if reason is not None:
        raise BackendUnavailable(
            f"backend {name!r} cannot run here; available are {', '.join(available_backends())}: {reason}"
        )
    with torch.autocast(x.device.type, enabled=False):
        return _BACKENDS[name](
            x,
            v,
            bandwidth,
            radius=float(radius),
            y=y,
            lengths=lengths,
            source_lengths=source_lengths,
            normalize=normalize,
            geometry=geometry,
        )


def _widest(*tensors: Tensor | None) -> torch.dtype:
    """Return what the convolution is computed in."""
    return compute_dtype(*(tensor for tensor in tensors if tensor is not None))


def _reason_against(name: str, x: Tensor | None = None, dtype: torch.dtype = torch.float32) -> str | None:
    """Return why a known backend cannot run, here or on these queries, as a phrase; None where it can."""
    if name == "triton":
        return triton_launch.reason_unavailable(x, dtype)
    return reason_unavailable(x) if name == "native" else None


def _choose(x: Tensor, y: Tensor | None, dtype: torch.dtype) -> str:
    """Choose the fastest backend for these shapes; the result differs by rounding only."""
    num_pairs = x.shape[0] * x.shape[1] * (x if y is None else y).shape[1]
    on_cpu = x.device.type == "cpu"
    fastest = "native" if on_cpu else "triton" if x.device.type == "cuda" else "tiled"
    if num_pairs <= DENSE_PAIRS[fastest]:
        return "reference"
    reason = _reason_against(fastest, x, dtype)
    if reason is None:
        return fastest
    if num_pairs <= DENSE_PAIRS["tiled"]:
        return "reference"
    if x.shape[-1] <= MAX_DIM and (on_cpu or dtype == torch.float32):
        _warn_once(fastest, reason)
    return "tiled"


@functools.cache
def _warn_once(fastest: str, reason: str) -> None:
    warnings.warn(
        "the ball convolution runs several times slower than it could, "
        f"as backend 'tiled' and not {fastest!r}: {reason}",
        stacklevel=4,
    )
