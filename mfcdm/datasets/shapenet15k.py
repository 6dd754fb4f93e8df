"""PointFlow's ShapeNet clouds of 15,000 points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mfcdm.datasets.categories import choose
from mfcdm.datasets.formats import read_shape
from mfcdm.datasets.sampled import SampledShapes
from mfcdm.datasets.shapes import Surface
from mfcdm.wording import counted


class ShapeNet15k(SampledShapes):
    """Clouds of ShapeNetCore.v2.PC15k in its own layout, <path>/<synset>/<split>/<model>.npy, each (15000, 3).

    Files are ordered by category, then by name, and read when they are asked for.

    Args:
        path: folder of the synsets.
        split: "train", "val" or "test".
        category: one or more of ShapeNet's 55 names ("airplane", "chair", "car", ...) or synsets; None for all that
            are there. Labels are positions in `categories`, the sorted names.
        num_points: keep the first so many points of each cloud, at least 1 (the files' own order is random); None for
            all. PointFlow trains on the first 10,000 and evaluates on the others.

    Raises:
        FileNotFoundError: if the folder, or the split of a category, is not there.
        ValueError: if a category is unknown, or `num_points` is too small.
    """

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        category: str | Sequence[str] | None = "airplane",
        num_points: int | None = None,
    ) -> None:
        self.path, self.split = Path(path), split
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path} is not a folder")
        there = sorted(folder.name for folder in self.path.iterdir() if folder.is_dir() and folder.name.isdecimal())
        if not there:
            raise FileNotFoundError(f"{self.path} holds no <synset>/{split}/<model>.npy, as ShapeNetCore.v2.PC15k does")
        chosen = choose(category, there, self.path)
        files, labels = [], []
        for label, synset in enumerate(chosen.values()):
            folder = self.path / synset / split
            found = sorted(folder.glob("*.npy"))
            if not found:
                raise FileNotFoundError(f"{folder} holds no .npy files; split must be train, val or test")
            files += found
            labels += [label] * len(found)
        self.files = tuple(files)
        self.kept = num_points
        super().__init__(labels, tuple(chosen), 1 if num_points is None else num_points, seed=0)

    def __len__(self) -> int:
        """Number of files."""
        return len(self.files)

    def shape(self, index: int) -> NDArray[np.floating]:
        """The points in file `index`, (N, 3), 0 <= index < len."""
        points = read_shape(self.files[index])
        if isinstance(points, Surface) or points.shape[1] != 3:
            raise ValueError(f"{self.files[index]} must hold points (N, 3)")
        if self.kept is not None and len(points) < self.kept:
            size = counted(len(points), "point")
            raise ValueError(f"{self.files[index]} has {size}, num_points={self.kept} is too many")
        return points[: self.kept]

    def source(self, index: int) -> str:
        """Path of file `index`."""
        return str(self.files[index])
