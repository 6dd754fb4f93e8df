"""Whom a particle's local interaction sums over: all particles near it, or at very high cardinality a subset."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mfcdm.interaction import BallGeometry, ball_convolution, uses_geometry


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Particles in units of the radius, sorted once for all layers, heads and both passes.

    Attributes:
        x: (B, N, D) particles, in units of the radius.
        lengths: (B,) int64 particles that each cloud owns, None for all.
        chosen: (B, M) rows of x that are sources, None where all are.
        source_lengths: (B,) int64 of them that each cloud owns; None where all rows are sources.
        geometry: of x and the sources, None where the backend uses none.
        backend: of `ball_convolution`.
    """

    x: Tensor
    lengths: Tensor | None
    chosen: Tensor | None
    source_lengths: Tensor | None
    geometry: BallGeometry | None
    backend: str

    @classmethod
    def build(cls, x: Tensor, lengths: Tensor | None, max_sources: int, backend: str) -> Self:
        """Choose the sources and sort, where the backend sorts.

        A cloud of n > max_sources particles is represented by max_sources of them, in even strides over its rows: the
        average over a subset differs from that over all by a standard error, which falls like max_sources^(-1/2).
        """
        chosen = source_lengths = y = None
        if x.shape[1] > max_sources:
            chosen, source_lengths = _strided(x, lengths, max_sources)
            y = _rows(x, chosen)
        geometry = None
        if uses_geometry(x, y, backend):
            sources = None if y is None else y.detach()
            geometry = BallGeometry.build(x.detach(), 1.0, lengths, sources, source_lengths)
        return cls(x, lengths, chosen, source_lengths, geometry, backend)

    def average(self, v: Tensor, bandwidth: Tensor) -> Tensor:
        """Mean over the sources of their values v (B, H, N, C) under the weights w_h -> (B, H, N, C)."""
        y = None
        if self.chosen is not None:
            y, v = _rows(self.x, self.chosen), _rows(v, self.chosen[:, None].expand(-1, v.shape[1], -1))
        return ball_convolution(
            self.x,
            v,
            bandwidth,
            radius=1.0,
            y=y,
            lengths=self.lengths,
            source_lengths=self.source_lengths,
            geometry=self.geometry,
            backend=self.backend,
        )


def _strided(x: Tensor, lengths: Tensor | None, num_sources: int) -> tuple[Tensor, Tensor]:
    """Rows (B, num_sources) in even strides over each cloud's own, and how many of them count, (B,)."""
    if lengths is None:
        lengths = torch.full((x.shape[0],), x.shape[1], device=x.device)
    # Rows k n / M; a cloud of fewer particles than M has all of its own first.
    rows = torch.arange(num_sources, device=x.device) * lengths.clamp_min(num_sources)[:, None] // num_sources
    return rows, lengths.clamp_max(num_sources)


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """x (..., N, C) at rows (..., M) -> (..., M, C)."""
    return x.gather(-2, rows[..., None].expand(*rows.shape, x.shape[-1]))
