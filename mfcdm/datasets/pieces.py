"""The clouds of an archive where they lie: each is read when it is asked for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mfcdm.datasets.archive_tree import Leaf
from mfcdm.datasets.stored import Array


class Pieces(ABC):
    """Clouds (N_i, D) in the file's own type."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def cloud(self, index: int) -> Array:
        """Cloud `index`."""

    @abstractmethod
    def leaves(self) -> Sequence[Leaf]:
        """The arrays that they lie in."""

    @abstractmethod
    def largest(self) -> tuple[int, ...]:
        """Shape of the largest cloud."""


@dataclass(frozen=True)
class Stacked(Pieces):
    """Clouds (S, N, D) in one array, of which each owns its first rows, or all."""

    leaf: Leaf
    lengths: Array | None = None

    def __len__(self) -> int:
        """S."""
        return self.leaf.shape[0]

    def cloud(self, index: int) -> Array:
        """Cloud `index`."""
        (cloud,) = self.leaf.rows(index, index + 1)
        return cloud if self.lengths is None else cloud[: self.lengths[index]]

    def leaves(self) -> Sequence[Leaf]:
        """The array."""
        return (self.leaf,)

    def largest(self) -> tuple[int, ...]:
        """(N, D): padding is read too."""
        return self.leaf.shape[1:]


@dataclass(frozen=True)
class EndToEnd(Pieces):
    """Points (sum N_i, D) in one array: cloud i has those from edges[i] to edges[i + 1]."""

    leaf: Leaf
    edges: Array

    def __len__(self) -> int:
        """Number of clouds."""
        return len(self.edges) - 1

    def cloud(self, index: int) -> Array:
        """Cloud `index`."""
        return self.leaf.rows(int(self.edges[index]), int(self.edges[index + 1]))

    def leaves(self) -> Sequence[Leaf]:
        """The array."""
        return (self.leaf,)

    def largest(self) -> tuple[int, ...]:
        """Of the cloud with the most points."""
        return int(np.diff(self.edges).max()), *self.leaf.shape[1:]


@dataclass(frozen=True)
class Apart(Pieces):
    """One array (N_i, D) a cloud."""

    each: Sequence[Leaf]

    def __len__(self) -> int:
        """Number of clouds."""
        return len(self.each)

    def cloud(self, index: int) -> Array:
        """Cloud `index`."""
        return self.each[index].whole()

    def leaves(self) -> Sequence[Leaf]:
        """The arrays."""
        return self.each

    def largest(self) -> tuple[int, ...]:
        """Of the array with the most numbers."""
        return max((leaf.shape for leaf in self.each), key=math.prod)
