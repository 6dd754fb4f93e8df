"""Archives of clouds: npz, npy and h5 files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mfcdm.datasets.archive_layout import ABOUT, Array, Labelled, Leaf, Node, clouds_by_category, flat, opened
from mfcdm.datasets.categories import choose


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
    dtype; an item is float32. Nothing is ever unpickled, and links of an h5 file are not followed.

    Args:
        path: .npz, .npy, .h5 or .hdf5 file.
        split: name of an array or a level.
        category: one or more categories of a file that has them, by name or ShapeNet synset; None for all.
        key: name of the array or level to read, for instance "data" or "poses/points", where the layout is another.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not an archive of clouds, or lacks the split, category or key.
    """

    categories: tuple[str, ...]
    clouds: list[Array]
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
        with opened(self.path) as root:
            found = self._below(root) if key is not None else clouds_by_category(root, split, str(self.path))
        if None in found:
            if category is not None:
                raise ValueError(f"{self.path} has no categories, so category={category!r} cannot be chosen")
            self.clouds, self.labels = found[None]
            self.categories = ()
            return
        keys = choose(category, [name for name in found if name is not None], self.path)
        self.categories = tuple(keys)
        self.clouds = [cloud for name in keys.values() for cloud in found[name][0]]
        self.labels = [label for label, name in enumerate(keys.values()) for _ in found[name][0]]

    def __len__(self) -> int:
        """Number of clouds."""
        return len(self.clouds)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"x": (N_i, D) float32}, and "label": int where it is known."""
        item: dict[str, Any] = {"x": self.points(index)}
        if self.labels is not None:
            item["label"] = self.labels[index]
        return item

    def points(self, index: int) -> Tensor:
        """Cloud `index`, (N_i, D) float32."""
        with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused as such
            return torch.from_numpy(self.clouds[index].astype(np.float32))

    def source(self, index: int) -> str:
        """Where cloud `index` lies, for a complaint about it."""
        return f"{self.path}: cloud {index}"

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
