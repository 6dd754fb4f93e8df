"""The splits of a data set in any format, as they are converted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mfcdm.datasets.archive import ArchiveInPasses
from mfcdm.datasets.archive_layout import split_names
from mfcdm.datasets.archive_tree import opened
from mfcdm.datasets.clouds import CloudDataset
from mfcdm.datasets.folder import CloudFolder
from mfcdm.datasets.mapped import MappedArchive
from mfcdm.datasets.mapped_index import is_mapped, read_index
from mfcdm.datasets.modelnet import ModelNet
from mfcdm.datasets.portion import Portion
from mfcdm.datasets.shapenet15k import ShapeNet15k
from mfcdm.datasets.shapenet_part import ShapeNetPart
from mfcdm.wording import counted

FORMATS = ("auto", "archive", "folder", "modelnet10", "modelnet40", "shapenet15k", "shapenet_part")
SPLITS = ("train", "val", "test")

Opener = Callable[..., CloudDataset]


@dataclass(frozen=True)
class Source:
    """Where clouds come from.

    Args:
        path: of a file or folder.
        format: one of FORMATS; "auto" takes a file for an archive, and a folder for one of files, or a mapped archive.
        num_points: on a mesh.
        category: one or more, where the format has categories; None for all.
        key: of an array in an archive.
        seed: of the points on meshes.

    Raises:
        ValueError: if the format is unknown.
    """

    path: Path
    format: str = "auto"
    num_points: int = 2048
    category: Sequence[str] | None = None
    key: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")

    def splits(self) -> dict[str, CloudDataset]:
        """All that the source has of train, val and test; everything is train where it has no splits.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: if it cannot be read, or a given option is not of its format.
        """
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} is neither a file nor a folder")
        kind = self.format
        if kind == "auto":
            kind = "mapped" if is_mapped(self.path) else "folder" if self.path.is_dir() else "archive"
        self._check_options(kind)
        chosen: dict[str, Any] = {} if self.category is None else {"category": self.category}
        sampled: dict[str, Any] = {"num_points": self.num_points, "seed": self.seed}
        if kind == "mapped":
            return {name: MappedArchive(self.path, name, **chosen) for name in read_index(self.path).splits}
        if kind == "archive":
            return self._archive(chosen)
        if kind == "folder":
            found = _those_there(partial(CloudFolder, self.path, **sampled), SPLITS)
            # A folder without splits gives the same files for every split.
            alike = len(found) > 1 and len({split.files for split in found.values()}) == 1
            return {"train": found["train"]} if alike else found
        if kind in ("modelnet10", "modelnet40"):
            make: Opener = partial(ModelNet, self.path, name=kind.removeprefix("modelnet"), **sampled, **chosen)
            return _those_there(make, ("train", "test"))
        if kind == "shapenet15k":
            return _those_there(partial(ShapeNet15k, self.path, **{"category": None, **chosen}), SPLITS)
        return _those_there(partial(ShapeNetPart, self.path, **chosen), SPLITS)

    def _archive(self, chosen: dict[str, Any]) -> dict[str, CloudDataset]:
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is not a file")
        with opened(self.path) as root:
            names = split_names(root, SPLITS) if self.key is None else ()
        make: Opener = partial(ArchiveInPasses, self.path, key=self.key, **chosen)
        return {name: make(name) for name in names or ("train",)}

    def _check_options(self, kind: str) -> None:
        if self.key is not None and kind != "archive":
            raise ValueError(f"key={self.key!r} names an array of an archive, and {self.path} is read as {kind}")
        if self.category is not None and kind == "folder":
            raise ValueError(f"category={list(self.category)} cannot be chosen: {self.path} is read as folder")


def portions(datasets: Mapping[str, CloudDataset], shares: Mapping[str, float], seed: int = 0) -> dict[str, Portion]:
    """The clouds of every split, where shares of the training clouds, drawn by seed, become new splits.

    Args:
        datasets: by split.
        shares: of the training clouds, in (0, 1), by the name of a split that is not there yet.
        seed: of the draw.

    Raises:
        ValueError: if such a split is there, there is no split train, or a split would be left without a cloud.
    """
    whole = {name: Portion(dataset, range(len(dataset))) for name, dataset in datasets.items()}
    if not shares:
        return whole
    for name, share in shares.items():
        if name in datasets:
            raise ValueError(f"the source has a split {name!r} of its own, so none can be made")
        if not 0.0 < share < 1.0:
            raise ValueError(f"the share of split {name} must lie between 0 and 1, got {share}")
    if "train" not in datasets:
        raise ValueError(f"there is no split 'train' to divide; there is {', '.join(datasets)}")
    train = datasets["train"]
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(train)).tolist()
    counts = {name: round(share * len(train)) for name, share in shares.items()}
    if min(counts.values()) < 1 or sum(counts.values()) >= len(train):
        raise ValueError(f"{counted(len(train), 'cloud')} cannot be divided into {counts} and a rest")
    made = {}
    for name, count in counts.items():
        made[name], order = Portion(train, sorted(order[:count])), order[count:]
    return {"train": Portion(train, sorted(order)), **made, **{name: whole[name] for name in whole if name != "train"}}


def _those_there(make: Opener, names: Sequence[str]) -> dict[str, Any]:
    """The splits that can be opened; what is wrong with the first, where none can."""
    found: dict[str, CloudDataset] = {}
    errors: list[Exception] = []
    for name in names:
        try:
            found[name] = make(split=name)
        except (ValueError, FileNotFoundError) as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found
