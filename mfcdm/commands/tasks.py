"""What completion, densification, interpolation and likelihood share: their keys, their model, their bar."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from mfcdm.build import check_arguments
from mfcdm.checkpoint import Checkpoint
from mfcdm.commands.console import Meter, Pace
from mfcdm.commands.given import Given
from mfcdm.holding import Hold
from mfcdm.interpolation import Matching
from mfcdm.likelihood import Divergence
from mfcdm.networks import as_score
from mfcdm.randomness import cloud_generators, random_subset
from mfcdm.samplers import Sampler, Score
from mfcdm.wording import counted

SUBSETS = 1  # the random stream of subsets; that of noise is 0


@dataclass(frozen=True)
class Conditioning:
    """The keys of the group `conditioning` of sample.yaml, which explains them.

    Raises:
        ValueError: if a value is out of its range; those of `Hold` are checked there.
    """

    split: str
    num_points: int
    rescale: bool | None
    farthest: float
    directions: int | None
    floor: float
    trust: float
    resamplings: int
    jump: float
    until: float
    share: float
    noise: str
    push: float
    matching: Matching
    num_pairs: int | None
    divergence: Divergence
    num_probes: int
    tolerance: float

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        self.hold(0)
        for name, count in (("num_points", self.num_points), ("num_probes", self.num_probes)):
            if count < 1:
                raise ValueError(f"conditioning.{name} must be >= 1, got {count}")
        if self.num_pairs is not None and self.num_pairs < 1:
            raise ValueError(f"conditioning.num_pairs must be >= 1, or null for all, got {self.num_pairs}")
        for name, value in (("farthest", self.farthest), ("tolerance", self.tolerance)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"conditioning.{name} must be > 0 and finite, got {value}")
        if not 0.0 <= self.push < math.inf:
            raise ValueError(f"conditioning.push must be >= 0 nats and finite, got {self.push}")

    @classmethod
    def of(cls, keys: Mapping[str, Any]) -> "Conditioning":
        """The keys of a configuration."""
        check_arguments(cls, keys, "conditioning.")
        return cls(**keys)

    def hold(self, directions: int) -> Hold:
        """How given points condition; `directions` where the keys leave them open."""
        names = ("floor", "trust", "resamplings", "jump", "until", "share", "noise")
        chosen = directions if self.directions is None else self.directions
        try:
            return Hold(directions=chosen, **{name: getattr(self, name) for name in names})
        except ValueError as error:
            raise ValueError(f"conditioning.{error}") from error


@dataclass(frozen=True)
class Task:
    """A model, the clouds of a file, and what to do with them.

    Args:
        name: complete, densify, interpolate or likelihood.
        model: to draw from.
        sampler: with its number of steps.
        given: the clouds.
        options: of the task.
        labels: classes that clouds take in turn; none for clouds without one.
        guidance: towards them.
        num_clouds: as asked for, None where it is left open.
        num_particles: as asked for, None where it is left open.
        seed: cloud i depends on (seed, i) alone.
        batch_size: clouds made together.
    """

    name: str
    model: Checkpoint
    sampler: Sampler
    given: Given
    options: Conditioning
    labels: Sequence[int]
    guidance: float
    num_clouds: int | None
    num_particles: int | None
    seed: int
    batch_size: int

    def score(self, indices: Sequence[int]) -> Score:
        """The score of some clouds, each of its class."""
        label = None
        if self.labels:
            chosen = [self.labels[index % len(self.labels)] for index in indices]
            label = torch.tensor(chosen, device=self._weight.device)
        return as_score(self.model.network, self.model.sde, label, self.guidance)

    def normalized(self, index: int) -> Tensor:
        """Cloud `index` of the file in the network's coordinates, on its device and in its dtype, (N_i, D)."""
        return self.given.normalized(index).to(self._weight)

    def some_points(self, index: int) -> Tensor:
        """The same cloud, or num_particles of its points at random where so many are asked for.

        Raises:
            ValueError: if it has fewer.
        """
        cloud, count = self.normalized(index), self.num_particles
        if count is None:
            return cloud
        if count > len(cloud):
            name, size = self.given.names[index], counted(len(cloud), "point")
            raise ValueError(f"{name} has {size}, fewer than num_particles={count}")
        generator = cloud_generators(self.seed, [index], stream=SUBSETS)
        return cloud[random_subset(count, 1, len(cloud), generator, device=cloud.device)[0]]

    @property
    def _weight(self) -> Tensor:
        # A network that is all formula has no weights: torch's default type and the CPU are its own.
        network = self.model.network
        return next(chain(network.parameters(), network.buffers()), torch.empty(0))


class Bar:
    """Shows what share of the work is done, and how long the rest takes."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self._pace = meter, Pace()

    def show(self, share: float) -> None:
        """Move the bar."""
        speed = self._pace.add(share, time.monotonic())
        self._meter.show(share, seconds_left=(1 - share) / speed if speed > 0 else None)
