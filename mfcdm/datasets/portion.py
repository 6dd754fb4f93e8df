"""Some clouds of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mfcdm.datasets.clouds import CloudDataset


@dataclass(frozen=True)
class Portion:
    """Some clouds of a data set, which are a data set too.

    Args:
        dataset: all of them.
        indices: those chosen, in order.
    """

    dataset: CloudDataset
    indices: Sequence[int]

    @classmethod
    def all_of(cls, dataset: CloudDataset | Portion) -> Portion:
        """All clouds of a data set; a portion as it is."""
        return dataset if isinstance(dataset, Portion) else cls(dataset, range(len(dataset)))

    def __len__(self) -> int:
        """How many are chosen."""
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """The item at a position among those chosen."""
        return self.dataset[self.indices[position]]

    def source(self, position: int) -> str:
        """Where it comes from."""
        source, index = getattr(self.dataset, "source", None), self.indices[position]
        return f"cloud {index}" if source is None else source(index)

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the classes, where known."""
        return tuple(getattr(self.dataset, "categories", ()))
