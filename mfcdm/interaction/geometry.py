"""Which points can interact at all: a Morton sort, tiles of 32 points, and the list of near pairs of tiles.

A geometry depends on positions and radius only. One geometry therefore serves every layer, every head and every
backward pass that sees the same positions, and it is built without gradients.
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from mfcdm.interaction.arguments import check_clouds
from mfcdm.interaction.boxes import TILE_SIZE, bounding_cube, compressed_rows, morton_order, near_list, tile_boxes
from mfcdm.interaction.reference import compute_dtype, valid_rows

# Near tiles a tile on average that an accelerator has places for at once: about 64 neighbours on a surface need 20.
ROOM = 64

# A tile's point outside of the tile's box by more than this share of the radius is no rounding of another dtype.
MOVED = 0.01


@dataclass(frozen=True, eq=False)
class BallGeometry:
    """The sorted tiles of a batch of clouds and the pairs of tiles that are closer than the radius.

    Row `query_order[b, s]` of cloud b stands at sorted position s; the first `query_lengths[b]` positions hold its
    points, the rest its padding. Tile k of cloud b holds positions k T to (k + 1) T - 1 and has the global index
    b query_tiles + k, so that no tile crosses clouds. The sources have the same layout. The near sources of global
    query tile q are `near_tiles[near_offsets[q] : near_offsets[q + 1]]`, ascending; a tile wholly of padding has none
    and is nobody's. Positions that moved need a new geometry: pairs that came within reach would be missed. `check`
    looks for that, on the CPU, at one point a tile.

    Attributes:
        radius: truncation radius R, in the units of the positions.
        self_interaction: whether the sources are the queries; the near list is then its own transpose.
        tile_size: T, the points of a tile.
        query_tiles: tiles of one cloud of queries, max(1, ceil(N / T)).
        source_tiles: tiles of one cloud of sources, max(1, ceil(M / T)).
        query_lengths: points of each cloud of queries (B,) int64.
        source_lengths: points of each cloud of sources (B,) int64.
        query_order: row at each sorted position (B, N) int64.
        source_order: row at each sorted position (B, M) int64.
        query_low: lower corners of the boxes of the query tiles (B query_tiles, D), +inf where a tile is empty.
        query_high: upper corners (B query_tiles, D), -inf where a tile is empty.
        source_low: lower corners of the boxes of the source tiles (B source_tiles, D).
        source_high: upper corners (B source_tiles, D).
        near_offsets: start of each query tile's part of `near_tiles` (B query_tiles + 1,) int64.
        near_tiles: global indices of near source tiles (P,) int64.
    """

    radius: float
    self_interaction: bool
    tile_size: int
    query_tiles: int
    source_tiles: int
    query_lengths: Tensor
    source_lengths: Tensor
    query_order: Tensor
    source_order: Tensor
    query_low: Tensor
    query_high: Tensor
    source_low: Tensor
    source_high: Tensor
    near_offsets: Tensor
    near_tiles: Tensor

    @classmethod
    @torch.no_grad()
    def build(
        cls,
        x: Tensor,
        radius: float,
        lengths: Tensor | None = None,
        y: Tensor | None = None,
        source_lengths: Tensor | None = None,
    ) -> "BallGeometry":
        """Sort the clouds, cut them into tiles and list the near pairs, in O(N log N) plus the pairs found.

        Args:
            x: queries (B, N, D).
            radius: truncation radius, in the units of x.
            lengths: number of queries of each cloud (B,), or None: all rows are points.
            y: sources (B, M, D), or None: the queries, with their lengths.
            source_lengths: number of sources of each cloud (B,); only with y.

        Returns:
            The geometry, on the device of x. An accelerator is synchronised once, for the number of near pairs; where
            a tile has more than `ROOM` near tiles on average, a few times more.

        Raises:
            ValueError: a shape, dtype, device, length or radius does not fit.
        """
        check_clouds(x, radius, lengths, y, source_lengths)
        self_interaction = y is None
        if y is None:
            y, source_lengths = x, lengths
        dtype = compute_dtype(x, y)
        is_query = valid_rows(lengths, x.shape[0], x.shape[1], x.device)
        is_source = valid_rows(source_lengths, y.shape[0], y.shape[1], y.device)
        queries, sources = x.detach().to(dtype), y.detach().to(dtype)

        low, extent = bounding_cube(torch.cat([queries, sources], 1), torch.cat([is_query, is_source], 1))
        query_order = morton_order(queries, is_query, low, extent)
        query_boxes = tile_boxes(queries, is_query, query_order)
        if self_interaction:
            source_order, source_boxes = query_order, query_boxes
        else:
            source_order = morton_order(sources, is_source, low, extent)
            source_boxes = tile_boxes(sources, is_source, source_order)
        room = None if x.device.type == "cpu" else ROOM
        near_offsets, near_tiles = near_list(query_boxes, source_boxes, float(radius), room)
        return cls(
            radius=float(radius),
            self_interaction=self_interaction,
            tile_size=TILE_SIZE,
            query_tiles=query_boxes[0].shape[1],
            source_tiles=source_boxes[0].shape[1],
            query_lengths=is_query.sum(1),
            source_lengths=is_source.sum(1),
            query_order=query_order,
            source_order=source_order,
            query_low=query_boxes[0].flatten(0, 1),
            query_high=query_boxes[1].flatten(0, 1),
            source_low=source_boxes[0].flatten(0, 1),
            source_high=source_boxes[1].flatten(0, 1),
            near_offsets=near_offsets,
            near_tiles=near_tiles,
        )

    @functools.cached_property
    def near_counts(self) -> list[int]:
        """The number of near source tiles of each query tile, on the host (one device synchronisation, once)."""
        return self.near_offsets.diff().tolist()

    @functools.cached_property
    def transpose(self) -> "BallGeometry":
        """The geometry with the roles of queries and sources exchanged; itself for a self-interaction."""
        if self.self_interaction:
            return self
        num_queries = self.near_offsets.shape[0] - 1
        every = torch.arange(num_queries, device=self.near_tiles.device)
        query = every.repeat_interleave(self.near_offsets.diff(), output_size=len(self.near_tiles))  # (P,)
        offsets, near = compressed_rows(self.near_tiles, query, self.source_low.shape[0], num_queries)
        return BallGeometry(
            radius=self.radius,
            self_interaction=False,
            tile_size=self.tile_size,
            query_tiles=self.source_tiles,
            source_tiles=self.query_tiles,
            query_lengths=self.source_lengths,
            source_lengths=self.query_lengths,
            query_order=self.source_order,
            source_order=self.query_order,
            query_low=self.source_low,
            query_high=self.source_high,
            source_low=self.query_low,
            source_high=self.query_high,
            near_offsets=offsets,
            near_tiles=near,
        )

    def check(
        self, x: Tensor, radius: float, lengths: Tensor | None, y: Tensor | None, source_lengths: Tensor | None
    ) -> None:
        """Refuse arguments that this geometry was not built for.

        Shapes, device and radius are compared everywhere. On the CPU, where a look at a value stalls nothing, so are
        the lengths, and one point of every tile must lie in the tile's box: a cloud that moved as a whole, or by noise,
        is noticed, one point that moved need not be.

        Raises:
            ValueError: the radius, a shape, the device or the lengths differ, or positions moved.
        """
        if float(radius) != self.radius:
            raise ValueError(f"radius is {radius}, but the geometry was built for radius {self.radius}")
        if (y is None) != self.self_interaction:
            built, given = ("without", "with") if self.self_interaction else ("with", "without")
            raise ValueError(f"the geometry was built {built} separate sources y, but is used {given} them")
        self._check_side("x", x, lengths, self.query_order, self.query_lengths, self.query_low, self.query_high)
        if y is not None:
            boxes = (self.source_low, self.source_high)
            self._check_side("y", y, source_lengths, self.source_order, self.source_lengths, *boxes)

    def _check_side(
        self, name: str, x: Tensor, lengths: Tensor | None, order: Tensor, built: Tensor, low: Tensor, high: Tensor
    ) -> None:
        if x.device != order.device:
            raise ValueError(f"{name} is on {x.device}, but the geometry is on {order.device}")
        shape = (*order.shape, low.shape[-1])
        if tuple(x.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, but the geometry was built for {shape}")
        if x.device.type != "cpu":
            return
        used = torch.full_like(built, x.shape[1]) if lengths is None else lengths.to(built.dtype)
        if not torch.equal(used, built):
            raise ValueError(
                f"the lengths of {name} are {used.tolist()}, but the geometry was built for {built.tolist()}"
            )
        first = order[:, :: self.tile_size, None].expand(-1, -1, x.shape[2])  # row of each tile's first point
        points = x.detach().gather(1, first).to(low.dtype)  # (B, tiles, D)
        tiles = max(1, first.shape[1])  # a cloud without rows has an empty tile
        low, high = (corner.view(x.shape[0], tiles, x.shape[2])[:, : first.shape[1]] for corner in (low, high))
        outside = torch.where(low > high, 0, torch.maximum(low - points, points - high))  # 0 in empty tiles
        if bool((outside > MOVED * self.radius).any()):
            raise ValueError(
                f"{name} has moved since the geometry was built: a point lies {outside.nan_to_num().max():.3g} outside "
                f"its tile, with a radius of {self.radius:.3g}; build a new one"
            )
