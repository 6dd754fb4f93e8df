"""Arrays as they lie in files: shapes are known from their headers, rows are read when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mfcdm.datasets.memory import check_fits, in_words

Array = NDArray[Any]

NPY_MAGIC = b"\x93NUMPY"

_SMALL = 2**20  # bytes
_CHUNK = 2**22  # bytes that are taken from a stream at a time


class Stored(Protocol):
    """An array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def in_memory(self) -> int:
        """Bytes that `whole` takes."""

    def rows(self, start: int, stop: int) -> Array:
        """Rows start to stop of the first axis."""

    def whole(self) -> Array:
        """All of it."""


class NpyStream:
    """An array in npy format behind a stream.

    Args:
        name: for complaints.
        open_stream: opens it at its beginning; it may go backwards slowly.
        size: of the stream, in bytes.
        path: of the file that is the stream, to be mapped; None for a part of a file.

    Raises:
        ValueError: if it is no array, holds Python objects, or is not as large as it declares.
    """

    def __init__(self, name: str, open_stream: Callable[[], IO[bytes]], size: int, path: Path | None = None) -> None:
        self._open, self._path = open_stream, path
        with open_stream() as stream:
            self.shape, self._fortran_order, self.dtype = _header(stream)
            self._begin = stream.tell()
        if self.dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, which are never unpickled")
        self._size = math.prod(self.shape) * self.dtype.itemsize
        if self._size != size - self._begin:
            there = in_words(size - self._begin)
            raise ValueError(f"{name} declares {self.dtype} {self.shape}, {in_words(self._size)}, but holds {there}")

    @property
    def in_memory(self) -> int:
        """Bytes that `whole` takes: none, where the file is mapped."""
        return 0 if self._path is not None else self._size

    def rows(self, start: int, stop: int) -> Array:
        """Rows start to stop of the first axis."""
        if self._fortran_order:  # they do not lie together
            return self._held[start:stop]
        array = np.empty((stop - start, *self.shape[1:]), self.dtype)
        position = self._begin + start * math.prod(self.shape[1:]) * self.dtype.itemsize
        if self._stream.tell() != position:
            self._stream.seek(position)
        _fill(array, self._stream)
        return array

    def whole(self) -> Array:
        """All of it."""
        order: Literal["F", "C"] = "F" if self._fortran_order else "C"
        if self._path is not None and self._size:  # nothing cannot be mapped
            mapped = np.memmap(self._path, self.dtype, "r", self._begin, self.shape, order)
            return np.asarray(mapped)
        flat = np.empty(math.prod(self.shape), self.dtype)
        with self._open() as stream:
            stream.seek(self._begin)
            _fill(flat, stream)
            stream.read(1)  # at its end a part of a zip file compares its checksum
        return flat.reshape(self.shape, order=order)

    @cached_property
    def _stream(self) -> IO[bytes]:
        return self._open()

    @cached_property
    def _held(self) -> Array:
        check_fits(self.in_memory, f"an array {self.dtype} {self.shape} in Fortran's order", "")
        return self.whole()


class H5Stored:
    """An array of an h5 file that is open.

    Args:
        name: for complaints.
        dataset: of h5py.

    Raises:
        ValueError: if it lies in other files, or nowhere.
        MemoryError: if a chunk of it does not fit into memory.
    """

    def __init__(self, name: str, dataset: Any) -> None:
        self._dataset, self.dtype = dataset, dataset.dtype
        self.shape = (0,) if dataset.shape is None else dataset.shape
        if dataset.is_virtual or dataset.external:
            raise ValueError(f"{name} lies in other files, which are not read")
        size = self.in_memory
        # What was never written reads as zeros, and takes no place in the file, however much it declares.
        if size > _SMALL and not dataset.id.get_storage_size():
            raise ValueError(f"{name} declares {self.dtype} {self.shape}, {in_words(size)}, but nothing was written")
        chunk = math.prod(dataset.chunks or ()) * self.dtype.itemsize
        check_fits(chunk, f"{name}: a chunk of {self.dtype} {dataset.chunks}", "")

    @property
    def in_memory(self) -> int:
        """Bytes that `whole` takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> Array:
        """Rows start to stop of the first axis."""
        return np.asarray(self._dataset[start:stop])

    def whole(self) -> Array:
        """All of it."""
        return np.asarray(self._dataset[()])


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type, which an npy file begins with."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version} of the npy format is for arrays of records, which are no points")
    shape, fortran_order, dtype = readers[version](stream)
    if any(length < 0 for length in shape):
        raise ValueError(f"it declares the shape {shape}")
    return tuple(int(length) for length in shape), fortran_order, dtype


def _fill(array: Array, stream: IO[bytes]) -> None:
    """Read an array of C's order from where a stream stands."""
    left = array.reshape(-1).view(np.uint8).data
    while left:
        chunk = stream.read(min(_CHUNK, len(left)))
        if not chunk:
            raise EOFError("it ends in the midst of an array")
        left[: len(chunk)] = chunk
        left = left[len(chunk) :]
