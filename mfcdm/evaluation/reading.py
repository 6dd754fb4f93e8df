"""Clouds from the files of this and other projects, and the files' checksums."""

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfcdm.datasets import Clouds, open_dataset
from mfcdm.datasets.walking import files_below
from mfcdm.wording import counted

TORCH_SUFFIXES = (".pt", ".pth")

# Entries of other projects' files that hold the clouds, the likeliest first.
KEYS = ("points", "samples", "ref", "pcs", "point_clouds", "x")

FEWEST_CLOUDS, FEWEST_POINTS = 4, 2


def read_clouds(path: str | Path, split: str = "val") -> Clouds:
    """Read a set of clouds from an npz, npy, h5, pt or pth file, or from a folder of mesh and point files.

    A .pt or .pth file holds a tensor (S, N, D), a list of tensors (N_i, D), or a dictionary with one of them (under
    `points`, `samples`, `ref`, `pcs`, `point_clouds`, `x`, or alone) and perhaps `lengths`. It is read without running
    any code from it.

    Args:
        path: of the file or folder.
        split: "train", "val", "test", or whatever the file has; a file without splits gives all that it has.

    Raises:
        FileNotFoundError: if nothing lies there.
        ValueError: if it holds no clouds, fewer than 4, one of fewer than 2 points, with NaN or infinite coordinates,
            or of a dimension other than 2 and 3.
    """
    path = Path(path)
    if path.suffix.lower() in TORCH_SUFFIXES:
        held = _from_torch(path)
        clouds = Clouds.join(held, names=[f"{path}: cloud {index}" for index in range(len(held))])
    else:
        clouds = Clouds.of(open_dataset(path, split=split))
    dim = clouds.x.shape[2]
    if dim not in (2, 3):
        raise ValueError(f"{path} holds points of dimension {dim}, not 2 or 3: clouds must be (S, N, D), points last")
    if len(clouds) < FEWEST_CLOUDS:
        size = counted(len(clouds), "cloud")
        raise ValueError(f"{path} holds {size}; scores with intervals need at least {FEWEST_CLOUDS}")
    index, points = clouds.smallest
    if points < FEWEST_POINTS:
        size = counted(points, "point")
        raise ValueError(f"{path}: cloud {index} has {size}; a shape needs at least {FEWEST_POINTS}")
    return clouds


def checksum(path: str | Path) -> str:
    """The sha256 of a file; of a folder, that of the names and checksums of its files, links followed."""
    path, digest = Path(path), hashlib.sha256()
    if path.is_dir():
        for file in sorted(files_below(path)):
            digest.update(os.fsencode(f"{file.as_posix()} {checksum(path / file)}\n"))  # a name may be no UTF-8
        return digest.hexdigest()
    with path.open("rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _from_torch(path: Path) -> list[Tensor]:
    """The clouds (N_i, D) of a .pt or .pth file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what looks like another version, where a file is damaged
            held = torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # a parser that meets a damaged file fails in every possible way
        raise ValueError(
            f"{path} cannot be read as tensors: it is damaged, or holds objects that would have to run code; "
            "save the clouds as one tensor, or as npz"
        ) from error
    lengths = None
    if isinstance(held, Mapping):
        lengths = held.get("lengths")
        held = _entry(held, path)
    parts = list(held) if isinstance(held, Tensor) and held.ndim == 3 else held
    if not isinstance(parts, list | tuple) or not all(_is_cloud(part) for part in parts):
        raise ValueError(f"{path} must hold clouds (S, N, D) or a list of (N, D), but holds {_described(held)}")
    if lengths is None:
        return list(parts)
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or tuple(lengths.shape) != (len(parts),):
        raise ValueError(f"{path}: lengths must be {len(parts)} whole numbers, but are {_described(lengths)}")
    for index, (part, length) in enumerate(zip(parts, lengths.tolist(), strict=True)):
        if not 1 <= length <= len(part):
            raise ValueError(f"{path}: cloud {index} must own 1 to {len(part)} points, but owns {length}")
    return [part[:length] for part, length in zip(parts, lengths.tolist(), strict=True)]


def _entry(held: Mapping[Any, Any], path: Path) -> Any:
    """The entry of a dictionary that holds the clouds."""
    for key in KEYS:
        if key in held:
            return held[key]
    stacks = [value for value in held.values() if isinstance(value, Tensor) and value.ndim == 3]
    if len(stacks) != 1:
        raise ValueError(
            f"{path} has {len(stacks)} entries that could be clouds, among {', '.join(map(str, held))}; "
            f"call the right one {KEYS[0]}"
        )
    return stacks[0]


def _is_cloud(part: Any) -> bool:
    return isinstance(part, Tensor) and part.ndim == 2 and part.is_floating_point()


def _described(held: Any) -> str:
    if isinstance(held, Tensor):
        return f"a tensor {tuple(held.shape)} of {held.dtype}"
    return f"a {type(held).__name__}"
