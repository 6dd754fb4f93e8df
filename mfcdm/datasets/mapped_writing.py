"""Write mapped archives, cloud by cloud."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mfcdm.atomic import whole
from mfcdm.datasets.clouds import CloudDataset, check_cloud
from mfcdm.datasets.mapped_index import DTYPES, INDEX, SPLIT, Index, Part, Shard, Split, is_unfinished, unfinished_text
from mfcdm.datasets.moments import Moments
from mfcdm.datasets.portion import Portion
from mfcdm.datasets.precision import check_precision
from mfcdm.wording import counted

# Names that only `write_archive` gives; nothing else is ever removed.
_OWN = re.compile(r"\w[\w-]*-(?:\d{5,}|offsets|labels)\.npy|\.?index\.json(?:\.writing)?", re.ASCII)

Observer = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Layout:
    """How clouds are stored.

    Args:
        dtype: "float32" or "float16"; the latter keeps three significant digits, up to 65,504.
        shard_clouds: clouds a file.
        num_points: keep a random subset of so many points of each cloud; None for all.
        seed: of the subsets.

    Raises:
        ValueError: if an option is out of its range.
    """

    dtype: str = "float32"
    shard_clouds: int = 1024
    num_points: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be {' or '.join(DTYPES)}, got {self.dtype!r}")
        for name, value, least in (
            ("shard_clouds", self.shard_clouds, 1),
            ("num_points", self.num_points, 1),
            ("seed", self.seed, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")


def write_archive(
    folder: str | Path,
    splits: Mapping[str, CloudDataset | Portion],
    layout: Layout | None = None,
    observe: Observer | None = None,
) -> Index:
    """Write clouds into a folder that `MappedArchive` reads; one cloud at a time is in memory.

    The index comes last: what a killed call leaves behind is refused by whoever reads it, and removed by the next call.
    A call that raises leaves nothing.

    Args:
        folder: new, empty, or left behind by a killed call.
        splits: data sets, or portions of some, by split.
        layout: how they are stored.
        observe: called with (split, clouds done, clouds in all) after every cloud.

    Raises:
        FileExistsError: if the folder holds something else.
        ValueError: if a cloud is empty, not (N, D), not finite, too large for the type, too far from the origin for
            float32, or has too few points, or if the categories of the splits differ.
        OSError: if it cannot be written.
    """
    folder, layout = Path(folder), layout or Layout()
    portions = {name: Portion.all_of(given) for name, given in splits.items()}
    _check_splits(portions)
    is_new = _clear(folder)
    finished = False
    try:
        with whole(folder / INDEX) as scratch:
            scratch.write_text(unfinished_text())
        written = {
            name: _write_split(folder, name, number, portion, layout, observe or (lambda *_: None))
            for number, (name, portion) in enumerate(portions.items())
        }
        dims = {name: len(split.mean) for name, split in written.items()}
        if len(set(dims.values())) > 1:
            raise ValueError(f"the splits have different dimensions: {dims}")
        first = next(iter(portions))
        index = Index(dims[first], layout.dtype, portions[first].categories, written)
        with whole(folder / INDEX) as scratch:
            scratch.write_text(index.text())
        finished = True
        return index
    finally:
        if not finished:
            _remove_own(folder)
            if is_new:
                with suppress(OSError):
                    folder.rmdir()


@dataclass
class _ShardFile:
    """A file that clouds are appended to; its header is written again at the end, when all points are counted."""

    path: Path
    dtype: str
    points: int = 0
    clouds: int = 0
    _file: Any = field(default=None, repr=False)

    def add(self, cloud: NDArray[Any]) -> None:
        """Append a cloud (N, D)."""
        if self._file is None:
            self._file = self.path.open("wb")
            self._write_header(cloud.shape[1])
            self._begin, self._dim = self._file.tell(), cloud.shape[1]
        self._file.write(cloud.tobytes())
        self.points, self.clouds = self.points + len(cloud), self.clouds + 1

    def close(self) -> Shard:
        """Finish the file."""
        self._file.seek(0)
        self._write_header(self._dim)
        # numpy leaves room for a longer first axis; should it ever stop to, the first cloud would be overwritten.
        assert self._file.tell() == self._begin, "the header of an npy file has grown"
        self._file.close()
        part = _part(self.path)
        return Shard(part.file, part.bytes, part.sha256, self.clouds, self.points)

    def abandon(self) -> None:
        """Close the file as it is."""
        if self._file is not None:
            self._file.close()

    def _write_header(self, dim: int) -> None:
        about = {"descr": np.dtype(self.dtype).newbyteorder("<").str, "fortran_order": False}
        np.lib.format.write_array_header_1_0(self._file, {**about, "shape": (self.points, dim)})


def _write_split(folder: Path, name: str, number: int, portion: Portion, layout: Layout, observe: Observer) -> Split:
    """The files of a split."""
    moments, sizes, labels = Moments(), [0], []
    shards: list[Shard] = []
    dim: int | None = None
    shard: _ShardFile | None = None
    try:
        for position in range(len(portion)):
            item = portion[position]
            x = torch.as_tensor(item["x"])
            dim = dim or (x.shape[-1] if x.ndim == 2 else None)
            check_cloud(x, portion.source(position), dim)
            check_precision(x, portion.source(position))
            if layout.num_points is not None:
                x = _subset(x, layout.num_points, portion.source(position), [layout.seed, number, position])
            cloud = _stored(x, layout.dtype, portion.source(position))
            shard = shard or _ShardFile(folder / f"{name}-{len(shards):05d}.npy", layout.dtype)
            shard.add(cloud)
            moments.add(torch.from_numpy(cloud.astype(np.float32)))
            sizes.append(len(cloud))
            labels.append(item.get("label"))
            if shard.clouds == layout.shard_clouds or position == len(portion) - 1:
                shards.append(shard.close())
                shard = None
            observe(name, position + 1, len(portion))
    finally:
        if shard is not None:
            shard.abandon()
    return Split(
        len(labels),
        moments.count,
        tuple(moments.known_mean.tolist()),
        moments.squares,
        _save(folder / f"{name}-offsets.npy", np.cumsum(sizes)),
        None if any(label is None for label in labels) else _save(folder / f"{name}-labels.npy", np.array(labels)),
        tuple(shards),
    )


def _subset(x: Tensor, size: int, name: str, key: list[int]) -> Tensor:
    """Random points of a cloud, without replacement; the whole cloud where it has just so many."""
    if len(x) < size:
        raise ValueError(f"{name} has {counted(len(x), 'point')}, so {size} of them cannot be kept")
    if len(x) == size:
        return x
    return x[torch.from_numpy(np.random.default_rng(np.random.SeedSequence(key)).choice(len(x), size, replace=False))]


def _stored(x: Tensor, dtype: str, name: str) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        cloud = x.numpy().astype(np.dtype(dtype).newbyteorder("<"))
    if not np.isfinite(cloud).all():
        raise ValueError(f"{name} has coordinates up to {float(x.abs().max()):.3g}, too large for {dtype}")
    return cloud


def _save(path: Path, array: NDArray[Any]) -> Part:
    np.save(path, array.astype("<i8"))
    return _part(path)


def _part(path: Path) -> Part:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Part(path.name, path.stat().st_size, digest)


def _check_splits(splits: Mapping[str, Portion]) -> None:
    if not splits:
        raise ValueError("at least one split is needed, got none")
    for name, portion in splits.items():
        if not SPLIT.fullmatch(name):
            raise ValueError(f"a split is named with letters, digits, _ and -, got {name!r}")
        if not len(portion):
            raise ValueError(f"split {name} has no clouds")
    (first, categories), *others = ((name, portion.categories) for name, portion in splits.items())
    for name, found in others:
        if found != categories:
            raise ValueError(
                f"split {name} has the categories {', '.join(found) or 'none'}, but {first} has "
                f"{', '.join(categories) or 'none'}: their labels do not fit together"
            )


def _clear(folder: Path) -> bool:
    """Make room; whether the folder is new."""
    if not folder.exists():
        folder.mkdir(parents=True)
        return True
    if folder.is_dir() and is_unfinished(folder):
        _remove_own(folder)
    if not folder.is_dir() or any(folder.iterdir()):
        raise FileExistsError(f"{folder} is there already; give another place, or remove it first")
    return False


def _remove_own(folder: Path) -> None:
    """Remove what was written, the index last: until then the folder is known to be unfinished."""
    with suppress(OSError):
        for path in sorted(folder.iterdir(), key=lambda path: path.name == INDEX):
            if _OWN.fullmatch(path.name):
                path.unlink()
