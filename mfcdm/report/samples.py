"""Generated clouds of a run as the page shows them, each beside its nearest training shape."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfcdm.datasets import CloudArchive, Clouds
from mfcdm.randomness import cloud_generators
from mfcdm.report.nearest import Match, matches, subset

MAX_CLOUDS = 8
MAX_POINTS = 2048  # of a cloud that are drawn
DIGITS = 3  # decimals of a coordinate, in units of the frame's half side rounded down to a power of ten
FRAME = 0.995  # of the points set the frame; one stray point must not shrink a shape to a dot
DRAWN = 13  # stream of `cloud_generators`, beside those of `nearest.py`
MARGIN = 1.5  # times as far as those points reach, as long as there are points


@dataclass(frozen=True)
class Samples:
    """Clouds that were drawn from a run.

    Args:
        path: of their file.
        clouds: the first ones, (N_i, D).
        titles: one a cloud.
    """

    path: Path
    clouds: Sequence[Tensor]
    titles: Sequence[str]


def find_samples(folder: Path) -> Path | None:
    """The run's own samples, or the newest ones in a folder below it, None where there are none."""
    if (own := folder / "samples" / "samples.npz").is_file():
        return own
    return max(folder.glob("*/samples.npz"), key=lambda path: path.stat().st_mtime, default=None)


def read_samples(folder: Path, categories: Sequence[str] = ()) -> Samples | None:
    """The first 8 clouds that were drawn from a run, None where there are none.

    Args:
        folder: of the run.
        categories: names of the classes, where known.

    Raises:
        ValueError: if they cannot be read.
    """
    path = find_samples(folder)
    if path is None:
        return None
    archive = CloudArchive(path)
    items = [archive[index] for index in range(min(len(archive), MAX_CLOUDS))]
    clouds = Clouds.join([item["x"] for item in items], names=[f"{path}: cloud {index}" for index in range(len(items))])
    titles = [_title(index, item.get("label"), categories) for index, item in enumerate(items)]
    return Samples(path, clouds.points(), titles)


def pairs(samples: Samples, training: Clouds | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """What the page shows of each cloud: at most 2,048 of its points, the nearest training shape, and their frame.

    Args:
        samples: of the run.
        training: its training clouds in the same coordinates; None where they are not there.
        seed: of all subsets.

    Returns:
        {"title", "points", "generated", "nearest", "center", "reach", "outside", "match"} each; clouds are
        {"x", "y", "z"}, z of clouds in the plane 0; nearest and match are None without training clouds.

    Raises:
        ValueError: if the dimensions do not fit.
    """
    (generator,) = cloud_generators(seed, [0], DRAWN)
    found: Sequence[Match | None] = [None] * len(samples.clouds)
    if training is not None:
        found = matches(samples.clouds, training, seed)
    shown = []
    for cloud, title, match in zip(samples.clouds, samples.titles, found, strict=True):
        clouds = [cloud]
        if training is not None and match is not None:
            clouds.append(training.cloud(match.index))
        about = {"title": title, "points": len(cloud), "match": None if match is None else vars(match)}
        shown.append(about | _drawn([subset(each, MAX_POINTS, generator) for each in clouds]))
    return shown


def _drawn(clouds: list[Tensor]) -> dict[str, Any]:
    """A cloud, and perhaps another one, in the frame that both share."""
    clouds = [torch.nn.functional.pad(cloud.double(), (0, 3 - cloud.shape[1])) for cloud in clouds]
    middles = [(cloud.amax(dim=0) + cloud.amin(dim=0)) / 2 for cloud in (_central(cloud) for cloud in clouds)]
    center = torch.stack(middles).mean(dim=0)
    distances = torch.cat([(cloud - center).abs().amax(dim=1) for cloud in clouds])
    reach = min(float(distances.quantile(FRAME)) * MARGIN, float(distances.max()) * 1.02) or 1.0
    decimals = DIGITS - math.floor(math.log10(reach))
    return {
        "center": center.tolist(),
        "reach": reach,
        "outside": int((distances > reach).sum()),
        "generated": _columns(clouds[0], decimals),
        "nearest": _columns(clouds[1], decimals) if len(clouds) > 1 else None,
    }


def _central(cloud: Tensor) -> Tensor:
    """The points of a cloud but the furthest half percent."""
    distance = (cloud - cloud.median(dim=0).values).norm(dim=1)
    return cloud[distance <= distance.quantile(FRAME)]


def _columns(cloud: Tensor, decimals: int) -> dict[str, list[float]]:
    """Coordinates (N, 3) as lists of rounded numbers."""
    return {axis: [round(value, decimals) for value in cloud[:, d].tolist()] for d, axis in enumerate("xyz")}


def _title(index: int, label: int | None, categories: Sequence[str]) -> str:
    if label is None:
        return f"cloud {index}"
    name = categories[label] if 0 <= label < len(categories) else f"class {label}"
    return f"cloud {index}: {name}"
