"""The definition of the ball-truncated convolution: dense torch, O(N M), differentiated by autograd.

Everything is written with u = min(r^2 / R^2, 1), the squared distance in units of the squared radius. The weight is
then exactly w_h = exp(-kappa_h u) (1 - u)^2 with kappa_h = R^2 / (2 bandwidth_h^2): the cut-off needs no second mask,
because (1 - u)^2 vanishes at u = 1, and no exponent is ever larger than kappa_h.
"""

import math

import torch
from torch import Tensor

# With normalize="kernel" all weights carry this factor, which cancels in the quotient. Being a power of two it changes
# no digit; it keeps Z away from the subnormal numbers, where w / Z and g / Z would overflow.
KERNEL_SCALE = 2.0**60


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the widest dtype among the tensors, float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def unit_of_length(radius: float) -> float:
    """Return the power of two s with s R in [1/2, 1).

    Coordinates times s are exact, and the squares of distances near R neither overflow nor underflow, whatever the
    scale of the cloud.
    """
    return math.ldexp(1.0, -math.frexp(radius)[1])


def sharpness(bandwidth: Tensor, radius: float) -> Tensor:
    """Return kappa_h = R^2 / (2 bandwidth_h^2), the exponent at the rim of the ball  # (H,)."""
    unit = unit_of_length(radius)  # so that the derivative, of order R^2 / bandwidth^3, is representable
    kappa = 0.5 * ((radius * unit) / (bandwidth * unit)) ** 2
    return kappa.clamp_max(torch.finfo(kappa.dtype).max)  # infinity times the distance 0 would be NaN


def smallest_normaliser(dtype: torch.dtype) -> float:
    """Return the (scaled) kernel sum below which nobody counts as near.

    Unscaled this is of the order of 1e-49 in float32: only sums that underflow anyway are below it, and 1 / Z stays
    finite.
    """
    info = torch.finfo(dtype)
    return info.tiny / info.eps


def valid_rows(lengths: Tensor | None, num_clouds: int, num_rows: int, device: torch.device) -> Tensor:
    """Return which rows are points rather than padding  # (B, N) bool."""
    if lengths is None:
        return torch.ones(num_clouds, num_rows, dtype=torch.bool, device=device)
    return torch.arange(num_rows, device=device) < lengths[:, None]


def ball_convolution_reference(
    x: Tensor,
    v: Tensor,
    bandwidth: Tensor,
    *,
    radius: float,
    y: Tensor | None = None,
    lengths: Tensor | None = None,
    source_lengths: Tensor | None = None,
    normalize: str = "mean",
) -> Tensor:
    """Sum the values of the sources in a ball about each query, all pairs at once.

    out_bhi = 1/Z sum_{j < source_len_b} w_h(|x_i - y_j|) v_bhj. Arguments as for `mfcdm.interaction.ball_convolution`,
    which validates them; memory is O(B H N M).

    Args:
        x: queries (B, N, D).
        v: values on the sources (B, H, M, C).
        bandwidth: bandwidths (H,), in the units of x.
        radius: truncation radius, in the units of x.
        y: sources (B, M, D); x, with its lengths, if None.
        lengths: number of queries of each cloud (B,).
        source_lengths: number of sources of each cloud (B,).
        normalize: "mean" or "kernel".

    Returns:
        The convolution (B, H, N, C), in the dtype of v.
    """
    if y is None:
        y, source_lengths = x, lengths
    dtype = compute_dtype(x, y, v, bandwidth)
    is_query = valid_rows(lengths, x.shape[0], x.shape[1], x.device)  # (B, N)
    is_source = valid_rows(source_lengths, y.shape[0], y.shape[1], y.device)  # (B, M)

    # Padding may be NaN: it is replaced before any arithmetic, so that neither a value nor a gradient meets NaN * 0.
    unit = unit_of_length(radius)
    x_i = torch.where(is_query[..., None], x, 0).to(dtype) * unit  # (B, N, D)
    y_j = torch.where(is_source[..., None], y, 0).to(dtype) * unit  # (B, M, D)
    v_j = torch.where(is_source[:, None, :, None], v, 0).to(dtype)  # (B, H, M, C)

    difference = x_i[:, :, None, :] - y_j[:, None, :, :]  # (B, N, M, D)
    u_ij = (difference.square().sum(-1) / (radius * unit) ** 2).clamp(max=1)  # (B, N, M)
    cut_ij = (1 - u_ij).square() * is_source[:, None, :]  # (B, N, M)
    if normalize == "kernel":
        cut_ij = cut_ij * KERNEL_SCALE
    kappa_h = sharpness(bandwidth.to(dtype), radius)[:, None, None]  # (H, 1, 1)
    w_ij = torch.exp(-kappa_h * u_ij[:, None]) * cut_ij[:, None]  # (B, H, N, M)

    sums = w_ij @ v_j  # (B, H, N, C)
    if normalize == "kernel":
        z = w_ij.sum(-1, keepdim=True)  # (B, H, N, 1)
        nobody = z <= smallest_normaliser(dtype)
        out = torch.where(nobody, 0, sums / torch.where(nobody, 1, z))
    else:
        out = sums / is_source.sum(1).clamp(min=1).to(dtype)[:, None, None, None]
    return torch.where(is_query[:, None, :, None], out, 0).to(v.dtype)
