"""Choose a data set by what lies at a path."""

from collections.abc import Sequence
from pathlib import Path

from mfcdm.datasets.archive import CloudArchive
from mfcdm.datasets.clouds import CloudDataset
from mfcdm.datasets.folder import CloudFolder
from mfcdm.datasets.mapped import MappedArchive
from mfcdm.datasets.mapped_index import is_mapped
from mfcdm.datasets.parametric_shapes import ParametricShapes


def open_dataset(
    path: str | Path | None = None, split: str = "train", num_clouds: int = 1000, num_points: int = 2048
) -> CloudDataset:
    """The archive or the folder of files at `path`, or the embedded shapes where no path is given.

    Args:
        path: .npz, .npy, .h5 or .hdf5 file, a folder of mesh and point files, a mapped archive, or None.
        split: "train", "val" or "test", or whatever the file has.
        num_clouds: of the embedded shapes.
        num_points: of each embedded shape, and on each mesh of a folder.

    Raises:
        FileNotFoundError: if nothing lies at the path.
        ValueError: if it cannot be read.
    """
    if path is None:
        return ParametricShapes(num_clouds, num_points, split)
    if is_mapped(path):
        return MappedArchive(path, split)
    if Path(path).is_dir():
        return CloudFolder(path, split, num_points)
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} is neither a file nor a folder")
    return CloudArchive(path, split)


def open_archive(
    path: str | Path, split: str = "train", category: str | Sequence[str] | None = None, key: str | None = None
) -> CloudDataset:
    """The archive at `path`: a file, or a mapped one, which is a folder.

    Raises:
        FileNotFoundError: if nothing lies at the path.
        ValueError: if it cannot be read.
    """
    if not is_mapped(path):
        return CloudArchive(path, split, category, key)
    if key is not None:
        raise ValueError(f"key={key!r} names an array of a file, and {path} is a folder with an index.json")
    return MappedArchive(path, split, category)
