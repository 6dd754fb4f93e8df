"""The ball convolution over near pairs of tiles, in torch operations, with a backward pass that recomputes the weights.

Both passes only ever sum over the near sources of a tile of queries: no atomics, so the result is deterministic. With
ghat_i = g_i / Z_i and S_ij = dL/dw_ij = ghat_i . v_j - [kernel] ghat_i . out_i,

    dv_j     = sum_i w_ij ghat_i
    dx_i     = sum_jh S_ij dw/du (2 / R^2) (x_i - y_j),      dy_j = -sum_ih (the same)
    dkappa_h = -sum_ij S_ij w_ij u_ij

and w_ij = w_ji. So dv and dy are sums over the transposed near list, and for a self-interaction one sweep, over
S_ij + S_ji, gives both roles of x. The kernel normalisation is a mean with one channel more: a value 1 in the forward
pass (its sum is Z), paired with -ghat_i . out_i in the backward pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mfcdm.interaction.geometry import BallGeometry
from mfcdm.interaction.layout import Side
from mfcdm.interaction.reference import (
    KERNEL_SCALE,
    compute_dtype,
    sharpness,
    smallest_normaliser,
    unit_of_length,
)

# Memory for the intermediates of one block of near pairs: on a CPU they should stay in its caches, an accelerator wants
# larger blocks.
BLOCK_BYTES = {"cpu": 2**23}
BLOCK_BYTES_ELSEWHERE = 2**26


def ball_convolution_tiled(
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
    """Compute `ball_convolution_reference` from the near pairs of tiles alone.

    Arguments and result as there; memory is O(B H (N + M) C) and a constant.

    Args:
        x: queries (B, N, D).
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
    return _TiledConvolution.apply(x, y, v, kappa, geometry, normalize == "kernel")


