"""Scores of generated against held-out clouds while a network trains."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mfcdm.branching import Branching
from mfcdm.datasets.clouds import CloudDataset, Clouds, Normalization
from mfcdm.datasets.portion import Portion
from mfcdm.generate import generate
from mfcdm.metrics import coverage, minimum_matching_distance, one_nearest_neighbour_interval, pairwise
from mfcdm.randomness import cloud_generators, random_subset
from mfcdm.samplers import Sampler
from mfcdm.sde import SDE
from mfcdm.subdivision import Subdivision
from mfcdm.training.processes import ALONE
from mfcdm.visualize import draw_clouds
from mfcdm.wording import counted

# Streams of `cloud_generators`: 0 is sampling's, 1 and 2 are those of `mfcdm.training.batches`.
GENERATION, CHOICE, POINTS = 3, 4, 5

MIN_CLOUDS = 4  # of each set, that a 1-NNA with an interval needs
MAX_DRAWN = 8  # clouds of each set in a picture


@dataclass(frozen=True)
class ValidationOptions:
    """When to validate, and how much of it.

    Args:
        every: below 1 a share of the run (0.2: five times), from 1 on a whole number of steps; the end always counts.
            A run bounded by minutes leaves out those of a share that would take it over 5 % of its time.
        num_clouds: generated and held-out clouds to compare, at most; 0 for no validation.
        num_steps: of the sampler, at least one a level.
        patience: validations without an improvement beyond their interval after which a run says so; 0 for never.

    Raises:
        ValueError: if an option is out of its range.
    """

    every: float = 0.2
    num_clouds: int = 32
    num_steps: int = 50
    patience: int = 3

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        if not 0 < self.every < math.inf or (self.every > 1 and self.every != int(self.every)):
            raise ValueError(
                f"validation.every must be a share of the run below 1 or a whole number of steps, got {self.every}"
            )
        if self.num_clouds != 0 and self.num_clouds < MIN_CLOUDS:
            raise ValueError(f"validation.num_clouds must be 0 or at least {MIN_CLOUDS}, got {self.num_clouds}")
        if self.num_steps < 1:
            raise ValueError(f"validation.num_steps must be >= 1, got {self.num_steps}")
        if self.patience < 0:
            raise ValueError(f"validation.patience must be >= 0, got {self.patience}")

    def due(self, step: int, before: float, after: float) -> bool:
        """Whether to validate after `step` steps, the last of which took the share of the run from before to after."""
        if after >= 1.0:
            return True
        if self.every >= 1:
            return step % int(self.every) == 0
        # 0.6 / 0.2 rounds to just below 3; a share that is reached but for rounding is reached.
        return math.floor(after / self.every + 1e-9) > math.floor(before / self.every + 1e-9)

    def ahead(self, step: int, share: float, max_steps: int | None) -> int:
        """Validations still to come after `step` steps, a share of the run, if none is left out; the last ends it.

        Where `every` is a number of steps and their number is not known, only the last one counts.
        """
        if share >= 1.0:
            return 0
        if self.every < 1:
            return math.ceil(1.0 / self.every - 1e-9) - math.floor(share / self.every + 1e-9)
        whole = int(self.every)
        return 1 if max_steps is None else -(-max_steps // whole) - step // whole


@dataclass(frozen=True)
class Scores:
    """What a validation found."""

    values: dict[str, float]  # of the record, by name
    clouds: Tensor  # (B, N, D) generated, in the data's coordinates

    @property
    def score(self) -> float:
        """1-NNA."""
        return self.values["validation/1nna-cd"]

    @property
    def error(self) -> float:
        """|1-NNA - 1/2|: 0 is best; a 1-NNA below 1/2 says that the clouds are copies of the held-out ones."""
        return abs(self.score - 0.5)

    @property
    def error_interval(self) -> tuple[float, float]:
        """Least and largest |s - 1/2| for s in the interval of the 1-NNA."""
        low, high = (self.values[f"validation/1nna-cd/{end}"] - 0.5 for end in ("low", "high"))
        return max(0.0, low, -high), max(abs(low), abs(high))


class Validation:
    """Draws clouds from a network and scores them against held-out ones, in the data's coordinates.

    Every call draws from the same generators, its own: scores of two networks differ by the networks alone, and
    training sees the same random numbers with and without it.

    Args:
        clouds: held-out clouds (R, N, D), N at least the trained cardinality N_K; of each a random subset of N_K points
            is compared.
        normalization: from the data's coordinates to the network's.
        sde: the forward process.
        sampler: draws with `options.num_steps` steps.
        subdivision: the levels.
        branching: between levels.
        options: when, and how many.
        seed: of all draws.
        batch_size: clouds drawn together.

    Raises:
        ValueError: if there are too few clouds, points or steps.
    """

    def __init__(
        self,
        clouds: Clouds,
        normalization: Normalization,
        sde: SDE,
        sampler: Sampler,
        subdivision: Subdivision,
        branching: Branching,
        options: ValidationOptions,
        seed: int = 0,
        batch_size: int = 16,
    ) -> None:
        index, fewest = clouds.smallest
        num_particles = subdivision.cardinalities[-1]
        if len(clouds) < MIN_CLOUDS:
            raise ValueError(f"a validation needs at least {MIN_CLOUDS} held-out clouds, got {len(clouds)}")
        if fewest < num_particles:
            raise ValueError(
                f"held-out cloud {index} has {counted(fewest, 'point')}, but the last level has {num_particles}; set "
                f"subdivision.num_particles={fewest} or less, or validation.num_clouds=0"
            )
        if options.num_steps < subdivision.num_levels:
            raise ValueError(f"validation.num_steps={options.num_steps} is too few for {subdivision.num_levels} levels")
        self.normalization, self.sde, self.subdivision, self.branching = normalization, sde, subdivision, branching
        self.sampler = sampler.with_steps(options.num_steps)
        self.options, self.seed, self.batch_size = options, seed, batch_size
        self.processes = ALONE  # that draw together; a trainer with more of them says so
        self.labels = clouds.labels
        self.reference = _subsets(clouds, num_particles, seed)  # (R, N_K, D)
        self._among_reference = pairwise(self.reference, self.reference)  # (R, R)

    def __call__(self, network: nn.Module, progress: Callable[[int, int], None] | None = None) -> Scores:
        """Draw as many clouds as are held out, each process its share, and compare; the scores are the same in all.

        Args:
            network: in normalised coordinates.
            progress: called with (steps done, steps in all) while clouds are drawn.

        Raises:
            FloatingPointError: if particles become non-finite.
        """
        begun = time.monotonic()
        x = self.normalization.undo(self._drawn(network, progress)).cpu().to(self.reference)
        among, across = self._distances(x, x), self._distances(x, self.reference)
        values = self.processes.by_first(lambda: self._compared(among, across))
        return Scores(values | {"validation/seconds": self.processes.number_of_first(time.monotonic() - begun)}, x)

    def _drawn(self, network: nn.Module, progress: Callable[[int, int], None] | None) -> Tensor:
        """Generated clouds (R, N_K, D), in normalised coordinates."""
        num_clouds, num_particles, _ = self.reference.shape
        indices = self._share(num_clouds)

        def advance(done: int, total: int) -> None:
            with self.processes.together():
                if progress is not None:
                    progress(done, total)

        with self.processes.together():
            x = generate(
                network,
                self.sde,
                self.sampler,
                self.subdivision,
                self.branching,
                num_clouds=len(indices),
                num_particles=num_particles,
                label=None if self.labels is None else self.labels[indices],
                seed=self.seed,
                batch_size=self.batch_size,
                indices=indices,
                stream=GENERATION,
                progress=advance,
            )
        return self.processes.gathered(x)[:num_clouds]

    def _share(self, num_clouds: int) -> list[int]:
        """Which clouds are this process' own.

        All shares are equally large, so that the processes keep pace; the last ones repeat the last cloud for it.
        """
        share = -(-num_clouds // self.processes.count)
        return [min(self.processes.rank * share + n, num_clouds - 1) for n in range(share)]

    def _distances(self, x: Tensor, y: Tensor) -> Tensor:
        """Chamfer distances (R, R') of all pairs of clouds, of which each process computes its rows."""
        with self.processes.together():
            own = pairwise(x if self.processes.count == 1 else x[self._share(len(x))], y)
        return self.processes.gathered(own)[: len(x)].cpu()

    def _compared(self, among: Tensor, across: Tensor) -> dict[str, float]:
        """Scores of generated clouds, from their distances to each other and to the held-out ones."""
        nearest = one_nearest_neighbour_interval(among, self._among_reference, across)
        return {
            "validation/1nna-cd": nearest.score,
            "validation/1nna-cd/low": nearest.low,
            "validation/1nna-cd/high": nearest.high,
            "validation/error": abs(nearest.score - 0.5),
            "validation/mmd-cd": minimum_matching_distance(across),  # minimum matching distance
            "validation/cov-cd": coverage(across),
            "validation/num_clouds": len(across),
        }

    def draw(self, path: Path, scores: Scores) -> Path:
        """Write a picture of the first generated clouds above held-out ones, and return its path."""
        rows = [list(scores.clouds[:MAX_DRAWN]), list(self.reference[:MAX_DRAWN])]
        return draw_clouds(path, rows, ["generated", "held-out data"])


def held_out(dataset: CloudDataset, num_clouds: int, seed: int) -> Clouds:
    """At most `num_clouds` clouds of a data set, drawn by seed without replacement and read one by one.

    Raises:
        ValueError: if one of them cannot be used.
    """
    (generator,) = cloud_generators(seed, [0], CHOICE)
    order = torch.randperm(len(dataset), generator=generator).tolist()
    return Clouds.of(Portion(dataset, sorted(order[:num_clouds])))


def _subsets(clouds: Clouds, size: int, seed: int) -> Tensor:
    """A random subset of `size` points of each cloud, without replacement, (R, size, D)."""
    if clouds.lengths is None and clouds.x.shape[1] == size:
        return clouds.x
    generators = cloud_generators(seed, range(len(clouds)), POINTS)
    num_clouds, num_points, dim = clouds.x.shape
    kept = random_subset(size, num_clouds, num_points, generators, lengths=clouds.lengths)
    return clouds.x.gather(1, kept[..., None].expand(-1, -1, dim))
