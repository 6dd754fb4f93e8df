"""An archive as a tree of arrays: "/" in the names of an npz parts levels, as groups do in an h5 file."""

from __future__ import annotations

import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mfcdm.datasets.memory import CONVERT
from mfcdm.datasets.stored import NPY_MAGIC, Array, H5Stored, NpyStream, Stored

SUFFIXES = (".npz", ".npy", ".h5", ".hdf5")

_BLOCK = 2**24  # bytes that are read at a time, where rows follow each other

# category/split/cloud is the deepest layout. A group of an h5 file may contain itself, so there has to be an end.
_DEEPEST = 3


class Leaf:
    """An array of a file, of which rows are read when they are asked for.

    Args:
        find: opens it; what is wrong with an array that nobody asks for is never known.
    """

    def __init__(self, find: Callable[[], Stored]) -> None:
        self._find = find
        self._held: Array | None = None
        self._begin, self._block = 0, np.empty(0)

    @cached_property
    def stored(self) -> Stored:
        """The array in the file."""
        return self._find()

    @property
    def shape(self) -> tuple[int, ...]:
        """As the file declares it."""
        return self.stored.shape if self._held is None else self._held.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The file's own."""
        return self.stored.dtype if self._held is None else self._held.dtype

    def whole(self) -> Array:
        """All of it."""
        return self.stored.whole() if self._held is None else self._held

    def hold(self) -> None:
        """Read it for good, and let go of the file: what is open cannot be sent to another process."""
        self._held = self.whole()
        self.__dict__.pop("stored", None)
        del self._find

    def rows(self, start: int, stop: int) -> Array:
        """Rows start to stop of the first axis, and some behind them, which are kept for the next call."""
        if self._held is not None:
            return self._held[start:stop]
        if not self._begin <= start <= stop <= self._begin + len(self._block):
            most = _BLOCK // max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
            self._begin, self._block = start, np.empty(0)  # not two blocks at a time
            self._block = self.stored.rows(start, min(self.shape[0], max(stop, start + most)))
        return self._block[start - self._begin : stop - self._begin]


Node: TypeAlias = "Leaf | dict[str, Node]"


@contextmanager
def opened(path: Path) -> Iterator[Node]:
    """Open an archive.

    Raises:
        ValueError: if the file is not an archive of arrays.
        MemoryError: if what is read of it does not fit into memory.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}, or be a folder of mesh and point files")
    with readable(path):
        if suffix in (".h5", ".hdf5"):
            import h5py  # only those who read such files pay for it

            with h5py.File(path, "r") as file:
                yield _h5_tree(file, str(path), _DEEPEST)
            return
        with path.open("rb") as file:
            begins = file.read(6)
        if begins.startswith(NPY_MAGIC):
            yield Leaf(partial(NpyStream, str(path), lambda: path.open("rb"), path.stat().st_size, path))
            return
        if not begins.startswith(b"PK"):
            raise ValueError("it is neither an npy nor an npz file")
        with zipfile.ZipFile(path) as archive:
            yield _npz_tree(archive, str(path))


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong in reading an archive into a sentence.

    Raises:
        ValueError: if the archive is damaged.
        MemoryError: if there is not enough memory.
    """
    damage = (EOFError, OSError, KeyError, RuntimeError, ValueError, struct.error)
    try:
        yield
    except MemoryError as error:
        if str(error).startswith(str(path)):
            raise
        raise MemoryError(f"{path} needs more memory than there is, {error}{CONVERT}") from error
    except (*damage, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path} cannot be read as an archive of arrays: {' '.join(str(error).split())}") from error


def _npz_tree(archive: zipfile.ZipFile, where: str) -> Node:
    root: dict[str, Node] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        *levels, last = name.split("/")
        node = root
        for level in levels:
            child = node.setdefault(level, {})
            if isinstance(child, Leaf):
                raise ValueError(f"{level} is an array and a level of {name}")
            node = child
        node[last] = Leaf(partial(NpyStream, f"{where}: {name}", partial(archive.open, info), info.file_size))
    return root


def _h5_tree(group: Any, where: str, depth: int) -> Node:
    import h5py

    node: dict[str, Node] = {}
    for name in group:
        # Links may lead into other files.
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        child = group[name]
        if isinstance(child, h5py.Dataset):
            node[name] = Leaf(partial(H5Stored, f"{where}: {child.name.removeprefix('/')}", child))
        elif depth:
            node[name] = _h5_tree(child, where, depth - 1)
    return node