class _TiledConvolution(torch.autograd.Function):
    """The normalised sums over near pairs, as a function of x, y, v and kappa."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor | None, v: Tensor, kappa: Tensor, geometry: BallGeometry, kernel: bool
    ) -> Tensor:
        dtype = kappa.dtype
        queries, sources = Side.queries(geometry), Side.sources(geometry)
        x_i = queries.positions(x, dtype)
        y_j = x_i if y is None else sources.positions(y, dtype)
        v_j = sources.tiles(_with_one(v.to(dtype)) if kernel else v.to(dtype))
        weights = _Weights.of(geometry, kappa, kernel)
        sums = queries.rows(_weighted_sums(geometry, weights, x_i, y_j, v_j))  # (B, H, N, C [+ 1])
        if kernel:
            sums, z = sums[..., :-1], sums[..., -1:]  # (B, H, N, C), (B, H, N, 1)
            z = torch.where(z <= smallest_normaliser(dtype), torch.inf, z)
        else:
            z = geometry.source_lengths.clamp(min=1).to(dtype)[:, None, None, None]  # (B, 1, 1, 1)
        out = sums / z
        ctx.geometry = geometry
        ctx.save_for_backward(x, y, v, kappa, z, out if kernel else None)
        return out.to(v.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, y, v, kappa, z, out = ctx.saved_tensors
        geometry: BallGeometry = ctx.geometry
        need_x, need_y, need_v, need_kappa = ctx.needs_input_grad[:4]
        dtype, num_channels = kappa.dtype, v.shape[-1]
        queries, sources = Side.queries(geometry), Side.sources(geometry)

        weights = _Weights.of(geometry, kappa, kernel=out is not None)
        with torch.autocast(g.device.type, enabled=False):
            ghat, values = g.to(dtype) / z, v.to(dtype)  # (B, H, N, C), (B, H, M, C)
            if out is not None:
                ghat, values = torch.cat([ghat, -(ghat * out).sum(-1, keepdim=True)], -1), _with_one(values)
            ghat_i, v_j = queries.tiles(ghat), sources.tiles(values)
            x_i = queries.positions(x, dtype)
            y_j = x_i if y is None else sources.positions(y, dtype)

            dx = dy = dv = dkappa = None
            if y is not None and need_x:
                dx, _, _ = _gradient_sums(geometry, weights, (x_i, ghat_i), (y_j, v_j), positions=True)
            if y is None and need_x:  # features whose products are S_ij + S_ji
                rows, columns = (x_i, torch.cat([v_j, ghat_i], -1)), (x_i, torch.cat([ghat_i, v_j], -1))
            else:
                rows, columns = (y_j, v_j), (x_i, ghat_i)
            need_positions = need_x if y is None else need_y
            if need_positions or need_v or need_kappa:
                dy, dv, dkappa = _gradient_sums(
                    geometry.transpose,
                    weights,
                    rows,
                    columns,
                    positions=need_positions,
                    carried=num_channels if need_v else 0,
                    sharpness=need_kappa,
                )
            if y is None and need_x:
                dx, dy, dkappa = dy, None, None if dkappa is None else dkappa / 2
            return (
                None if dx is None else queries.rows(dx)[:, 0].to(x.dtype),
                None if dy is None else sources.rows(dy)[:, 0].to(y.dtype),
                None if dv is None else sources.rows(dv).to(v.dtype),
                dkappa,
                None,
                None,
            )


def _with_one(values: Tensor) -> Tensor:
    """Append the channel whose weighted sum is Z."""
    return torch.cat([values, values.new_ones(*values.shape[:-1], 1)], -1)


@dataclass(frozen=True)
class _Weights:
    """What a block needs to compute w_hij: the truncation, the sharpness of each head, and a constant factor."""

    squared_radius: float  # in units of length
    kappa: Tensor  # (H,)
    factor: float

    @classmethod
    def of(cls, geometry: BallGeometry, kappa: Tensor, kernel: bool) -> "_Weights":
        radius = geometry.radius * unit_of_length(geometry.radius)
        return cls(radius**2, kappa, KERNEL_SCALE if kernel else 1.0)

    def distances(self, x_i: Tensor, y_j: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return u_ij (Q, T, K T) and the D differences x_i - y_j, from (D, Q, T) and (D, Q, K T)."""
        differences = [x_c[:, :, None] - y_c[:, None, :] for x_c, y_c in zip(x_i, y_j, strict=True)]
        u_ij = differences[0].square()
        for difference in differences[1:]:
            u_ij.addcmul_(difference, difference)
        return u_ij.div_(self.squared_radius).clamp_(max=1), differences

    def gaussian(self, u_ij: Tensor) -> Tensor:
        """Return exp(-kappa_h u_ij)  # (H, Q, T, K T)."""
        return (u_ij * -self.kappa[:, None, None, None]).exp_()

    def cut(self, u_ij: Tensor) -> Tensor:
        """Return the factor of w_hij that all heads share  # (Q, T, K T)."""
        return (1 - u_ij).square_().mul_(self.factor)


