"""The ball convolution in Triton, on CUDA, as two operators of torch: the averages, and the sweep for their gradients.

The operators take flat tensors, and their shapes and gradients are registered, so that torch.compile keeps them whole.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mfcdm.interaction.boxes import TILE_SIZE
from mfcdm.interaction.geometry import BallGeometry
from mfcdm.interaction.reference import compute_dtype, sharpness, unit_of_length
from mfcdm.interaction.triton_launch import average, block_of, device_of, sides, sweep


def ball_convolution_triton(
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
    """Compute `ball_convolution_reference` from the near pairs of tiles alone, on CUDA, in float32.

    out_bhi = 1/Z sum_{j < source_len_b} w_h(|x_i - y_j|) v_bhj. Arguments and result as there; memory is
    O(B H (N + M) C).

    Args:
        x: queries (B, N, D), D at most 3.
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
    """
    if geometry is None:
        geometry = BallGeometry.build(x, radius, lengths, y, source_lengths)
    dtype = compute_dtype(x, v, bandwidth) if y is None else compute_dtype(x, y, v, bandwidth)
    kappa = sharpness(bandwidth.to(dtype), radius)  # (H,)
    flat = [geometry.query_order, geometry.source_order, geometry.query_lengths, geometry.source_lengths]
    flat += [geometry.near_offsets, geometry.near_tiles]
    differentiates = any(t is not None and t.requires_grad for t in (x, y, v, kappa))
    if differentiates and torch.is_grad_enabled():  # only the sweep over the sources needs the transposed list
        flat += [geometry.transpose.near_offsets, geometry.transpose.near_tiles]
    return _average(x, y, v, kappa, flat, geometry.radius, normalize == "kernel")[0].to(v.dtype)


_INPUTS = "Tensor x, Tensor? y, Tensor v, Tensor kappa, Tensor[] geometry, float radius"


@torch.library.custom_op("mfcdm::ball_average", mutates_args=(), schema=f"({_INPUTS}, bool kernel) -> (Tensor, Tensor)")
def _average(
    x: Tensor, y: Tensor | None, v: Tensor, kappa: Tensor, geometry: Sequence[Tensor], radius: float, kernel: bool
) -> tuple[Tensor, Tensor]:
    """Return out (B, H, N, C), in float32 if the backward pass needs it, and 1 / Z (B, H, N)."""
    out, inverse_z = _average_shapes(x, y, v, kappa, geometry, radius, kernel)
    if out.numel() == 0 or v.numel() == 0:
        return out.zero_(), inverse_z.zero_()
    queries, sources = sides(geometry, radius)
    with device_of(x):
        x_i = queries.points(x)
        y_j = x_i if y is None else sources.points(y)
        v_j, _ = sources.features(v, block_of(v.shape[3]))
        average(out, inverse_z, v_j, (queries, x_i), (sources, y_j), kappa.contiguous(), kernel=kernel)
    return out, inverse_z


@_average.register_fake
def _average_shapes(
    x: Tensor, y: Tensor | None, v: Tensor, kappa: Tensor, geometry: Sequence[Tensor], radius: float, kernel: bool
) -> tuple[Tensor, Tensor]:
    shape = (*v.shape[:2], x.shape[1])
    out = v.new_empty((*shape, v.shape[3]), dtype=kappa.dtype if kernel else v.dtype)
    return out, kappa.new_empty(shape)


@torch.library.custom_op(
    "mfcdm::ball_sweep",
    mutates_args=(),
    schema=f"(Tensor g, Tensor? out, Tensor inverse_z, {_INPUTS}, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _sweep(
    g: Tensor,
    out: Tensor | None,
    inverse_z: Tensor,
    x: Tensor,
    y: Tensor | None,
    v: Tensor,
    kappa: Tensor,
    geometry: Sequence[Tensor],
    radius: float,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, y, v and kappa, empty where not wanted; out is None with the mean normalisation."""
    need_x, need_y, need_v, need_kappa = wanted
    dx, dy, dv, dkappa = _sweep_shapes(g, out, inverse_z, x, y, v, kappa, geometry, radius, wanted)
    if g.numel() == 0 or v.numel() == 0:
        return dx.zero_(), dy.zero_(), dv.zero_(), dkappa.zero_()
    queries, sources = sides(geometry, radius)
    block, kernel, both = block_of(v.shape[3]), out is not None, y is None and need_x
    with device_of(x):
        x_i = queries.points(x)
        y_j = x_i if y is None else sources.points(y)
        v_j, _ = sources.features(v, block)
        ghat_i, s_i = queries.features(g, block, weight=inverse_z, average=out)
        num_slabs, kappa = len(v_j), kappa.contiguous()
        need_positions = need_x if y is None else need_y
        if need_positions or need_v or need_kappa:
            pulled = kappa.new_empty(num_slabs, 3, *v.shape[0:3:2]) if need_positions else None
            spread = kappa.new_empty(num_slabs, y_j.shape[1] // TILE_SIZE) if need_kappa else None
            sweep(
                (dv if need_v else None, pulled, spread),
                (v_j, ghat_i),
                (s_i if both else None, s_i),
                (sources, y_j),
                (queries, x_i),
                kappa,
                v.shape[3],
                kernel=kernel,
                both=both,
            )
            if pulled is not None:
                (dx if y is None else dy).copy_(_position_gradient(pulled, x.shape[2], radius))
            if spread is not None:  # with both, every pair was counted twice
                dkappa.copy_(spread.view(len(kappa), -1).sum(1, dtype=torch.float64) / (-2 if both else -1))
        if y is not None and need_x:
            pulled = kappa.new_empty(num_slabs, 3, *x.shape[:2])
            sweep(
                (None, pulled, None),
                (ghat_i, v_j),
                (s_i, None),
                (queries, x_i),
                (sources, y_j),
                kappa,
                v.shape[3],
                kernel=kernel,
                both=False,
            )
            dx.copy_(_position_gradient(pulled, x.shape[2], radius))
    return dx, dy, dv, dkappa


@_sweep.register_fake
def _sweep_shapes(
    g: Tensor,
    out: Tensor | None,
    inverse_z: Tensor,
    x: Tensor,
    y: Tensor | None,
    v: Tensor,
    kappa: Tensor,
    geometry: Sequence[Tensor],
    radius: float,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dy, dv, dkappa = (
        t.new_empty(t.shape) if needed and t is not None else kappa.new_empty(0)
        for t, needed in zip((x, y, v, kappa), wanted, strict=True)
    )
    return dx, dy, dv, dkappa


def _position_gradient(pulled: Tensor, dim: int, radius: float) -> Tensor:
    """Add the slabs: sum S dw/du (x_i - y_j) (slabs, 3, B, N) times du/dx_i = 2 (x_i - y_j) / R^2  # (B, N, D)."""
    unit = unit_of_length(radius)
    return pulled.sum(0)[:dim].movedim(0, -1) * (2 * unit / (radius * unit) ** 2)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, y, v, kappa, geometry, ctx.radius, kernel = inputs
    out, inverse_z = output
    ctx.save_for_backward(out if kernel else None, inverse_z, x, y, v, kappa, *geometry)


def _differentiate(ctx: Any, g: Tensor, _: Tensor) -> tuple[Any, ...]:
    out, inverse_z, x, y, v, kappa, *geometry = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:4])
    gradients = _sweep(g, out, inverse_z, x, y, v, kappa, geometry, ctx.radius, wanted)
    dx, dy, dv, dkappa = (d if needed else None for d, needed in zip(gradients, wanted, strict=True))
    return dx, dy, dv, dkappa, [None] * len(geometry), None, None


_average.register_autograd(_differentiate, setup_context=_save)
