"""A mapped archive as a set of clouds: what is asked for is read, scaled and normalised then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mfcdm.datasets.clouds import CloudDataset, Clouds
from mfcdm.datasets.mapped import MappedArchive
from mfcdm.datasets.memory import check_fits
from mfcdm.datasets.moments import Moments


@dataclass(frozen=True)
class Change:
    """What `MappedClouds.map` was given."""

    of: Callable[[Tensor, int], Tensor]
    pointwise: bool


@dataclass(frozen=True)
class MappedClouds(Clouds):
    """Clouds that stay in their files.

    Args:
        x: (S, N, D) on torch's meta device: the shape of the padded whole, without its numbers.
        archive: the clouds as they are in the files.
        changes: of every cloud that is read, in order.
    """

    archive: MappedArchive = field(kw_only=True)
    changes: tuple[Change, ...] = field(default=(), kw_only=True)

    @classmethod
    def over(cls, archive: MappedArchive) -> MappedClouds:
        """All clouds of an archive."""
        sizes = torch.from_numpy(archive.sizes)
        return cls(
            torch.empty(len(archive), int(sizes.max()), archive.dim, device="meta"),
            None if bool((sizes == sizes[0]).all()) else sizes,
            None if archive.labels is None else torch.from_numpy(archive.labels),
            archive.categories,
            archive=archive,
        )

    def __getitem__(self, index: Tensor | slice) -> Clouds:
        """Some of the clouds, in memory."""
        chosen = torch.arange(len(self))[index]
        x = torch.zeros(len(chosen), *self.x.shape[1:])
        for row, number in zip(x, chosen.tolist(), strict=True):
            cloud = self.cloud(number)
            row[: len(cloud)] = cloud
        lengths = None if self.lengths is None else self.lengths[chosen]
        return Clouds(x, lengths, None if self.labels is None else self.labels[chosen], self.categories)

    def cloud(self, index: int, rows: Tensor | None = None) -> Tensor:
        """Cloud `index`, (N_i, D); of so many of its points, where asked for, only those are read if that is enough."""
        early = rows is not None and all(change.pointwise for change in self.changes)
        x = self.archive.points(index, rows if early else None)
        for change in self.changes:
            x = change.of(x, index)
        return x if rows is None or early else x[rows]

    def points(self) -> list[Tensor]:
        """All clouds in memory; `each` reads them one by one.

        Raises:
            MemoryError: if they would fill more than half of the machine's memory.
        """
        size = 4 * self.x.shape[2] * int(self.archive.sizes.sum())
        check_fits(size, f"the clouds of {self.archive.path}", "; read them one by one")
        return super().points()

    def map(self, change: Callable[[Tensor, int], Tensor], pointwise: bool = False) -> MappedClouds:
        """The set with every cloud changed, when it is read."""
        return replace(self, changes=(*self.changes, Change(change, pointwise)))

    def moments(self) -> Moments:
        """Mean and spread of all points, from the index where it has them, else read cloud by cloud."""
        known = None if self.changes else self.archive.moments()
        return Moments.of(self.each()) if known is None else known


def clouds_of(dataset: CloudDataset) -> Clouds:
    """The clouds of a data set: in their files where they are mapped, in memory where they are not.

    Raises:
        ValueError: as `Clouds.of`.
    """
    return MappedClouds.over(dataset) if isinstance(dataset, MappedArchive) else Clouds.of(dataset)
