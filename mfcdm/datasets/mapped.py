"""Sharded archives that are mapped into memory and never loaded whole."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mfcdm.datasets.categories import choose
from mfcdm.datasets.mapped_index import open_part, read_index
from mfcdm.datasets.moments import Moments
from mfcdm.wording import counted

_MAX_MAPPED = 256  # shards at a time: each holds a file open, of which a process may have 1,024

Array = NDArray[Any]


class MappedArchive(Dataset[dict[str, Any]]):
    """Clouds of a folder that `python -m mfcdm.datasets.convert` has written; the system keeps in memory what it likes.

    Nothing but the places and labels of the clouds is loaded. An item is read when it is asked for, from any thread.
    Nothing is ever unpickled, and files outside the folder are refused.

    Args:
        path: folder with an index.json.
        split: "train", "val", "test", or whatever it has.
        category: one or more of its categories; None for all. Labels are positions in `categories`, the sorted names
            of those chosen, or all names in the archive's own order.

    Raises:
        FileNotFoundError: if the index or a file that it names is not there.
        ValueError: if the index is not one, the split or category is not there, or a file is not what the index says.
    """

    def __init__(self, path: str | Path, split: str = "train", category: str | Sequence[str] | None = None) -> None:
        self.path, self.split, self.category = Path(path), split, category
        index = read_index(self.path)
        if split not in index.splits:
            raise ValueError(f"{self.path} has no split {split!r}; it has {', '.join(sorted(index.splits))}")
        self.index, self._own = index, index.splits[split]
        self._maps: OrderedDict[int, tuple[Array, Any]] = OrderedDict()
        self._lock = threading.Lock()
        for number in range(len(self._own.shards)):
            self._shard(number)
        self.categories = index.categories
        self._edges = np.cumsum([0, *(shard.clouds for shard in self._own.shards)])  # first cloud of each shard
        self._starts = np.cumsum([0, *(shard.points for shard in self._own.shards)])  # and its first point
        self._offsets = self._read_offsets()
        self.labels = self._read_labels()
        self._kept: Array | None = None
        if category is not None:
            self._choose(category)

    def __len__(self) -> int:
        """Number of clouds."""
        return self._own.clouds if self._kept is None else len(self._kept)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"x": (N_i, D) float32}, and "label": int where there are classes.

        Raises:
            IndexError: if there is no such cloud.
            ValueError: if the cloud is damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"cloud {index} was asked for, but there are {len(self)}")
        item: dict[str, Any] = {"x": self.points(int(index) % len(self))}
        if self.labels is not None:
            item["label"] = int(self.labels[index])
        return item

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes map the files themselves."""
        return MappedArchive, (self.path, self.split, self.category)

    @property
    def dim(self) -> int:
        """D."""
        return self.index.dim

    @property
    def sizes(self) -> Array:
        """Points of every cloud, (S,) int64."""
        sizes: Array = np.diff(self._offsets)
        return sizes if self._kept is None else sizes[self._kept]

    def points(self, index: int, rows: Tensor | None = None) -> Tensor:
        """A copy of cloud `index`, 0 <= index < len, as float32 (N_i, D); or of so many of its points, by number.

        Raises:
            ValueError: if the file was cut since it was opened, or a coordinate is not finite.
        """
        place = index if self._kept is None else int(self._kept[index])
        number = int(np.searchsorted(self._edges, place, side="right")) - 1
        array, file = self._shard(number)
        # Reading behind the end of a file that was cut in the meantime would kill the process.
        if file.size() < self._own.shards[number].bytes:
            raise ValueError(f"{self.path / self._own.shards[number].file} was cut to {file.size()} bytes while in use")
        start, end = (int(self._offsets[place + k] - self._starts[number]) for k in (0, 1))
        cloud = array[start:end] if rows is None else array[start:end][rows.numpy()]
        x = torch.from_numpy(cloud.astype(np.float32))  # astype copies
        if not bool(x.isfinite().all()):
            bad = int((~x.isfinite().all(dim=1)).sum())
            raise ValueError(f"{self.source(index)} has {counted(bad, 'point')} with NaN or infinite coordinates")
        return x

    def source(self, index: int) -> str:
        """Where cloud `index` lies, for a complaint about it."""
        place = index if self._kept is None else int(self._kept[index])
        number = int(np.searchsorted(self._edges, place, side="right")) - 1
        return f"{self.path / self._own.shards[number].file}: cloud {place} of split {self.split}"

    def moments(self) -> Moments | None:
        """Mean and spread of all points, as the index has them; None where only some categories are chosen."""
        if self._kept is not None:
            return None
        return Moments(self._own.points, torch.tensor(self._own.mean, dtype=torch.float64), self._own.squares)

    def check(self) -> None:
        """Compare every file of the split with its sha256, which reads all of them.

        Raises:
            ValueError: if one differs.
        """
        for part in self._own.files():
            with (self.path / part.file).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != part.sha256:
                raise ValueError(f"{self.path / part.file} is damaged: its sha256 is not what index.json says")

    def _shard(self, number: int) -> tuple[Array, Any]:
        """The points of a shard, (P, D), and the mapped file below them."""
        with self._lock:
            found = self._maps.pop(number, None)
            if found is None:
                shard = self._own.shards[number]
                array = open_part(self.path, shard, self.index.dtype, (shard.points, self.index.dim))
                found = np.asarray(array), array.base
            self._maps[number] = found  # the last ones are those used last
            if len(self._maps) > _MAX_MAPPED:
                self._maps.popitem(last=False)
        return found

    def _read_offsets(self) -> Array:
        part, own = self._own.offsets, self._own
        offsets = np.array(open_part(self.path, part, "int64", (own.clouds + 1,)))
        grows = offsets[0] == 0 and offsets[-1] == own.points and bool((np.diff(offsets) > 0).all())
        if not grows or not np.array_equal(offsets[self._edges], self._starts):
            raise ValueError(f"{self.path / part.file} must grow from 0 to {own.points}, shard by shard: it is damaged")
        return offsets

    def _read_labels(self) -> Array | None:
        if (part := self._own.labels) is None:
            return None
        labels = np.array(open_part(self.path, part, "int64", (self._own.clouds,)))
        most = len(self.categories) if self.categories else 2**31
        if labels.min() < 0 or labels.max() >= most:
            raise ValueError(f"{self.path / part.file} must hold labels from 0 to {most - 1}: it is damaged")
        return labels

    def _choose(self, category: str | Sequence[str]) -> None:
        """Keep the clouds of some categories."""
        if not self.categories or self.labels is None:
            raise ValueError(f"{self.path} has no categories, so category={category!r} cannot be chosen")
        chosen = tuple(choose(category, self.categories, self.path).values())
        new = np.full(len(self.categories), -1)
        new[[self.categories.index(name) for name in chosen]] = np.arange(len(chosen))
        self._kept = np.flatnonzero(new[self.labels] >= 0)
        self.labels, self.categories = new[self.labels[self._kept]], chosen
        if not len(self._kept):
            raise ValueError(f"{self.path} has no cloud of {', '.join(chosen)} in split {self.split}")