def _weighted_sums(geometry: BallGeometry, weights: _Weights, x_i: Tensor, y_j: Tensor, v_j: Tensor) -> Tensor:
    """Return sum_j w_hij v_hj over the near pairs  # (H, query tiles + 1, T, C)."""
    num_heads, _, tile_size, num_channels = v_j.shape
    sums = v_j.new_zeros(num_heads, x_i.shape[1], tile_size, num_channels)
    numbers_per_pair = num_heads * (1 + num_channels // tile_size) + len(x_i) + 2
    for tiles, near in _blocks(geometry, numbers_per_pair * v_j.element_size()):
        u_ij, _ = weights.distances(x_i[:, tiles], y_j[:, near].flatten(2))
        w_ij = weights.gaussian(u_ij).mul_(weights.cut(u_ij))
        sums[:, tiles] += w_ij @ _columns(v_j, near)
    return sums


def _gradient_sums(
    geometry: BallGeometry,
    weights: _Weights,
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    *,
    positions: bool = False,
    carried: int = 0,
    sharpness: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Sum the gradients over the near pairs, with S_hij = a_hi . b_hj the derivative by w_hij.

    Args:
        geometry: its queries are the rows.
        weights: the weights w_hij.
        rows: positions x_i (D, tiles + 1, T) and features a_i (H, tiles + 1, T, F).
        columns: positions y_j and features b_j, likewise.
        positions: whether to return sum_hj S dw/dx_i  # (1, tiles + 1, T, D).
        carried: how many channels c of b to carry back, sum_j w_hij b_hjc  # (H, tiles + 1, T, carried).
        sharpness: whether to return sum_ij S dw/dkappa_h  # (H,).
    """
    (x_i, a_i), (y_j, b_j) = rows, columns
    num_heads, num_tiles, tile_size, num_features = a_i.shape
    kappa = weights.kappa
    dx = x_i.new_zeros(num_tiles, tile_size, len(x_i)) if positions else None
    carry = b_j.new_zeros(num_heads, num_tiles, tile_size, carried) if carried else None
    dkappa = torch.zeros_like(kappa) if sharpness else None
    one_and_kappa = torch.stack([torch.ones_like(kappa), kappa])  # (2, H)
    numbers_per_pair = num_heads * (2 + num_features // tile_size) + len(x_i) + 6
    for tiles, near in _blocks(geometry, numbers_per_pair * a_i.element_size()):
        u_ij, differences = weights.distances(x_i[:, tiles], y_j[:, near].flatten(2))
        e_ij, cut_ij, b = weights.gaussian(u_ij), weights.cut(u_ij), _columns(b_j, near)
        if dx is not None or dkappa is not None:
            s_ij = (a_i[:, tiles] @ b.transpose(-1, -2)).mul_(e_ij).flatten(1)  # (H, Q T K T): S exp(-kappa u)
        if carry is not None:
            carry[:, tiles] += e_ij.mul_(cut_ij) @ b[..., :carried]
        if dkappa is not None:
            dkappa -= s_ij @ (cut_ij * u_ij).flatten()
        if dx is not None:
            # dw/du = -exp(-kappa u) (1 - u) (2 + kappa (1 - u)): summed over heads before anything else
            s_1, s_kappa = (one_and_kappa @ s_ij).view(2, *u_ij.shape)
            dw_du = s_kappa.mul_(cut_ij).add_(s_1.mul_(1 - u_ij), alpha=2 * weights.factor).neg_()  # (Q, T, K T)
            dx[tiles] += torch.stack([(dw_du * difference).sum(-1) for difference in differences], -1)
    if dx is not None:
        dx = dx[None] * (2 * unit_of_length(geometry.radius) / weights.squared_radius)  # du/dx_i = 2 (x_i - y_j) / R^2
    return dx, carry, dkappa


def _columns(tiles: Tensor, near: Tensor) -> Tensor:
    """Join the near tiles of each row of a block: (H, tiles, T, C), (Q, K) -> (H, Q, K T, C)."""
    num_heads, _, tile_size, num_channels = tiles.shape
    joined = tiles.index_select(1, near.flatten())  # (H, Q K, T, C)
    return joined.view(num_heads, near.shape[0], near.shape[1] * tile_size, num_channels)


def _blocks(geometry: BallGeometry, bytes_per_pair: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut the near list into blocks: Q tiles (Q,) and K near tiles for each (Q, K), within `BLOCK_BYTES`.

    Tiles with similarly many near tiles go together, so that few places of a block are filled with the empty last tile.
    A tile with too many near tiles for one block goes through several.
    """
    counts = geometry.near_counts
    device = geometry.near_tiles.device
    empty = geometry.source_low.shape[0]  # index of the tile that holds no point
    block_bytes = BLOCK_BYTES.get(device.type, BLOCK_BYTES_ELSEWHERE)
    capacity = max(1, block_bytes // (bytes_per_pair * geometry.tile_size**2))  # pairs of tiles
    order = sorted((tile for tile, count in enumerate(counts) if count), key=lambda tile: -counts[tile])
    start = 0
    while start < len(order):
        most = counts[order[start]]
        stop = start + 1
        while stop < len(order) and (stop - start + 1) * most <= capacity and 4 * counts[order[stop]] >= 3 * most:
            stop += 1
        tiles = torch.tensor(order[start:stop], device=device)
        first, end = geometry.near_offsets[tiles, None], geometry.near_offsets[tiles + 1, None]
        for k in range(0, most, capacity):
            place = first + torch.arange(k, min(k + capacity, most), device=device)  # (Q, K)
            near = geometry.near_tiles[place.clamp(max=len(geometry.near_tiles) - 1)]
            yield tiles, torch.where(place < end, near, empty)
        start = stop
