"""Archives of clouds: npz, npy and h5 files."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mfcdm.datasets.archive_layout import ABOUT, Labelled, clouds_by_category, flat
from mfcdm.datasets.archive_tree import Leaf, Node, opened, readable
from mfcdm.datasets.categories import choose
from mfcdm.datasets.memory import check_fits
from mfcdm.datasets.pieces import Pieces
from mfcdm.datasets.precision import as_float32


class CloudArchive(Dataset[dict[str, Any]]):
    """Clouds from one file.

    Layouts, in .npz and .h5 alike; a lone array, in .npy too, serves every split:

    * an array (S, N, D) under any name, or one for each split;
    * `points` (S, N, D) and `lengths` (S,): cloud i owns its first lengths[i] rows;
    * `points` (sum N_i, D) and `offsets` (S,) or (S + 1,): where each cloud begins, and the end;
    * one array (N_i, D) a cloud, in the order of the names, as `np.savez(file, *clouds)` writes them;
    * split/... or category/split/... (groups, or "/" in the names of an npz) over any of these: category/split is
      what DPM's shapenet.hdf5 has.

    `labels` (S,) may stand beside `points`; categories give labels by themselves. Arrays are kept in the file's own
    dtype; an item is float32. An npy file is mapped, all others are read into memory. Nothing is ever unpickled, and
    links of an h5 file are not followed.

    Args:
        path: .npz, .npy, .h5 or .hdf5 file.
        split: name of an array or a level.
        category: one or more categories of a file that has them, by name or ShapeNet synset; None for all.
        key: name of the array or level to read, for instance "data" or "poses/points", where the layout is another.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not an archive of clouds, or lacks the split, category or key.
        MemoryError: if the clouds do not fit into memory.
    """

    categories: tuple[str, ...]
    labels: list[int] | None

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        category: str | Sequence[str] | None = None,
        key: str | None = None,
    ) -> None:
        self.path, self.split, self.category, self.key = Path(path), split, category, key
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is not a file")
        with ExitStack() as files:
            root = files.enter_context(opened(self.path))
            found = self._below(root) if key is not None else clouds_by_category(root, split, str(self.path))
            self._choose(found)
            self._take(files)

    def __len__(self) -> int:
        """Number of clouds."""
        return int(self._edges[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"x": (N_i, D) float32}, and "label": int where it is known."""
        item: dict[str, Any] = {"x": self.points(index)}
        if self.labels is not None:
            item["label"] = self.labels[index]
        return item

    def points(self, index: int) -> Tensor:
        """Cloud `index`, (N_i, D) float32."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"cloud {index} was asked for, but there are {len(self)}")
        index = index % len(self)
        part = int(np.searchsorted(self._edges, index, side="right")) - 1
        with readable(self.path):
            cloud = self._parts[part].cloud(index - int(self._edges[part]))
            return torch.from_numpy(as_float32(cloud, self.source(index)))

    def source(self, index: int) -> str:
        """Where cloud `index` lies, for a complaint about it."""
        return f"{self.path}: cloud {index}"

    def _choose(self, found: Mapping[str | None, Labelled]) -> None:
        """Take the clouds of the categories that are asked for."""
        parts: list[Pieces]
        if None in found:
            if self.category is not None:
                raise ValueError(f"{self.path} has no categories, so category={self.category!r} cannot be chosen")
            clouds, self.labels = found[None]
            parts, self.categories = [clouds], ()
        else:
            keys = choose(self.category, [name for name in found if name is not None], self.path)
            self.categories, parts = tuple(keys), [found[name][0] for name in keys.values()]
            count = sum(map(len, parts))
            check_fits(8 * count, f"{self.path}: the labels of {count} clouds", "")
            self.labels = [label for label, part in enumerate(parts) for _ in range(len(part))]
        for part in parts:
            largest = part.largest()
            check_fits(4 * math.prod(largest), f"{self.path}: a cloud {largest}", "")
        self._parts, self._edges = parts, np.cumsum([0, *map(len, parts)])  # first cloud of each part, and the end

    def _take(self, files: ExitStack) -> None:
        """Read all clouds; the files will be closed."""
        leaves = [leaf for part in self._parts for leaf in part.leaves()]
        what = f"{leaves[0].dtype} {leaves[0].shape}" if len(leaves) == 1 else f"{len(leaves)} arrays"
        # As float32 they stand beside what was read, until all are padded to one shape.
        size = sum(leaf.stored.in_memory + 4 * math.prod(leaf.shape) for leaf in leaves)
        check_fits(size, f"{self.path}: {what}, with the float32 numbers that are made of it,")
        for leaf in leaves:
            leaf.hold()

    def _below(self, root: Node) -> dict[str | None, Labelled]:
        """What `key` names."""
        where, node = str(self.path), root
        parent: dict[str, Node] = {}
        for name in (self.key or "").split("/"):
            if isinstance(node, Leaf) or name not in node:
                has = "a single array" if isinstance(node, Leaf) else ", ".join(sorted(node))
                raise ValueError(f"{where} has no key {name!r}; it has {has}")
            parent, node, where = node, node[name], f"{where}/{name}"
        if isinstance(node, dict):
            return clouds_by_category(node, self.split, where)
        beside = {name: parent[name] for name in ABOUT if name in parent}
        return {None: flat({"points": node, **beside}, self.split, where)}


class ArchiveInPasses(CloudArchive):
    """A `CloudArchive` of more than fits into memory: the file stays open, and a cloud is read when it is asked for.

    Reading is fast in the order of the clouds only: an npz file cannot be entered in its midst.
    """

    def _take(self, files: ExitStack) -> None:
        """Keep the files open for as long as there is somebody who reads."""
        self._files = files.pop_all()
