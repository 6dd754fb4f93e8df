"""Data sets of point clouds; an item is {"x": (N_i, D) float tensor, "label": int}."""

from mfcdm.datasets.archive import CloudArchive
from mfcdm.datasets.clouds import CloudDataset, Clouds, Normalization, rescaled
from mfcdm.datasets.folder import CloudFolder
from mfcdm.datasets.mapped import MappedArchive
from mfcdm.datasets.mapped_clouds import MappedClouds, clouds_of
from mfcdm.datasets.mapped_writing import Layout, write_archive
from mfcdm.datasets.modelnet import ModelNet
from mfcdm.datasets.opening import open_archive, open_dataset
from mfcdm.datasets.parametric_shapes import ParametricShapes
from mfcdm.datasets.shapenet15k import ShapeNet15k
from mfcdm.datasets.shapenet_part import ShapeNetPart

__all__ = [
    "CloudArchive",
    "CloudDataset",
    "CloudFolder",
    "Clouds",
    "Layout",
    "MappedArchive",
    "MappedClouds",
    "ModelNet",
    "Normalization",
    "ParametricShapes",
    "ShapeNet15k",
    "ShapeNetPart",
    "clouds_of",
    "open_archive",
    "open_dataset",
    "rescaled",
    "write_archive",
]
