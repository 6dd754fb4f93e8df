"""The clouds of a user's file, between its coordinates and the network's."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mfcdm.checkpoint import Checkpoint
from mfcdm.datasets import CloudDataset, Clouds, Normalization, open_dataset, rescaled
from mfcdm.datasets.clouds import Scheme
from mfcdm.datasets.formats import SUFFIXES, read_shape
from mfcdm.datasets.sampled import SampledShapes
from mfcdm.datasets.shapes import Surface
from mfcdm.wording import printable

FEWEST_POINTS = 2  # one point has no shape


@dataclass(frozen=True)
class Given:
    """Clouds that a file gives.

    Args:
        path: of the file or folder.
        points: (N_i, D) float32, as they are in it.
        names: of the clouds, for complaints.
        frames: of each cloud, normalised = (x - mean) / std; none before `placed`.
        scheme: by which `frames` bring each cloud to a common place and size, "global" for none.
    """

    path: str
    points: Sequence[Tensor]
    names: Sequence[str]
    frames: Sequence[Normalization] = ()
    scheme: Scheme = "global"

    @classmethod
    def read(cls, path: str, split: str, num_points: int) -> "Given":
        """Read a file or folder of clouds.

        Args:
            path: npz, npy or h5 archive, folder of mesh and point files, or one such file; an npy file may hold one
                cloud (N, D) too.
            split: of a file that has splits.
            num_points: on a mesh.

        Raises:
            FileNotFoundError: if nothing lies there.
            ValueError: if it cannot be read, holds no clouds, one of a single point, or points that are not finite.
        """
        dataset = _opened(Path(path), split, num_points)
        points = Clouds.of(dataset).points()
        sources = [dataset.source(index) for index in range(len(points))]  # type: ignore[attr-defined]
        names = [printable(source) for source in sources]
        for name, cloud in zip(names, points, strict=True):
            if len(cloud) < FEWEST_POINTS:
                raise ValueError(f"{name} has 1 point; a cloud needs at least {FEWEST_POINTS}")
        return cls(path, points, names)

    def placed(self, model: Checkpoint, *, rescale: bool, farthest: float) -> "Given":
        """The same clouds with their frames in a model's coordinates.

        Args:
            model: whose normalisation and scheme hold.
            rescale: bring each cloud to its own centre and size first, as the scheme did in training; False where the
                file lies in the coordinates that the model's own samples have.
            farthest: standard deviations of the training's points from their mean that a point may lie away.

        Raises:
            ValueError: if the clouds are of another dimension than the model's, coincide under a scheme, or lie far
                outside.
        """
        dim, scheme = len(model.normalization.mean), scheme_of(model) if rescale else "global"
        if self.points[0].shape[1] != dim:
            raise ValueError(
                f"{self.path} holds points of dimension {self.points[0].shape[1]}, the checkpoint draws {dim}"
            )
        frames = [model.normalization] * len(self.points)
        if scheme != "global":
            try:
                own = rescaled(Clouds.join(self.points), scheme).points()
            except ValueError as error:
                raise ValueError(f"{self.path}: {error}") from error
            frames = [_composed(x, y, model.normalization) for x, y in zip(self.points, own, strict=True)]
        placed = replace(self, frames=frames, scheme=scheme)
        for index, name in enumerate(self.names):
            reach = float(placed.normalized(index).abs().max())
            if not reach <= farthest:
                raise ValueError(
                    f"{name} reaches {reach:.4g} standard deviations of the training's points from their mean, more "
                    f"than conditioning.farthest={farthest:g}; it must lie in the coordinates of the training's data"
                )
        return placed

    def normalized(self, index: int) -> Tensor:
        """Cloud `index` in the network's coordinates, (N_i, D)."""
        return self.frames[index].apply(self.points[index])

    def undo(self, index: int, x: Tensor) -> Tensor:
        """Points (N, D) from the network's coordinates to those of cloud `index` in the file, on the CPU."""
        return self.frames[index].undo(x.cpu().float())


def scheme_of(model: Checkpoint) -> Scheme:
    """How training brought each cloud to a common place and size, "global" for not at all."""
    return model.config.get("normalization", "global")


class _OneFile(SampledShapes):
    """One mesh or point file as a data set."""

    def __init__(self, path: Path, num_points: int) -> None:
        super().__init__(None, (), num_points, seed=0)
        self.path = path

    def __len__(self) -> int:
        """One."""
        return 1

    def shape(self, index: int) -> Surface | NDArray[Any]:
        """What the file holds."""
        return read_shape(self.path)

    def source(self, index: int) -> str:
        """Its path."""
        return str(self.path)


def _opened(path: Path, split: str, num_points: int) -> CloudDataset:
    if path.is_file() and _holds_one(path):
        return _OneFile(path, num_points)
    return open_dataset(path, split, num_points=num_points)


def _holds_one(path: Path) -> bool:
    """Whether a file is one cloud or mesh, rather than an archive."""
    if path.suffix.lower() != ".npy":
        return path.suffix.lower() in SUFFIXES
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError):  # the archive's reader says what is wrong with it
        return False
    return array.ndim == 2


def _composed(x: Tensor, y: Tensor, normalization: Normalization) -> Normalization:
    """From a cloud x to the network's coordinates by way of y = (x - center) / size, which is read off the two."""
    x, y = x.double(), y.double()
    size = (x - x.mean(dim=0)).norm() / (y - y.mean(dim=0)).norm()
    center = x.mean(dim=0) - size * y.mean(dim=0)
    mean, std = center + size * normalization.mean.double(), size * normalization.std.double()
    return Normalization(mean.float(), std.float())
