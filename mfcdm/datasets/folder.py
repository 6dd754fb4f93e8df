"""A folder of mesh and point files."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mfcdm.datasets.formats import SUFFIXES, read_shape
from mfcdm.datasets.sampled import SampledShapes
from mfcdm.datasets.shapes import Surface
from mfcdm.datasets.walking import files_below

_SPLITS = ("train", "val", "test")


class CloudFolder(SampledShapes):
    """One cloud a file: ply (text and binary), obj, off, stl, xyz, txt and npy, mixed, in sub-folders too.

    Links to files and folders are followed. Clouds are kept as they are; meshes become `num_points` points that are
    uniform by area, drawn from the random stream (seed, position of the file). Files are ordered by path; hidden ones
    are passed over. Every file is opened when its item is asked for.

    Sub-folders train, val and test are splits, right below `path` or below a category's folder. The folders that are
    left right below are categories, where there are several and every file lies in one: the label of a file is the
    position of its category among the sorted names, the same in every split.

    Args:
        path: folder.
        split: "train", "val" or "test"; None for all files. A folder without splits gives all files for every split.
        num_points: on a mesh, at least 1.
        pattern: take only files whose name, or path below the folder, matches it, as in "*.ply" or "chair/*".
        seed: of the points on meshes, at least 0.

    Raises:
        FileNotFoundError: if there is no such folder, or no file to read in it.
        ValueError: if it lacks the split, a file is empty, or another argument is not as described.
    """

    def __init__(
        self,
        path: str | Path,
        split: str | None = None,
        num_points: int = 2048,
        pattern: str | None = None,
        seed: int = 0,
    ) -> None:
        self.path, self.split, self.pattern = Path(path), split, pattern
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path} is not a folder")
        found = [file for file in _files_below(self.path) if pattern is None or _matches(file, pattern)]
        if not found:
            matching = "" if pattern is None else f" that matches pattern={pattern!r}"
            raise FileNotFoundError(f"{self.path} holds no {', '.join(SUFFIXES)} file{matching}")
        places = {file: _place(file) for file in found}
        splits = {place[0] for place in places.values() if place[0] is not None}
        if split is not None and splits:
            if split not in splits:
                raise ValueError(f"{self.path} has no split {split!r}; it has {', '.join(sorted(splits))}")
            found = [file for file in found if places[file][0] == split]
        names = {place[1] for place in places.values()}
        categories = sorted(name for name in names if name is not None)
        labelled = len(categories) > 1 and None not in names
        labels = [categories.index(places[file][1] or "") for file in found] if labelled else None
        self.files = tuple(self.path / file for file in found)
        for file in self.files:
            if file.stat().st_size == 0:
                raise ValueError(f"{file} is empty")
        super().__init__(labels, categories if labelled else (), num_points, seed)

    def __len__(self) -> int:
        """Number of files."""
        return len(self.files)

    def shape(self, index: int) -> Surface | NDArray[Any]:
        """The surface or the points (N, D) in file `index`, 0 <= index < len."""
        return read_shape(self.files[index])

    def source(self, index: int) -> str:
        """Path of file `index`."""
        return str(self.files[index])


def _files_below(folder: Path) -> list[Path]:
    """Paths, relative to the folder, of the files that can be read, in order."""
    # Archives made on a Mac hold a hidden twin of every file, which is no mesh.
    seen = files_below(folder, lambda name: not name.startswith((".", "__MACOSX")))
    return sorted((file for file in seen if file.suffix.lower() in SUFFIXES), key=Path.as_posix)


def _matches(file: Path, pattern: str) -> bool:
    return fnmatchcase(file.name, pattern) or fnmatchcase(file.as_posix(), pattern)


def _place(file: Path) -> tuple[str | None, str | None]:
    """(split, category) that the folders of a file name."""
    folders = list(file.parts[:-1])
    for depth, name in enumerate(folders[:2]):
        if name in _SPLITS:
            del folders[depth]
            return name, folders[0] if folders else None
    return None, folders[0] if folders else None
