"""What data sets of files have in common: an item is a shape's cloud, or points sampled on its surface."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mfcdm.datasets.precision import as_float32
from mfcdm.datasets.shapes import Surface


class SampledShapes(Dataset[dict[str, Any]]):
    """Clouds as they are, and meshes as points that are independent and uniform by area.

    Nothing is cached: an item is read when it is asked for. The points of a mesh come from the random stream
    (seed, index): they are the same at every call and in every process, and the first n of them are those of
    num_points = n.

    Args:
        labels: class of every shape, or None.
        categories: names of the classes.
        num_points: on a mesh, at least 1.
        seed: of the points on meshes, at least 0.

    Raises:
        ValueError: if `num_points` or `seed` is too small.
    """

    def __init__(self, labels: Sequence[int] | None, categories: Sequence[str], num_points: int, seed: int) -> None:
        for name, value, minimum in (("num_points", num_points, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}")
        self.num_points, self.seed = num_points, seed
        self.labels = None if labels is None else tuple(labels)
        self.categories = tuple(categories)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def shape(self, index: int) -> Surface | NDArray[Any]:
        """The surface or the points (N, D) of shape `index`, 0 <= index < len."""

    @abstractmethod
    def source(self, index: int) -> str:
        """Where shape `index` comes from, for a complaint about it."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Read a cloud, the same one at every call.

        Args:
            index: of the cloud; negative ones count from the end.

        Returns:
            "x": the points, (N_i, D) float32, and, where classes are known, "label": an int.

        Raises:
            IndexError: if there is no such cloud.
            ValueError: if its file cannot be read, has no area, or has coordinates that are not finite or that float32
                cannot tell apart.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"cloud {index} was asked for, but there are {len(self)}")
        index = int(index) % len(self)
        shape = self.shape(index)
        if isinstance(shape, Surface):
            stream = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(index,)))
            shape = shape.sample(self.num_points, stream)
        item: dict[str, Any] = {"x": torch.from_numpy(as_float32(shape, self.source(index)))}
        if self.labels is not None:
            item["label"] = self.labels[index]
        return item
