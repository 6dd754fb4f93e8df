"""The ball convolution and its gradients in Triton: what tiled.py computes, one program a tile of rows.

    out_bhi = 1/Z sum_j w_hij v_bhj,  w_hij = exp(-kappa_h u_ij) (1 - u_ij)^2,  u_ij = min(|x_i - y_j|^2 / R^2, 1)

First both sides are laid out in tile order, with 0 in slots without a point: positions as (4, slots), in units of about
the radius; features as (slabs, slots, BLOCK), where slab h K + k holds channels k BLOCK to (k + 1) BLOCK - 1 of head h.
Then one program takes one tile of rows and one slab and gathers from the near tiles of columns: nothing is scattered to
another program's rows, so there are no atomics and the result is deterministic. All arithmetic is in float32.

Addresses are 64-bit: a program's tile and slab are widened before anything is multiplied by them.
"""

import triton
from triton import language as tl

from mfcdm.interaction.reference import KERNEL_SCALE

FACTOR = tl.constexpr(KERNEL_SCALE)
SMALLEST_NORMALISER = tl.constexpr(2.0**-103)  # reference.smallest_normaliser(torch.float32)

# Sizes and strides change from call to call: one binary serves them all.
SIZES = ("num_rows", "num_channels", "num_blocks", "row_tiles", "column_tiles")
STRIDES = ("stride_b", "stride_h", "stride_n", "stride_c")


