"""Distances of points to the surface of a real shape: exact for the embedded shapes, to its points for a file."""

import numpy as np
from scipy.spatial import cKDTree
from torch import Tensor

from mfcdm.datasets import Clouds, ParametricShapes, open_dataset

SPLITS = {"train": 500, "val": 200}  # embedded shapes in each


class Surfaces:
    """The shapes of one split, in the data's coordinates.

    Args:
        source: "shapes", or an archive with the splits train and val.
        split: "train" or "val".
        num_points: points of an embedded shape's cloud.
    """

    def __init__(self, source: str, split: str, num_points: int) -> None:
        self.shapes = ParametricShapes(SPLITS[split], num_points, split=split) if source == "shapes" else None
        self.clouds = Clouds.of(self.shapes or open_dataset(source, split=split))

    def distance(self, index: int, points: Tensor) -> float:
        """Mean distance of points (N, 3) to the surface of one shape."""
        if self.shapes is not None:
            return float(self.shapes.surface(index).distance(points.numpy()).mean())
        return float(np.mean(cKDTree(self.clouds.points()[index].numpy()).query(points.numpy())[0]))
