"""What an archive holds, and where in it the clouds of a split lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from mfcdm.datasets.archive_tree import Leaf, Node
from mfcdm.datasets.memory import check_fits
from mfcdm.datasets.pieces import Apart, EndToEnd, Pieces, Stacked
from mfcdm.datasets.stored import Array

# Arrays that say something about the clouds beside them.
ABOUT = ("lengths", "offsets", "labels", "label", "given")
# Clouds (N_i, D), and their labels where the file has any.
Labelled: TypeAlias = tuple[Pieces, list[int] | None]


def clouds_by_category(node: Node, split: str, where: str) -> dict[str | None, Labelled]:
    """Find the clouds of a split, and those of every category where the file has categories.

    Args:
        node: tree of the file, or a part of it.
        split: name of a level or an array; what has no such name gives the same clouds for every split.
        where: the node's place, for complaints.

    Returns:
        (clouds, their labels or None) by the category's key, or by None where there are no categories.

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
    extras = {name: _said(leaf, f"{where}: {name}") for name, leaf in about.items() if isinstance(leaf, Leaf)}
    clouds: Pieces
    if len(leaves) == 1 and not (next(iter(leaves))[-1:].isdigit() and _flat_points(leaves)):
        ((_, leaf),) = leaves.items()
        clouds = _cut(leaf, extras, where)
    elif _flat_points(leaves):
        if loose := [name for name in ("lengths", "offsets") if name in extras]:
            raise ValueError(f"{where} has {loose[0]}, but one array a cloud needs none")
        clouds = Apart([_numbers(leaves[name], 2, where, name) for name in sorted(leaves, key=_natural)])
    else:
        raise ValueError(f"{where} has no split {split!r}; it has {', '.join(sorted(leaves))}; key= names any array")
    return clouds, _labels(extras.get("labels", extras.get("label")), len(clouds), where)


def _cut(leaf: Leaf, extras: dict[str, Array], where: str) -> Pieces:
    """The clouds in one array."""
    if "offsets" in extras:
        (count, _), offsets = _numbers(leaf, 2, where, "points").shape, extras["offsets"]
        if offsets.ndim == 1 and offsets.dtype.kind in "iu":
            edges = np.append(offsets[:-1] if offsets[-1:] == [count] else offsets, count).astype(np.int64)
            if len(edges) > 1 and edges[0] == 0 and (np.diff(edges) > 0).all():
                return EndToEnd(leaf, edges)
        raise ValueError(f"{where}: offsets must be whole numbers that grow from 0 to at most {count}")
    count, most, _ = _numbers(leaf, 3, where, "").shape
    lengths = extras.get("lengths")
    if lengths is None:
        return Stacked(leaf)
    fits = lengths.shape == (count,) and lengths.dtype.kind in "iu"
    if not fits or lengths.min() < 1 or lengths.max() > most:
        raise ValueError(f"{where}: lengths must be {count} numbers from 1 to {most}")
    return Stacked(leaf, lengths)


def _said(leaf: Leaf, where: str) -> Array:
    """What an array says about the clouds beside it."""
    check_fits(leaf.stored.in_memory, f"{where} {leaf.dtype} {leaf.shape}", "")
    return leaf.whole()


def _numbers(leaf: Leaf, ndim: int, where: str, name: str) -> Leaf:
    if len(leaf.shape) != ndim or 0 in leaf.shape or leaf.dtype.kind not in "fiu":
        expected = "(clouds, points, D)" if ndim == 3 else "(points, D)"
        place = f"{where}: {name}" if name else where
        raise ValueError(f"{place} must hold numbers {expected}, got {leaf.dtype} {leaf.shape}")
    return leaf


def _labels(array: Array | None, count: int, where: str) -> list[int] | None:
    if array is None:
        return None
    if array.size != count or array.dtype.kind not in "iu" or array.min() < 0:
        raise ValueError(f"{where}: labels must be {count} whole numbers from 0, got {array.dtype} {array.shape}")
    return [int(label) for label in array.reshape(count)]


def _flat_points(leaves: dict[str, Leaf]) -> bool:
    return all(len(leaf.shape) == 2 for leaf in leaves.values())


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts arr_2 before arr_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
