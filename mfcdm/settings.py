"""What the commands take: the keys of their yaml files, and whether data, network and device fit together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mfcdm.datasets import Clouds
from mfcdm.datasets.clouds import Scheme
from mfcdm.datasets.memory import check_fits
from mfcdm.outline import outline_of
from mfcdm.subdivision import Subdivision
from mfcdm.wording import counted

Group = Mapping[str, Any]

DRAWN_DIMS = (2, 3)  # of clouds that pictures and files can show
MAX_SEED = 2**63  # torch takes seeds below it
MOST_WEIGHTS = 5_000  # tensors of a network; ours have about twenty a block


@dataclass(frozen=True)
class TrainKeys:
    """The keys of train.yaml; groups with a _target_ are checked when they are built."""

    sde: Group
    subdivision: Group
    branching: Group
    network: Group
    objective: Group
    dataset: Group
    sampler: Group
    trainer: Group
    name: str
    seed: int
    resume: str | None
    normalization: Scheme
    num_pictured: int
    trust: bool = False
    validation: Group | None = None  # runs of earlier versions have none
    augmentation: Group | None = None  # nor this
    logger: Group | None = None


@dataclass(frozen=True)
class SampleKeys:
    """The keys of sample.yaml."""

    sampler: Group
    protocol: Group
    checkpoint: str
    output: str
    num_clouds: int | None
    num_particles: int | Sequence[int] | None
    num_real: int
    class_: str | int | Sequence[str | int] | None  # the key `class`
    guidance: float
    evaluate: str | None
    reference_split: str | None
    log_scores: bool
    complete: str | None
    densify: str | None
    interpolate: str | None
    likelihood: str | None
    conditioning: Group
    seed: int
    batch_size: int
    device: str
    compile: bool
    devices: int | None
    num_nodes: int | None
    trust: bool


@dataclass(frozen=True)
class EvaluateKeys:
    """The keys of evaluate.yaml."""

    protocol: Group
    generated: str
    reference: str
    generated_split: str
    reference_split: str | None
    output: str | None
    run: str | None
    device: str


def fitted_to(network: nn.Module, clouds: Clouds) -> Clouds:
    """The clouds without labels where the network takes none.

    Raises:
        ValueError: if they are not what the network takes.
    """
    dim, classes = getattr(network, "dim", None), getattr(network, "num_classes", 0)
    if dim is not None and dim != clouds.x.shape[2]:
        raise ValueError(f"the clouds have dimension {clouds.x.shape[2]}, the network {dim}; network.dim sets it")
    if not classes:
        return replace(clouds, labels=None)
    if clouds.labels is None:
        raise ValueError(f"network.num_classes={classes} needs labels, and the data set has none")
    if int(clouds.labels.max()) >= classes:
        raise ValueError(f"the labels go up to {int(clouds.labels.max())}: network.num_classes={classes} is too few")
    return clouds


def check_dimension(clouds: Clouds, place: str) -> None:
    """Refuse clouds that no picture can show, before a run comes to its first one; `place` is where they lie."""
    if (dim := clouds.x.shape[2]) not in DRAWN_DIMS:
        raise ValueError(f"the clouds of {place} have dimension {dim}; training takes dimension 2 or 3")


def check_device(setting: str, name: str) -> str:
    """The device that "auto", "cpu", "cuda" or "cuda:1" stands for.

    Raises:
        ValueError: if it is none of them, or is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise ValueError(f"{setting} must be auto, cpu or cuda")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"{setting} is not there: torch sees {counted(torch.cuda.device_count(), 'CUDA device')}")
    return name


def check_numbers(config: Group) -> None:
    """Refuse numbers of either command that are out of range, before anything is read or shown.

    Raises:
        ValueError: a sentence that names the key and its value.
    """
    least_ones = {"num_clouds": 1, "batch_size": 1, "devices": 1, "num_nodes": 1, "num_pictured": 0, "num_real": 0}
    for key, least in least_ones.items():
        if key in config and config[key] < least:
            raise ValueError(f"{key} must be >= {least}, got {key}={config[key]}")
    if not 0 <= config["seed"] < MAX_SEED:
        raise ValueError(f"seed must be from 0 to 2^63 - 1, got seed={config['seed']}")
    if not 0.0 <= config.get("guidance", 1.0) < math.inf:
        raise ValueError(f"guidance must be >= 0 and finite, got guidance={config['guidance']}")
    wanted = config.get("num_particles")
    sizes = [] if wanted is None else [wanted] if isinstance(wanted, int) else wanted
    if wanted == [] or any(size < 1 for size in sizes):
        raise ValueError(f"num_particles must be one or more whole numbers >= 1, got num_particles={wanted}")


def check_extent(name: str, config: dict[str, Any], kind: type) -> None:
    """Refuse a part of a stranger's model that could not be built, before that is tried.

    Raises:
        MemoryError: if its weights would fill more than half of the memory.
        ValueError: if it would have more of them than any network has, or its configuration is refused.
    """
    part: object = outline_of(config, kind, MOST_WEIGHTS, f"{name} would have more than {MOST_WEIGHTS} weights")
    if isinstance(part, nn.Module):
        size = sum(weight.numel() * weight.element_size() for weight in part.parameters())
        check_fits(size, f"the weights of {name}", "; make it smaller")


def check_steps(setting: str, num_steps: int, subdivision: Subdivision) -> None:
    """Refuse a sampler that has fewer steps than there are levels."""
    if num_steps < subdivision.num_levels:
        raise ValueError(f"{setting} is too few for {subdivision.num_levels} levels; every level needs a step")


def check_cardinality(clouds: Clouds, subdivision: Subdivision) -> None:
    """Refuse clouds that have fewer points than the last level needs."""
    index, points = clouds.smallest
    if points < subdivision.cardinalities[-1]:
        raise ValueError(
            f"cloud {index} has {counted(points, 'point')}, but the last level needs {subdivision.cardinalities[-1]}; "
            f"set subdivision.num_particles={points} or less"
        )
