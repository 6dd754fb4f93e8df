"""Data sets of point clouds; an item is {"x": (N_i, D) float tensor, "label": int}."""

from mfcdm.datasets.archive import CloudArchive
from mfcdm.datasets.clouds import CloudDataset, Clouds, Normalization, rescaled
from mfcdm.datasets.opening import open_dataset
from mfcdm.datasets.parametric_shapes import ParametricShapes

__all__ = ["CloudArchive", "CloudDataset", "Clouds", "Normalization", "ParametricShapes", "open_dataset", "rescaled"]
