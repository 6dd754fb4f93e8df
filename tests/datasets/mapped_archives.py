"""Small data sets to be written as mapped archives."""

import json
from pathlib import Path

import torch

from mfcdm.datasets import Layout, MappedArchive, write_archive

MIXED = (7, 30, 4, 12, 9, 30, 5, 8, 21, 6)
EQUAL = (12,) * 10


class Made:
    """Clouds of given sizes around a place far from the origin; with classes they take them in turn."""

    def __init__(self, sizes=MIXED, categories=(), dim=3, seed=0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.clouds = [100 + torch.rand(1, generator=g) * torch.randn(n, dim, generator=g) for n in sizes]
        self.categories = categories

    def __len__(self) -> int:
        return len(self.clouds)

    def __getitem__(self, index):
        item = {"x": self.clouds[index]}
        return item | ({"label": index % len(self.categories)} if self.categories else {})

    def source(self, index) -> str:
        return f"place {index}"


def written(folder: Path, dataset, **layout) -> MappedArchive:
    """The data set as the split train of an archive of four clouds a shard."""
    write_archive(folder, {"train": dataset}, Layout(**{"shard_clouds": 4, **layout}))
    return MappedArchive(folder)


def change_index(folder: Path, *keys, value) -> None:
    """Set an entry of index.json."""
    path = folder / "index.json"
    index = node = json.loads(path.read_text())
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    path.write_text(json.dumps(index))
