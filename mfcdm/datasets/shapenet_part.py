"""ShapeNet's part-annotation clouds, which PyTorch Geometric calls ShapeNet."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mfcdm.datasets.formats import read_shape
from mfcdm.datasets.processed import SHAPENET_PART, processed_shapenet
from mfcdm.datasets.sampled import SampledShapes
from mfcdm.datasets.shapes import Surface

CATEGORIES = {
    "airplane": "02691156",
    "bag": "02773838",
    "cap": "02954340",
    "car": "02958343",
    "chair": "03001627",
    "earphone": "03261776",
    "guitar": "03467517",
    "knife": "03624134",
    "lamp": "03636649",
    "laptop": "03642806",
    "motorbike": "03790512",
    "mug": "03797390",
    "pistol": "03948459",
    "rocket": "04099429",
    "skateboard": "04225987",
    "table": "04379243",
}
_SPLITS = {"train": ("train",), "val": ("val",), "test": ("test",), "trainval": ("train", "val")}
# An entry of a list: shape_data/<synset>/<model>. Anything else could lead out of the folder.
_ENTRY = re.compile(r"[^/\\]+/(\d+)/(\w[\w.-]*)")


class ShapeNetPart(SampledShapes):
    """Points of the part-annotation set, about 2,600 a cloud, without the normals and the parts.

    The clouds are read from the unpacked archive, <synset>/<model>.txt with columns x y z and more, one when it is
    asked for, in the order of train_test_split/shuffled_<split>_file_list.json. PyTorch Geometric calls the same
    folder <path>/raw. Where only its processed files are left, torch_geometric.datasets.ShapeNet opens them; they are
    pickles, so they are read with `weights_only`, which runs no code of theirs. Nothing is downloaded or written.

    Args:
        path: folder that holds the archive's folder, raw/ or processed/, or one of the first two itself.
        split: "train", "val", "test" or "trainval".
        category: one or more of the 16 names ("airplane", "chair", ...); None for all. Labels are positions in
            `categories`, the sorted names.

    Raises:
        FileNotFoundError: if neither clouds nor processed files are there, or a listed cloud is missing.
        ValueError: if an argument is not as described, or a list is damaged.
    """

    def __init__(self, path: str | Path, split: str = "train", category: str | Sequence[str] | None = None) -> None:
        self.path, self.split = Path(path), split
        if split not in _SPLITS:
            raise ValueError(f"split must be one of {', '.join(_SPLITS)}, got {split!r}")
        chosen = _chosen(category)
        places = {CATEGORIES[name]: place for place, name in enumerate(chosen)}
        raw = next(
            (place for place in (self.path / "raw", self.path / SHAPENET_PART, self.path) if _is_raw(place)), None
        )
        self.files: tuple[Path, ...] = ()
        self.clouds: list[Any] = []
        if raw is not None:
            entries = [entry for part in _SPLITS[split] for entry in _listed(raw, part) if entry[0] in places]
            self.files = tuple(raw / synset / f"{model}.txt" for synset, model in entries)
            labels = [places[synset] for synset, _ in entries]
            for file in self.files:
                if not file.is_file():
                    raise FileNotFoundError(f"{file} is not there, but the list of {split} names it")
        else:
            self.clouds, labels = processed_shapenet(self.path, split, chosen)
        if not labels:
            raise FileNotFoundError(f"{self.path} holds no {split} clouds of {', '.join(chosen)}")
        super().__init__(labels, chosen, num_points=1, seed=0)

    def __len__(self) -> int:
        """Number of clouds."""
        return len(self.files or self.clouds)

    def shape(self, index: int) -> NDArray[Any]:
        """The points of cloud `index`, (N, 3), 0 <= index < len."""
        if not self.files:
            points: NDArray[Any] = self.clouds[index].pos.numpy()
            return points
        points = read_shape(self.files[index])  # type: ignore[assignment]
        if isinstance(points, Surface) or points.shape[1] != 3:
            raise ValueError(f"{self.files[index]} must have columns x y z")
        return points

    def source(self, index: int) -> str:
        """Where cloud `index` comes from."""
        return str(self.files[index]) if self.files else f"{self.path}: processed cloud {index}"


def _chosen(category: str | Sequence[str] | None) -> tuple[str, ...]:
    names = [category] if isinstance(category, str) else list(CATEGORIES if category is None else category)
    unknown = [name for name in names if name.lower() not in CATEGORIES]
    if unknown or not names:
        raise ValueError(f"category must be of {', '.join(CATEGORIES)}, got {category!r}")
    return tuple(sorted({name.lower() for name in names}))


def _is_raw(folder: Path) -> bool:
    return (folder / "train_test_split").is_dir()


def _listed(raw: Path, split: str) -> list[tuple[str, str]]:
    """(synset, model) of every cloud in the list of a split."""
    path = raw / "train_test_split" / f"shuffled_{split}_file_list.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        found = [_ENTRY.fullmatch(entry) for entry in entries]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a list of shape_data/<synset>/<model>: {error}") from error
    for entry, match in zip(entries, found, strict=True):
        if match is None:
            raise ValueError(f"{path} lists {entry!r}, which is not shape_data/<synset>/<model>")
    return [(match[1], match[2]) for match in found if match is not None]
