"""Choose a data set by what lies at a path."""

from pathlib import Path

from mfcdm.datasets.archive import CloudArchive
from mfcdm.datasets.clouds import CloudDataset
from mfcdm.datasets.folder import CloudFolder
from mfcdm.datasets.parametric_shapes import ParametricShapes


def open_dataset(
    path: str | Path | None = None, split: str = "train", num_clouds: int = 1000, num_points: int = 2048
) -> CloudDataset:
    """The archive or the folder of files at `path`, or the embedded shapes where no path is given.

    Args:
        path: .npz, .npy, .h5 or .hdf5 file, or a folder of mesh and point files, or None.
        split: "train", "val" or "test", or whatever the file has.
        num_clouds: of the embedded shapes.
        num_points: of each embedded shape, and on each mesh of a folder.

    Raises:
        FileNotFoundError: if nothing lies at the path.
        ValueError: if it cannot be read.
    """
    if path is None:
        return ParametricShapes(num_clouds, num_points, split)
    if Path(path).is_dir():
        return CloudFolder(path, split, num_points)
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} is neither a file nor a folder")
    return CloudArchive(path, split)
