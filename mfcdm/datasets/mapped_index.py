"""What index.json of a mapped archive says, and the refusal of what it may not say.

A mapped archive is a folder: index.json, and for each split `<split>-00000.npy` and so on, the points (P, D) of clouds
end to end, `<split>-offsets.npy`, (S + 1,) int64, where in them each cloud begins, and, where there are classes,
`<split>-labels.npy`, (S,) int64. The index is written last, so a folder without a finished one is no archive.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT, VERSION = "mfcdm-clouds", 1
INDEX = "index.json"
DTYPES = ("float32", "float16")
UNFINISHED = "unfinished"  # what the index of a conversion that still runs, or was killed, has besides its format

_MAX_INDEX_BYTES = 2**26  # about 300,000 shards
_MAX_COUNT = 2**48  # of clouds, points and bytes: beyond any disk, and far from overflow in int64
_MAX_DIM = 64
# A bare name: what an index names lies beside it.
_FILE = re.compile(r"\w[\w.-]*\.npy", re.ASCII)
SPLIT = re.compile(r"\w[\w-]*", re.ASCII)


@dataclass(frozen=True)
class Part:
    """A file of an archive.

    Args:
        file: its name.
        bytes: its size.
        sha256: of its content.
    """

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Shard(Part):
    """A file with the points of some clouds, (points, D)."""

    clouds: int
    points: int


@dataclass(frozen=True)
class Split:
    """The clouds of a split, with mean and squared deviations (see `Moments`) of their points."""

    clouds: int
    points: int
    mean: tuple[float, ...]
    squares: float
    offsets: Part
    labels: Part | None
    shards: tuple[Shard, ...]

    def files(self) -> tuple[Part, ...]:
        """All files of the split."""
        return (*self.shards, self.offsets, *(() if self.labels is None else (self.labels,)))


@dataclass(frozen=True)
class Index:
    """What an archive holds."""

    dim: int
    dtype: str
    categories: tuple[str, ...]
    splits: Mapping[str, Split]

    def text(self) -> str:
        """The content of index.json."""
        return json.dumps({"format": FORMAT, "format_version": VERSION, **asdict(self)}, indent=1, allow_nan=False)


def is_mapped(path: str | Path) -> bool:
    """Whether a folder has the index of a mapped archive; if it has, it is read as one, or refused."""
    return (Path(path) / INDEX).is_file()


def read_index(folder: Path) -> Index:
    """Read and check the index of an archive; its files are not opened.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, unfinished, of another format or version, or says what cannot be.
    """
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no mapped archive: it has no {INDEX}")
    if path.stat().st_size > _MAX_INDEX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; an index has at most {_MAX_INDEX_BYTES}")
    try:
        return _index(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is refused: {' '.join(str(error).split())}") from error


def is_unfinished(folder: Path) -> bool:
    """Whether a conversion into a folder was killed, or still runs."""
    try:
        found = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT and UNFINISHED in found


def unfinished_text() -> str:
    """The content of index.json while a conversion runs."""
    return json.dumps({"format": FORMAT, "format_version": VERSION, UNFINISHED: True})


def open_part(folder: Path, part: Part, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map a file of an archive into memory, read-only.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is not what the index says.
    """
    path = folder / part.file
    try:
        found = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not there, but {INDEX} names it") from None
    if not stat.S_ISREG(found.st_mode) or path.resolve().parent != folder.resolve():
        raise ValueError(f"{path} is no file of its own folder")
    if found.st_size != part.bytes:
        raise ValueError(f"{path} has {found.st_size} bytes, but {INDEX} says {part.bytes}: it is damaged")
    try:
        # allow_pickle stays off: a pickled array runs code of whoever wrote it.
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be mapped as an array of numbers: {reason}") from error
    fits = array.dtype == np.dtype(dtype).newbyteorder("<") and array.shape == shape and array.flags.c_contiguous
    if not isinstance(array, np.memmap) or not fits:
        raise ValueError(f"{path} must hold {dtype} {shape}, got {array.dtype} {array.shape}")
    return array


def _index(found: Any) -> Index:
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"it is no index of a mapped archive, whose format is {FORMAT!r}")
    if found.get("format_version") != VERSION:
        raise ValueError(f"its format_version is {found.get('format_version')!r}, and {VERSION} can be read")
    if UNFINISHED in found:
        raise ValueError("the conversion that wrote it did not finish; run it again")
    dim, dtype, categories = _count(found, "dim", _MAX_DIM), found.get("dtype"), found.get("categories")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be {' or '.join(DTYPES)}, got {dtype!r}")
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise ValueError(f"categories must be a list of names, got {categories!r}")
    splits = found.get("splits")
    if not isinstance(splits, dict) or not splits:
        raise ValueError(f"splits must hold a split or more, got {splits!r}")
    return Index(dim, dtype, tuple(categories), {name: _split(name, split, dim) for name, split in splits.items()})


def _split(name: str, found: Any, dim: int) -> Split:
    if not SPLIT.fullmatch(name) or not isinstance(found, dict):
        raise ValueError(f"{name!r} is no split")
    shards = found.get("shards")
    if not isinstance(shards, list) or not shards:
        raise ValueError(f"the shards of split {name} must be a list")
    mean = found.get("mean")
    if not isinstance(mean, list) or len(mean) != dim or not all(_is_finite(value) for value in mean):
        raise ValueError(f"the mean of split {name} must be {dim} finite numbers, got {mean!r}")
    squares: Any = found.get("squares")
    if not _is_finite(squares) or squares < 0:
        raise ValueError(f"squares of split {name} must be a finite number >= 0, got {squares!r}")
    labels = found.get("labels")
    split = Split(
        _count(found, "clouds"),
        _count(found, "points"),
        tuple(float(value) for value in mean),
        float(squares),
        Part(**_part(found.get("offsets"))),
        None if labels is None else Part(**_part(labels)),
        tuple(
            Shard(**_part(shard), clouds=_count(shard, "clouds"), points=_count(shard, "points")) for shard in shards
        ),
    )
    for what in ("clouds", "points"):
        in_all = sum(getattr(shard, what) for shard in split.shards)
        if in_all != getattr(split, what):
            raise ValueError(f"the shards of split {name} have {in_all} {what}, the split {getattr(split, what)}")
    return split


def _part(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"a file needs a name and a size, got {found!r}")
    file, sha256 = found.get("file"), found.get("sha256")
    if not isinstance(file, str) or not _FILE.fullmatch(file):
        raise ValueError(f"file must be the bare name of an npy file in the folder, got {file!r}")
    if not isinstance(sha256, str):
        raise ValueError(f"sha256 of {file} must be text, got {sha256!r}")
    return {"file": file, "bytes": _count(found, "bytes"), "sha256": sha256}


def _count(found: dict[str, Any], key: str, most: int = _MAX_COUNT) -> int:
    value = found.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{key} must be a whole number from 1 to {most}, got {value!r}")
    return value


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
