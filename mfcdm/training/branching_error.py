"""How far a branched set of particles is from a fresh one of the same cloud and size.

At a boundary tau_k, where the particles grow in number, N_{k-1} points of every cloud are parents, and up to N_k others
fresh ones. Each gets noise of its own: parents that of tau_k, fresh ones that of the time that the rule leaves the
branched set at. The error is

    mean over the clouds of (D^2 - U / n)  /  mean over the clouds of U / n

(`mfcdm.branching.energy`), n = N_k: 0 for fresh points, b - 1 for b copies of N_{k-1} fresh points, negative where the
children fill the gaps of their parents better than chance. Both means are of one batch, and the lower one has no
gradient: it brings all boundaries to one scale.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mfcdm.branching import Branching
from mfcdm.branching.energy import energy_excess, random_directions
from mfcdm.datasets import Clouds
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.randomness import Generators, cloud_generators, random_subset, standard_normal
from mfcdm.sde import SDE, per_cloud
from mfcdm.training.batches import BRANCHING_ERROR, Batches
from mfcdm.training.processes import Processes

FRAMES = 2  # of D random directions each, in the energy distance of a batch
MIN_FRESH = 2  # points: their distance to each other is part of an energy distance
EVERY = 10  # steps, from one measurement to the next

Rule = Callable[[Tensor, float, SDE, int, Generators], tuple[Tensor, float]]  # as `Branching.branch`


class Boundary(NamedTuple):
    """Where particles grow in number."""

    t: float
    before: int  # particles
    after: int

    @property
    def needed(self) -> int:
        """Points that a cloud must have: parents, and two that are none."""
        return self.before + MIN_FRESH


def boundaries_of(objective: MeanFieldScoreMatching) -> list[Boundary]:
    """The boundaries of an objective's levels."""
    counts, times = objective.subdivision.cardinalities, objective.subdivision.times
    return [Boundary(times[k], *counts[k - 1 : k + 1]) for k in range(1, len(counts)) if counts[k] > counts[k - 1]]


class BranchingError:
    """The error of a rule on a batch, at one of the boundaries.

    Args:
        sde: the forward process.
        boundaries: of which one is drawn; at least one.
        processes: whose batches are one; all must take part.
    """

    def __init__(self, sde: SDE, boundaries: Sequence[Boundary], processes: Processes) -> None:
        self.sde, self.boundaries, self.processes = sde, boundaries, processes

    def __call__(self, rule: Rule, batch: Clouds, generator: torch.Generator) -> Tensor:
        """The error of this process' clouds, with gradient, in units of all processes' fresh points.

        So the mean over the processes is the error of the whole batch.

        Args:
            rule: branches particles.
            batch: normalised clouds, those of this process, each with more points than a boundary has parents.
            generator: of the whole batch.
        """
        drawn = int(torch.randint(len(self.boundaries), (), generator=generator))
        t, num_parents, num_particles = self.boundaries[drawn]
        num_clouds, num_points, dim = batch.x.shape
        num_fresh = min(num_particles, self.processes.least(batch.smallest[1]) - num_parents)
        with self.processes.together():
            rows = self.processes.rows(generator, num_clouds)
            chosen = random_subset(num_parents + num_fresh, num_clouds, num_points, rows, lengths=batch.lengths)
            x_0 = batch.x.gather(1, chosen[..., None].expand(-1, -1, dim)).to(self.processes.device)
            noise = standard_normal(x_0.shape, rows, dtype=x_0.dtype, device=x_0.device)
            parents, others = slice(num_parents), slice(num_parents, None)
            x = self._noised(x_0[:, parents], noise[:, parents], t)
            made, left_at = rule(x, t, self.sde, num_particles, rows)
            fresh = self._noised(x_0[:, others], noise[:, others], left_at)
            excess, of_fresh = energy_excess(made, fresh, random_directions(dim, FRAMES * dim, rows))
        return excess.mean() / self.processes.gathered(of_fresh).mean()

    def _noised(self, x_0: Tensor, noise: Tensor, t: float) -> Tensor:
        mean, std = self.sde.marginal(x_0, x_0.new_full(x_0.shape[:1], t))
        return mean + per_cloud(std, x_0) * noise


class BranchingWatch:
    """Measures now and then what a rule hands on to the next level, push included: "branching/error" of the records.

    It draws numbers of its own, so that a run learns the same with and without it.

    Args:
        rule: that clouds are drawn with; one that is learned has its averaged weights. None for none.
        objective: fixes the levels and the SDE.
        batches: whose clouds they are. Boundaries for which one of them has too few points are left out.
        processes: whose batches are one.
    """

    def __init__(
        self, rule: Branching | None, objective: MeanFieldScoreMatching, batches: Batches, processes: Processes
    ) -> None:
        self.rule, self.seed, self.processes = rule, batches.seed, processes
        _, fewest = batches.clouds.smallest
        boundaries = [boundary for boundary in boundaries_of(objective) if boundary.needed <= fewest]
        self.error = BranchingError(objective.sde, boundaries, processes)
        self._found: list[Tensor] = []

    @torch.no_grad()
    def step(self, batch: Clouds, step: int) -> None:
        """Measure on one batch, at its turn.

        Args:
            batch: normalised clouds, those of this process.
            step: of the run, from 0 on.
        """
        if step % EVERY or self.rule is None or not self.error.boundaries:
            return
        weight = next(self.rule.parameters(), batch.x) if isinstance(self.rule, nn.Module) else batch.x
        batch = replace(batch, x=batch.x.to(weight.dtype))
        own = self.error(self.rule.branch, batch, cloud_generators(self.seed, [step], BRANCHING_ERROR)[0])
        self._found.append(self.processes.mean(own))

    def flush(self) -> dict[str, float]:
        """The average since the last call."""
        values = {"branching/error": float(torch.stack(self._found).mean())} if self._found else {}
        self._found.clear()
        return values
