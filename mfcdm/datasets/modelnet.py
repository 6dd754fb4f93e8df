"""ModelNet10 and ModelNet40."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mfcdm.datasets.categories import choose
from mfcdm.datasets.formats import read_shape
from mfcdm.datasets.processed import processed_modelnet
from mfcdm.datasets.sampled import SampledShapes
from mfcdm.datasets.shapes import Surface

MODELNET10 = ("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet")
_OTHERS = (
    *("airplane", "bench", "bookshelf", "bottle", "bowl", "car", "cone", "cup", "curtain", "door", "flower_pot"),
    *("glass_box", "guitar", "keyboard", "lamp", "laptop", "mantel", "person", "piano", "plant", "radio"),
    *("range_hood", "sink", "stairs", "stool", "tent", "tv_stand", "vase", "wardrobe", "xbox"),
)
MODELNET40 = tuple(sorted(MODELNET10 + _OTHERS))
_NAMES = {"10": MODELNET10, "40": MODELNET40}
_SPLITS = ("train", "test")


class ModelNet(SampledShapes):
    """Points on ModelNet's meshes, uniform by area.

    The meshes are read from the unpacked archive, <path>/ModelNet10/chair/train/chair_0001.off, one when it is asked
    for, in the order of categories and names. PyTorch Geometric calls the same folder <path>/raw. Where only its
    processed files are left, torch_geometric.datasets.ModelNet opens them; they are pickles, so they are read with
    `weights_only`, which runs no code of theirs. Nothing is downloaded and nothing is written.

    Args:
        path: folder that holds ModelNet10/, ModelNet40/, raw/ or processed/, or one of the first three itself.
        split: "train" or "test"; ModelNet has no other.
        category: one or more names; None for all. Labels are positions in `categories`, the sorted names.
        num_points: of each cloud, at least 1.
        name: "10" or "40".
        seed: of the points, at least 0.

    Raises:
        FileNotFoundError: if neither meshes nor processed files are there.
        ValueError: if an argument is not as described.
    """

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        category: str | Sequence[str] | None = None,
        num_points: int = 2048,
        name: str | int = "10",
        seed: int = 0,
    ) -> None:
        self.path, self.split, self.name = Path(path), split, str(name)  # 40 on a command line is a number
        if self.name not in _NAMES:
            raise ValueError(f"name must be 10 or 40, got {name!r}")
        if split not in _SPLITS:
            raise ValueError(f"split must be train or test, which is all that ModelNet has, got {split!r}")
        raw = _raw_folder(self.path, self.name)
        self.files: tuple[Path, ...] = ()
        self.meshes: list[Any] = []
        if raw is not None:
            there = _categories_in(raw)
            if foreign := set(there) - set(_NAMES[self.name]):
                raise ValueError(f"{raw} holds {min(foreign)}, which is not in ModelNet{self.name}; is name right?")
            chosen = choose(category, there, raw)
            found = [(file, place) for place, key in enumerate(chosen) for file in _files(raw / key / split)]
            if not found:
                raise FileNotFoundError(f"{raw} holds no {split} files of {', '.join(chosen)}")
            self.files, labels = tuple(file for file, _ in found), [label for _, label in found]
        else:
            every = processed_modelnet(self.path, split, self.name)
            chosen = choose(category, _NAMES[self.name], self.path)
            # PyTorch Geometric numbers the categories of the whole set in the order of their names.
            places = {_NAMES[self.name].index(key): place for place, key in enumerate(chosen)}
            self.meshes = [mesh for mesh in every if int(mesh.y) in places]
            labels = [places[int(mesh.y)] for mesh in self.meshes]
        super().__init__(labels, tuple(chosen), num_points, seed)

    def __len__(self) -> int:
        """Number of meshes."""
        return len(self.files or self.meshes)

    def shape(self, index: int) -> Surface:
        """The surface of mesh `index`, 0 <= index < len."""
        if self.files:
            surface = read_shape(self.files[index])
            if not isinstance(surface, Surface):
                raise ValueError(f"{self.files[index]} holds no faces")
            return surface
        mesh = self.meshes[index]
        try:
            return Surface(mesh.pos[mesh.face.T].numpy())
        except (ValueError, IndexError) as error:
            raise ValueError(f"{self.source(index)}: {error}") from error

    def source(self, index: int) -> str:
        """Where mesh `index` comes from."""
        return str(self.files[index]) if self.files else f"{self.path}: processed mesh {index}"


def _raw_folder(path: Path, name: str) -> Path | None:
    """The folder of the categories."""
    places = (path / f"ModelNet{name}", path / "raw", path / f"ModelNet{name}" / "raw", path)
    return next((place for place in places if _categories_in(place)), None)


def _categories_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(child.name for child in folder.iterdir() if any((child / split).is_dir() for split in _SPLITS))


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.off") if not file.name.startswith("."))