@triton.jit(do_not_specialize=(*SIZES, *STRIDES))
def lay_out_tile(
    to: tl.tensor,  # (slabs, slots, BLOCK), or (BLOCK, slots) with POINTS
    pairing: tl.tensor,  # sum_c feature average (H, slots); None: not wanted
    values: tl.tensor,  # (B, H, N, C) in any strides
    weight: tl.tensor,  # (B, H, N); None: 1
    average: tl.tensor,  # (B, H, N, C), contiguous; None without pairing
    order: tl.tensor,  # (B, N)
    lengths: tl.tensor,  # (B,)
    unit: tl.tensor,
    num_rows: tl.tensor,
    num_channels: tl.tensor,
    num_blocks: tl.tensor,
    row_tiles: tl.tensor,
    stride_b: tl.tensor,
    stride_h: tl.tensor,
    stride_n: tl.tensor,
    stride_c: tl.tensor,
    POINTS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Lay out unit weight values of one tile and head: positions, v_j of sources, or ghat_i = g_i / Z_i of queries."""
    tile, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    num_slots, num_heads = tl.num_programs(0).to(tl.int64) * TILE, tl.num_programs(1)
    cloud = tile // row_tiles
    position = (tile - cloud * row_tiles) * TILE + tl.arange(0, TILE)
    is_point = position < tl.load(lengths + cloud)
    row = tl.load(order + cloud * num_rows + position, mask=is_point, other=0)
    flat_row = (cloud * num_heads + head) * num_rows + row
    slot = tile * TILE + tl.arange(0, TILE)
    if weight is not None:
        scale = tl.load(weight + flat_row, mask=is_point, other=0.0)
    total = tl.zeros((TILE,), tl.float32)
    for block in range(num_blocks):
        lane = tl.arange(0, BLOCK)
        channel = (block * BLOCK + lane).to(tl.int64)
        wanted = is_point[:, None] & (channel < num_channels)[None, :]
        at = values + cloud * stride_b + head * stride_h + row[:, None] * stride_n + channel[None, :] * stride_c
        feature = tl.load(at, mask=wanted, other=0.0).to(tl.float32) * unit
        if weight is not None:
            feature *= scale[:, None]
        if pairing is not None:
            at = average + flat_row[:, None] * num_channels + channel[None, :]
            total += tl.sum(feature * tl.load(at, mask=wanted, other=0.0), 1)
        if POINTS:
            tl.store(to + lane[None, :] * num_slots + slot[:, None], feature)
        else:
            slab = head * num_blocks + block
            tl.store(to + (slab * num_slots + slot[:, None]) * BLOCK + lane[None, :], feature)
    if pairing is not None:
        tl.store(pairing + head * num_slots + slot, total)


@triton.jit
def load_points(points: tl.tensor, slot: tl.tensor, num_slots: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return the three coordinates of the points in these slots; those beyond D are 0."""
    return tl.load(points + slot), tl.load(points + num_slots + slot), tl.load(points + 2 * num_slots + slot)


@triton.jit
def clamp(u: tl.tensor, is_row: tl.tensor, is_column: tl.tensor) -> tl.tensor:
    """Return min(u, 1), and 1 where a slot holds no point: its weight is then 0 before any exponential. NaN stays."""
    u = tl.where(is_row[:, None] & is_column[None, :], u, 1.0)
    return tl.where(u >= 1.0, 1.0, u)


@triton.jit(do_not_specialize=SIZES)
def average_tile(
    out: tl.tensor,  # (B, H, N, C)
    inverse_z: tl.tensor,  # 1 / Z, 0 where nobody is near (B, H, N)
    values: tl.tensor,  # v_j (slabs, column slots, BLOCK)
    rows: tl.tensor,  # x_i (4, row slots)
    columns: tl.tensor,  # y_j (4, column slots)
    kappa: tl.tensor,  # (H,)
    near_offsets: tl.tensor,
    near_tiles: tl.tensor,
    row_order: tl.tensor,
    row_lengths: tl.tensor,
    column_lengths: tl.tensor,
    inverse_squared_radius: tl.tensor,
    num_rows: tl.tensor,
    num_channels: tl.tensor,
    num_blocks: tl.tensor,
    row_tiles: tl.tensor,
    column_tiles: tl.tensor,
    KERNEL: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Write out and 1 / Z of one tile of queries and one slab."""
    tile, slab = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head, block, cloud = slab // num_blocks, slab % num_blocks, tile // row_tiles
    num_slots = tl.num_programs(0).to(tl.int64) * TILE
    num_column_slots = num_slots // row_tiles * column_tiles
    lane, channel = tl.arange(0, TILE), tl.arange(0, BLOCK)
    position = (tile - cloud * row_tiles) * TILE + lane
    is_row = position < tl.load(row_lengths + cloud)
    num_columns = tl.load(column_lengths + cloud)
    x_0, x_1, x_2 = load_points(rows, tile * TILE + lane, num_slots)
    sharpness = tl.load(kappa + head)
    values += slab * num_column_slots * BLOCK

    sums = tl.zeros((TILE, BLOCK), tl.float32)
    weights = tl.zeros((TILE, TILE), tl.float32)
    for k in range(tl.load(near_offsets + tile), tl.load(near_offsets + tile + 1)):
        near = tl.load(near_tiles + k)
        slot = near * TILE + lane
        y_0, y_1, y_2 = load_points(columns, slot, num_column_slots)
        d_0, d_1, d_2 = x_0[:, None] - y_0[None, :], x_1[:, None] - y_1[None, :], x_2[:, None] - y_2[None, :]
        is_column = (near - cloud * column_tiles) * TILE + lane < num_columns
        u = clamp((d_0 * d_0 + d_1 * d_1 + d_2 * d_2) * inverse_squared_radius, is_row, is_column)
        w = tl.exp(-sharpness * u) * ((1.0 - u) * (1.0 - u))
        if KERNEL:
            w *= FACTOR
            weights += w
        v = tl.load(values + slot[:, None] * BLOCK + channel[None, :])
        sums = tl.dot(w, v, sums, input_precision=PRECISION)

    if KERNEL:
        z = tl.sum(weights, 1)
        z = tl.where(z <= SMALLEST_NORMALISER, float("inf"), z)
    else:
        z = tl.zeros((TILE,), tl.float32) + tl.maximum(num_columns, 1).to(tl.float32)
    is_slot = position < num_rows
    row = tl.load(row_order + cloud * num_rows + position, mask=is_slot, other=0)
    row += (cloud * (tl.num_programs(1) // num_blocks) + head) * num_rows
    average = tl.where(is_row[:, None], sums / z[:, None], 0.0)
    channel += block * BLOCK
    at = out + row[:, None] * num_channels + channel[None, :]
    tl.store(at, average, mask=is_slot[:, None] & (channel < num_channels)[None, :])
    tl.store(inverse_z + row, tl.where(is_row, 1.0 / z, 0.0), mask=is_slot & (block == 0))


@triton.jit(do_not_specialize=SIZES)
def sweep_tile(
    carried: tl.tensor,  # sum_j w_ij b_j (B, H, N, C); None: not wanted
    pulled: tl.tensor,  # sum_j S dw/du (x_i - y_j) of a slab (slabs, 3, B, N); None: not wanted
    spread: tl.tensor,  # sum_ij S w u of a slab and tile (slabs, row tiles); None: not wanted
    row_features: tl.tensor,  # a_i (slabs, row slots, BLOCK)
    column_features: tl.tensor,  # b_j (slabs, column slots, BLOCK)
    row_pairing: tl.tensor,  # s_i (H, row slots); None: 0
    column_pairing: tl.tensor,  # s_j (H, column slots); None: 0
    rows: tl.tensor,
    columns: tl.tensor,
    kappa: tl.tensor,
    near_offsets: tl.tensor,
    near_tiles: tl.tensor,
    row_order: tl.tensor,
    row_lengths: tl.tensor,
    column_lengths: tl.tensor,
    inverse_squared_radius: tl.tensor,
    num_rows: tl.tensor,
    num_channels: tl.tensor,
    num_blocks: tl.tensor,
    row_tiles: tl.tensor,
    column_tiles: tl.tensor,
    KERNEL: tl.constexpr,
    BOTH: tl.constexpr,  # S_ij + S_ji instead of S_ij: rows and columns are the same points
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Write the gradients of one tile of rows and one slab, with S_ij = a_i . b_j - s_i - s_j over the slab's channels.

    S is linear in the channels, so that the slabs of a head have only to be added; the pairings belong to the first.
    """
    tile, slab = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    head, block, cloud = slab // num_blocks, slab % num_blocks, tile // row_tiles
    num_slots = tl.num_programs(0).to(tl.int64) * TILE
    num_column_slots = num_slots // row_tiles * column_tiles
    lane, channel = tl.arange(0, TILE), tl.arange(0, BLOCK)
    own = tile * TILE + lane
    position = (tile - cloud * row_tiles) * TILE + lane
    is_row = position < tl.load(row_lengths + cloud)
    num_columns = tl.load(column_lengths + cloud)
    x_0, x_1, x_2 = load_points(rows, own, num_slots)
    sharpness = tl.load(kappa + head)
    row_features += slab * num_slots * BLOCK
    column_features += slab * num_column_slots * BLOCK
    if pulled is not None or spread is not None:
        a_i = tl.load(row_features + own[:, None] * BLOCK + channel[None, :])
    if BOTH:
        b_i = tl.load(column_features + own[:, None] * BLOCK + channel[None, :])
    first = block == 0
    if row_pairing is not None:
        s_i = tl.load(row_pairing + head * num_slots + own, mask=is_row & first, other=0.0)

    carry = tl.zeros((TILE, BLOCK), tl.float32)
    pull_0 = tl.zeros((TILE, TILE), tl.float32)
    pull_1 = tl.zeros((TILE, TILE), tl.float32)
    pull_2 = tl.zeros((TILE, TILE), tl.float32)
    swu = tl.zeros((TILE, TILE), tl.float32)
    for k in range(tl.load(near_offsets + tile), tl.load(near_offsets + tile + 1)):
        near = tl.load(near_tiles + k)
        slot = near * TILE + lane
        y_0, y_1, y_2 = load_points(columns, slot, num_column_slots)
        d_0, d_1, d_2 = x_0[:, None] - y_0[None, :], x_1[:, None] - y_1[None, :], x_2[:, None] - y_2[None, :]
        is_column = (near - cloud * column_tiles) * TILE + lane < num_columns
        u = clamp((d_0 * d_0 + d_1 * d_1 + d_2 * d_2) * inverse_squared_radius, is_row, is_column)
        e = tl.exp(-sharpness * u)
        if KERNEL:
            e *= FACTOR
        cut = (1.0 - u) * (1.0 - u)
        b_j = tl.load(column_features + slot[:, None] * BLOCK + channel[None, :])
        if carried is not None:
            carry = tl.dot(e * cut, b_j, carry, input_precision=PRECISION)
        if pulled is not None or spread is not None:
            s = tl.dot(a_i, tl.trans(b_j), input_precision=PRECISION)
            if BOTH:
                a_j = tl.load(row_features + slot[:, None] * BLOCK + channel[None, :])
                s = tl.dot(b_i, tl.trans(a_j), s, input_precision=PRECISION)
            if row_pairing is not None:
                s -= s_i[:, None]
            if column_pairing is not None:
                s_j = tl.load(column_pairing + head * num_column_slots + slot, mask=is_column & first, other=0.0)
                s -= s_j[None, :]
            s *= e
            if spread is not None:
                swu += s * (cut * u)
            if pulled is not None:
                s *= -(cut * sharpness + 2.0 * (1.0 - u))  # dw/du = -exp(-kappa u) (1 - u) (2 + kappa (1 - u))
                pull_0 += s * d_0
                pull_1 += s * d_1
                pull_2 += s * d_2

    is_slot = position < num_rows
    row = tl.load(row_order + cloud * num_rows + position, mask=is_slot, other=0)
    if carried is not None:
        at = carried + ((cloud * (tl.num_programs(1) // num_blocks) + head) * num_rows + row[:, None]) * num_channels
        channel += block * BLOCK
        written = is_slot[:, None] & (channel < num_channels)[None, :]
        tl.store(at + channel[None, :], tl.where(is_row[:, None], carry, 0.0), mask=written)
    if pulled is not None:
        num_flat_rows = num_slots // TILE // row_tiles * num_rows
        pulled += 3 * slab * num_flat_rows + cloud * num_rows + row
        tl.store(pulled, tl.where(is_row, tl.sum(pull_0, 1), 0.0), mask=is_slot)
        tl.store(pulled + num_flat_rows, tl.where(is_row, tl.sum(pull_1, 1), 0.0), mask=is_slot)
        tl.store(pulled + 2 * num_flat_rows, tl.where(is_row, tl.sum(pull_2, 1), 0.0), mask=is_slot)
    if spread is not None:
        tl.store(spread + slab * (num_slots // TILE) + tile, tl.sum(tl.sum(swu, 1), 0))


def interprets() -> bool:
    """Return whether these kernels are interpreted, on the CPU, rather than compiled: Triton decides on import."""
    return not isinstance(average_tile, triton.JITFunction)
