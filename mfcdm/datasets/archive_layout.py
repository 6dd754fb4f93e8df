"""What an archive holds, and where in it the clouds of a split lie."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mfcdm.datasets.formats import NPY_MAGIC

Array = NDArray[Any]

SUFFIXES = (".npz", ".npy", ".h5", ".hdf5")

# Arrays that say something about the clouds beside them.
ABOUT = ("lengths", "offsets", "labels", "label", "given")
# category/split/cloud is the deepest layout. A group of an h5 file may contain itself, so there has to be an end.
_DEEPEST = 3


class Leaf:
    """An array of a file, read when it is asked for.

    Args:
        read: gives the array.
    """

    def __init__(self, read: Callable[[], Array]) -> None:
        self._read = read

    @cached_property
    def array(self) -> Array:
        """The array, in the file's own dtype."""
        return np.asarray(self._read())


Node: TypeAlias = "Leaf | dict[str, Node]"
# Clouds (N_i, D), and their labels where the file has any.
Labelled: TypeAlias = tuple[list[Array], list[int] | None]


@contextmanager
def opened(path: Path) -> Iterator[Node]:
    """Open an archive as a tree: "/" in the names of an npz parts levels, as groups do in an h5 file.

    Raises:
        ValueError: if the file is not an archive of arrays.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}, or be a folder of mesh and point files")
    try:
        if suffix in (".h5", ".hdf5"):
            import h5py  # only those who read such files pay for it

            with h5py.File(path, "r") as file:
                yield _h5_tree(file, _DEEPEST)
            return
        with path.open("rb") as file:
            if not file.read(6).startswith((NPY_MAGIC, b"PK")):  # numpy would advise to unpickle it
                raise ValueError("it is neither an npy nor an npz file")
        loaded = _loaded(path)
        if isinstance(loaded, np.ndarray):
            yield Leaf(lambda: loaded)
            return
        with loaded:
            yield _npz_tree(loaded)
    except (EOFError, zipfile.BadZipFile, zlib.error, OSError, KeyError, RuntimeError, ValueError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path} cannot be read as an archive of arrays: {' '.join(str(error).split())}") from error


def clouds_by_category(node: Node, split: str, where: str) -> dict[str | None, Labelled]:
    """Find the clouds of a split, and those of every category where the file has categories.

    Args:
        node: tree of the file, or a part of it.
        split: name of a level or an array; what has no such name gives the same clouds for every split.
        where: the node's place, for complaints.

    Returns:
        (clouds (N_i, D), their labels or None) by the category's key, or by None where there are no categories.

    Raises:
        ValueError: if there is no such split, or its arrays are not clouds.
    """
    if isinstance(node, Leaf):
        return {None: flat({"points": node}, split, where)}
    if split in node:
        # They would belong to all splits at once, whose clouds they cannot fit.
        if isinstance(node[split], Leaf) and (loose := [name for name in ("lengths", "offsets") if name in node]):
            raise ValueError(
                f"{where} has {loose[0]} beside its splits; {split}/points and {split}/{loose[0]} belong together"
            )
        return clouds_by_category(node[split], split, f"{where}/{split}")
    if node and all(isinstance(child, dict) for child in node.values()):
        found: dict[str | None, Labelled] = {}
        for name, child in node.items():
            inner = clouds_by_category(child, split, f"{where}/{name}")
            if None not in inner:
                raise ValueError(f"{where}/{name} has categories within a category")
            found[name] = inner[None]
        return found
    return {None: flat(node, split, where)}


def split_names(node: Node, names: Sequence[str]) -> tuple[str, ...]:
    """Which of the names are splits in a file, at its top or within its categories."""
    if isinstance(node, Leaf):
        return ()
    below = [node, *(child for child in node.values() if isinstance(child, dict))]
    return tuple(name for name in names if any(name in level for level in below))


def flat(node: dict[str, Node], split: str, where: str) -> Labelled:
    """The clouds of one level: a stacked array, points end to end with `offsets`, or one array a cloud.

    Raises:
        ValueError: if it is none of these.
    """
    about = {name: node[name] for name in ABOUT if name in node and len(node) > 1}
    leaves = {name: leaf for name, leaf in node.items() if isinstance(leaf, Leaf) and name not in about}
    if len(leaves) + len(about) < len(node) or not leaves:
        raise ValueError(f"{where} has no split {split!r}; it has {', '.join(sorted(node)) or 'nothing'}")
    extras = {name: leaf.array for name, leaf in about.items() if isinstance(leaf, Leaf)}
    if len(leaves) == 1 and not (next(iter(leaves))[-1:].isdigit() and _flat_points(leaves)):
        ((_, leaf),) = leaves.items()
        clouds = _cut(leaf.array, extras, where)
    elif _flat_points(leaves):
        if loose := [name for name in ("lengths", "offsets") if name in extras]:
            raise ValueError(f"{where} has {loose[0]}, but one array a cloud needs none")
        clouds = [_numbers(leaves[name].array, 2, where, name) for name in sorted(leaves, key=_natural)]
    else:
        raise ValueError(f"{where} has no split {split!r}; it has {', '.join(sorted(leaves))}; key= names any array")
    return clouds, _labels(extras.get("labels", extras.get("label")), len(clouds), where)


def _cut(array: Array, extras: dict[str, Array], where: str) -> list[Array]:
    """Views of the clouds in one array."""
    if "offsets" in extras:
        points, offsets = _numbers(array, 2, where, "points"), extras["offsets"]
        if offsets.ndim == 1 and offsets.dtype.kind in "iu":
            edges = np.append(offsets[:-1] if offsets[-1:] == [len(points)] else offsets, len(points)).astype(np.int64)
            if len(edges) > 1 and edges[0] == 0 and (np.diff(edges) > 0).all():
                return [points[start:end] for start, end in pairwise(edges)]
        raise ValueError(f"{where}: offsets must be whole numbers that grow from 0 to at most {len(points)}")
    array = _numbers(array, 3, where, "")
    lengths = extras.get("lengths", np.full(len(array), array.shape[1]))
    fits = lengths.shape == (len(array),) and lengths.dtype.kind in "iu"
    if not fits or lengths.min() < 1 or lengths.max() > array.shape[1]:
        raise ValueError(f"{where}: lengths must be {len(array)} numbers from 1 to {array.shape[1]}")
    return [cloud[:length] for cloud, length in zip(array, lengths, strict=True)]


def _numbers(array: Array, ndim: int, where: str, name: str) -> Array:
    if array.ndim != ndim or 0 in array.shape or array.dtype.kind not in "fiu":
        expected = "(clouds, points, D)" if ndim == 3 else "(points, D)"
        place = f"{where}: {name}" if name else where
        raise ValueError(f"{place} must hold numbers {expected}, got {array.dtype} {array.shape}")
    return array


def _labels(array: Array | None, count: int, where: str) -> list[int] | None:
    if array is None:
        return None
    if array.size != count or array.dtype.kind not in "iu" or array.min() < 0:
        raise ValueError(f"{where}: labels must be {count} whole numbers from 0, got {array.dtype} {array.shape}")
    return [int(label) for label in array.reshape(count)]


def _flat_points(leaves: dict[str, Leaf]) -> bool:
    return all(leaf.array.ndim == 2 for leaf in leaves.values())


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts arr_2 before arr_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _loaded(path: Path) -> Any:
    """The arrays of an npz file, or that of an npy file, mapped: what is not asked for is never in memory."""
    # allow_pickle stays off: a pickled array runs code of whoever wrote it.
    with suppress(ValueError):  # without numbers, or of none: the plain reader says what is wrong
        return np.load(path, mmap_mode="r", allow_pickle=False)
    return np.load(path, allow_pickle=False)


def _npz_tree(loaded: Any) -> Node:
    root: dict[str, Node] = {}
    for name in loaded.files:
        *levels, last = name.split("/")
        node = root
        for level in levels:
            child = node.setdefault(level, {})
            if isinstance(child, Leaf):
                raise ValueError(f"{level} is an array and a level of {name}")
            node = child
        node[last] = Leaf(lambda name=name: loaded[name])  # type: ignore[misc]
    return root


def _h5_tree(group: Any, depth: int) -> Node:
    import h5py

    node: dict[str, Node] = {}
    for name in group:
        # Links may lead into other files.
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        child = group[name]
        if isinstance(child, h5py.Dataset):
            node[name] = Leaf(lambda child=child: child[()])  # type: ignore[misc]
        elif depth:
            node[name] = _h5_tree(child, depth - 1)
    return node
