"""Archives of clouds: npz and npy files."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset


class CloudArchive(Dataset[dict[str, Any]]):
    """Clouds from one file: an array (S, N, D), or several of them by split in an npz.

    An npz may hold `lengths` beside `points`: cloud i then owns its first lengths[i] rows. The array is kept in the
    file's own dtype; an item is float32.

    Args:
        path: .npz or .npy file.
        split: key of an npz. A file with a single array has no splits and gives it for every split.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not an archive of clouds, or lacks the split.
    """

    def __init__(self, path: str | Path, split: str = "train") -> None:
        self.path, self.split = Path(path), split
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is not a file")
        arrays = _read(self.path)
        lengths = arrays.pop("lengths", None) if len(arrays) > 1 else None
        if len(arrays) == 1:
            (array,) = arrays.values()
        elif split in arrays:
            array, lengths = arrays[split], None
        else:
            raise ValueError(f"{self.path} has no split {split!r}; it has {', '.join(sorted(arrays))}")
        if array.ndim != 3 or 0 in array.shape or array.dtype.kind not in "fiu":
            raise ValueError(f"{self.path} must hold numbers (clouds, points, D), got {array.dtype} {array.shape}")
        self.array = array
        self.lengths = np.full(len(array), array.shape[1]) if lengths is None else lengths
        if self.lengths.shape != (len(array),) or self.lengths.min() < 1 or self.lengths.max() > array.shape[1]:
            raise ValueError(f"{self.path}: lengths must be {len(array)} numbers from 1 to {array.shape[1]}")

    def __len__(self) -> int:
        """Number of clouds."""
        return len(self.array)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """{"x": (N_i, D) float32}."""
        return {"x": self.points(index)}

    def points(self, index: int) -> Tensor:
        """Cloud `index`, (N_i, D) float32."""
        return torch.from_numpy(self.array[index, : self.lengths[index]].astype(np.float32))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of the file by name; a lone npy array is called "points"."""
    if path.suffix not in (".npz", ".npy"):
        raise ValueError(f"{path} must end in .npz or .npy")
    try:
        # allow_pickle stays off: a pickled array runs code of whoever wrote it.
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"points": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, zipfile.BadZipFile, OSError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as an archive of arrays: {error}") from error
