"""The embedded data set: procedural airplanes, chairs, tables, mugs and lamps whose surfaces are known exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mfcdm.datasets.shapes import SHAPES, Surface

# The first word of every random stream's key: the splits share no stream, whatever their sizes.
_SPLITS = {"train": 0, "val": 1, "test": 2}
# The last word: a cloud's shape and its points have their own streams: the shape does not depend on `num_points`.
_SHAPE, _POINTS = 0, 1


class ParametricShapes(Dataset[dict[str, Any]]):
    """Clouds of points, independent and uniform by area on random shapes of a few categories.

    Cloud `index` is a shape of category `index % len(categories)`. Its shape is drawn from the stream
    (seed, split, index) and its points from a second stream of the same key: a cloud depends neither on the number of
    clouds, nor on the order in which they are read, nor on the process. The first n points of a cloud are the cloud
    of n points. Y is up; airplanes and chairs face +z, handles of mugs point to +x. Every shape (not every cloud) is
    centred on its bounding box, whose longest side is 1.

    Nothing is cached: an item is built when it is asked for, in a few milliseconds. `stack` builds all of them.

    Args:
        num_clouds: how many clouds, at least 1.
        num_points: points of each cloud, at least 1.
        split: "train", "val" or "test", which never share a shape's random stream.
        categories: which categories, in the order of their labels.
        seed: of all random streams, at least 0.
        dtype: of the clouds.

    Raises:
        ValueError: if an argument is not as described.
    """

    categories: tuple[str, ...]

    def __init__(
        self,
        num_clouds: int = 1000,
        num_points: int = 2048,
        split: str = "train",
        categories: Sequence[str] = ("airplane", "chair", "table", "mug", "lamp"),
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.num_clouds = _whole("num_clouds", num_clouds, minimum=1)
        self.num_points = _whole("num_points", num_points, minimum=1)
        self.seed = _whole("seed", seed, minimum=0)
        if split not in _SPLITS:
            raise ValueError(f"split is {split!r}, but one of {', '.join(_SPLITS)} is expected")
        self.split = split
        if isinstance(categories, str) or len(categories) == 0:
            raise ValueError(
                f"categories is {categories!r}, but a list of one or more of {', '.join(SHAPES)} is expected"
            )
        for category in categories:
            if category not in SHAPES:
                raise ValueError(f"categories contains {category!r}, but only {', '.join(SHAPES)} are known")
        if len(set(categories)) < len(categories):
            raise ValueError(f"categories is {list(categories)}, but each category may appear only once")
        self.categories = tuple(categories)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}, but a floating-point torch.dtype is expected")
        self.dtype = dtype

    def __len__(self) -> int:
        """The number of clouds."""
        return self.num_clouds

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Build a cloud, the same one at every call.

        Args:
            index: of the cloud; negative ones count from the end.

        Returns:
            "x": the points, (num_points, 3), and "label": the position of its category in `categories`, an int.

        Raises:
            IndexError: if there is no such cloud.
        """
        index = self._checked(index)
        x = self.sample(index, self.num_points, self._stream(index, _POINTS))
        return {"x": x, "label": index % len(self.categories)}

    @property
    def labels(self) -> Tensor:
        """The label of every cloud, (num_clouds,), int64."""
        return torch.arange(self.num_clouds) % len(self.categories)

    def surface(self, index: int) -> Surface:
        """Build the exact shape of a cloud.

        Args:
            index: of the cloud; negative ones count from the end.

        Returns:
            The surface on which the cloud's points lie, with its area, sampling and distance.

        Raises:
            IndexError: if there is no such cloud.
        """
        index = self._checked(index)
        build = SHAPES[self.categories[index % len(self.categories)]]
        return Surface(build(self._stream(index, _SHAPE))).normalized()

    def sample(self, index: int, num_points: int, generator: np.random.Generator | None = None) -> Tensor:
        """Draw fresh points of a cloud's shape.

        Args:
            index: of the cloud; negative ones count from the end.
            num_points: how many points, at least 1.
            generator: the source of randomness. None draws from the system's entropy: other points at every call.

        Returns:
            Independent points, uniform by area, (num_points, 3).

        Raises:
            IndexError: if there is no such cloud.
            ValueError: if `num_points` is less than 1.
        """
        num_points = _whole("num_points", num_points, minimum=1)
        points = self.surface(index).sample(num_points, np.random.default_rng() if generator is None else generator)
        return torch.from_numpy(points).to(self.dtype)

    def stack(self) -> Tensor:
        """Build all clouds.

        Returns:
            (num_clouds, num_points, 3): row i is `self[i]["x"]`. Its labels are `labels`.
        """
        clouds = torch.empty(self.num_clouds, self.num_points, 3, dtype=self.dtype)
        for index in range(self.num_clouds):
            clouds[index] = self[index]["x"]
        return clouds

    def _checked(self, index: int) -> int:
        """The index counted from the start."""
        if not -self.num_clouds <= index < self.num_clouds:
            raise IndexError(f"index is {index}, but num_clouds is {self.num_clouds}")
        return int(index) % self.num_clouds

    def _stream(self, index: int, purpose: int) -> np.random.Generator:
        """The random stream of a cloud's shape or points."""
        key = (_SPLITS[self.split], index, purpose)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def _whole(name: str, value: int, minimum: int) -> int:
    """The value, if it is a whole number that is not too small."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} is {value!r}, but a whole number of at least {minimum} is expected")
    return int(value)
