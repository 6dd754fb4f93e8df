"""Choose a data set by what lies at a path."""

from pathlib import Path

from mfcdm.datasets.archive import CloudArchive
from mfcdm.datasets.clouds import CloudDataset
from mfcdm.datasets.parametric_shapes import ParametricShapes


def open_dataset(
    path: str | Path | None = None, split: str = "train", num_clouds: int = 1000, num_points: int = 2048
) -> CloudDataset:
    """The archive at `path`, or the embedded shapes where no path is given.

    Args:
        path: .npz or .npy file, or None.
        split: "train", "val" or "test", or whatever the file has.
        num_clouds: of the embedded shapes.
        num_points: of each embedded shape.

    Raises:
        FileNotFoundError: if nothing lies at the path.
        ValueError: if it cannot be read.
    """
    if path is None:
        return ParametricShapes(num_clouds, num_points, split)
    return CloudArchive(path, split)
