"""Clouds and direct definitions shared by the tests of the metrics."""

import torch
from torch import Tensor


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def chamfer_by_definition(x: Tensor, y: Tensor) -> float:
    """Two loops over the points of one pair."""
    forth = [min(float((p - q).square().sum()) for q in y) for p in x]
    back = [min(float((p - q).square().sum()) for p in x) for q in y]
    return sum(forth) / len(x) + sum(back) / len(y)


def padded(clouds: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Clouds in one batch with NaN for padding, and their lengths."""
    lengths = torch.tensor([len(cloud) for cloud in clouds])
    x = torch.full((len(clouds), int(lengths.max()) + 2, clouds[0].shape[1]), torch.nan, dtype=clouds[0].dtype)
    for b, cloud in enumerate(clouds):
        x[b, : len(cloud)] = cloud
    return x, lengths
