"""Processed files of PyTorch Geometric, opened by its own data sets where the raw files are gone.

torch_geometric takes seconds to import, so it is imported when one of these functions is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

# Name of the archive, and of the folder in it.
SHAPENET_PART = "shapenetcore_partanno_segmentation_benchmark_v0_normal"


def processed_modelnet(path: Path, split: str, name: str) -> list[Any]:
    """Open <path>/processed/training.pt or test.pt.

    Args:
        path: PyTorch Geometric's root folder.
        split: "train" or "test".
        name: "10" or "40".

    Returns:
        data with `pos` (V, 3), `face` (3, F) and `y`, one for each mesh.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it is not a file of PyTorch Geometric, or holds more than tensors.
    """
    file = path / "processed" / ("training.pt" if split == "train" else "test.pt")
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} holds neither ModelNet{name}/<category>/{split}/*.off nor {file.relative_to(path)}; "
            f"download ModelNet{name}.zip from https://modelnet.cs.princeton.edu and unpack it there"
        )
    from torch_geometric.datasets import ModelNet

    return list(_offline(ModelNet, file)(root=str(path), name=name, train=split == "train"))


def processed_shapenet(path: Path, split: str, categories: tuple[str, ...]) -> tuple[list[Any], list[int]]:
    """Open <path>/processed/<categories>_<split>.pt, of exactly these categories or of all.

    Args:
        path: PyTorch Geometric's root folder.
        split: "train", "val", "test" or "trainval".
        categories: names in lower case, sorted.

    Returns:
        data with `pos` (N, 3), one for each cloud, and their labels, positions in `categories`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a file of PyTorch Geometric, or holds more than tensors.
    """
    if not (path / "processed").is_dir():
        raise FileNotFoundError(_shapenet_advice(path, split))
    from torch_geometric.datasets import ShapeNet

    every = tuple(ShapeNet.category_ids)
    for names in (tuple(name.capitalize() for name in categories), every):
        file = path / "processed" / f"{'_'.join(name[:3].lower() for name in names)}_{split}.pt"
        if file.is_file():
            opened = _offline(ShapeNet, file)(root=str(path), categories=list(names), split=split)
            found = [(cloud, names[int(cloud.category)].lower()) for cloud in opened]
            chosen = [(cloud, categories.index(name)) for cloud, name in found if name in categories]
            return [cloud for cloud, _ in chosen], [label for _, label in chosen]
    raise FileNotFoundError(_shapenet_advice(path, split))


def _shapenet_advice(path: Path, split: str) -> str:
    return (
        f"{path} holds neither {SHAPENET_PART}/train_test_split/shuffled_{split}_file_list.json "
        f"nor processed/*_{split}.pt; get {SHAPENET_PART}.zip from https://shapenet.org and unpack it there"
    )


def _offline(dataset: Any, file: Path) -> Any:
    """A data set of PyTorch Geometric that neither downloads nor processes, and reads `file` as plain tensors."""

    class Offline(dataset):
        def _download(self) -> None:
            """The raw files are not needed."""

        def _process(self) -> None:
            """The file is there. (The original also unpickles two files beside it, without any check.)"""

        def load(self, path: str, data_cls: Any = None) -> None:
            """The original falls back on running whatever the pickle says."""
            try:
                data, self.slices, data_cls = torch.load(path, weights_only=True)
                self.data = data_cls.from_dict(data)
            except Exception as error:  # torch's own reasons are long, and advise to run the pickle
                raise ValueError(f"{file} cannot be read: it is damaged, or holds more than tensors") from error

    return Offline
