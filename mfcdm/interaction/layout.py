"""Rows of clouds to tiles and back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mfcdm.interaction.geometry import BallGeometry
from mfcdm.interaction.reference import unit_of_length, valid_rows


@dataclass(frozen=True)
class Side:
    """Takes rows of one side (queries or sources) to its tiles and back.

    Tiles lie flat, (heads, B tiles + 1, T, channels). Slots without a point are 0, and so is the last tile, which fills
    up short rows of a block: a 0 among the values, where Z has its 1 too, makes the weight irrelevant.
    """

    order: Tensor  # (B, N)
    is_point: Tensor  # (B, N) at sorted positions
    num_tiles: int
    tile_size: int
    unit: float

    @classmethod
    def queries(cls, geometry: BallGeometry) -> "Side":
        """Take the queries' side of a geometry."""
        order = geometry.query_order
        is_point = valid_rows(geometry.query_lengths, order.shape[0], order.shape[1], order.device)
        return cls(order, is_point, geometry.query_tiles, geometry.tile_size, unit_of_length(geometry.radius))

    @classmethod
    def sources(cls, geometry: BallGeometry) -> "Side":
        """Take the sources' side of a geometry."""
        order = geometry.source_order
        is_point = valid_rows(geometry.source_lengths, order.shape[0], order.shape[1], order.device)
        return cls(order, is_point, geometry.source_tiles, geometry.tile_size, unit_of_length(geometry.radius))

    def positions(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Lay out coordinates in units of about the radius: (B, N, D) -> (D, B tiles + 1, T)."""
        return self.tiles(x.to(dtype)[:, None] * self.unit)[0].permute(2, 0, 1).contiguous()

    def tiles(self, rows: Tensor) -> Tensor:
        """Lay out rows: (B, L, N, C) -> (L, B tiles + 1, T, C)."""
        num_clouds, num_rows = self.order.shape
        num_heads, num_channels = rows.shape[1], rows.shape[3]
        index = self.order[:, None, :, None].expand(-1, num_heads, -1, num_channels)
        ordered = torch.where(self.is_point[:, None, :, None], rows.gather(2, index), 0)  # (B, L, N, C)
        flat = rows.new_zeros(num_heads, num_clouds * self.num_tiles + 1, self.tile_size, num_channels)
        slots = flat[:, :-1].view(num_heads, num_clouds, self.num_tiles * self.tile_size, num_channels)
        slots[:, :, :num_rows] = ordered.transpose(0, 1)
        return flat

    def rows(self, tiles: Tensor) -> Tensor:
        """Undo `tiles`, with 0 in the padding: (L, B tiles + 1, T, C) -> (B, L, N, C)."""
        num_clouds, num_rows = self.order.shape
        num_heads, num_channels = tiles.shape[0], tiles.shape[3]
        slots = (
            tiles[:, :-1]
            .view(num_heads, num_clouds, self.num_tiles * self.tile_size, num_channels)
            .transpose(0, 1)[:, :, :num_rows]
        )
        slots = torch.where(self.is_point[:, None, :, None], slots, 0)
        index = self.order[:, None, :, None].expand_as(slots)
        return torch.empty_like(slots, memory_format=torch.contiguous_format).scatter_(2, index, slots)
