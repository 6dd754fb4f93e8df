"""Training of a learned branching, beside the score network and on the same batches.

Every fourth step draws a boundary tau_k at which the particles grow in number, N_{k-1} points of every cloud as parents
and up to N_k others as fresh ones, each with noise of its own, and moves Psi down the gradient of

    mean over the clouds of (D^2 - U / n)  /  mean over the clouds of U / n

(`mfcdm.branching.energy`), n = N_k: 0 for fresh points, b - 1 for b copies of N_{k-1} fresh points, negative where the
children fill the gaps of their parents better than chance. Both means are of one batch, and the lower one has no
gradient: it brings all boundaries to one scale.
"""

import copy
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from mfcdm import checkpoint
from mfcdm.branching import Branching, Learned
from mfcdm.branching.energy import energy_excess, random_directions
from mfcdm.datasets import Clouds
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.randomness import cloud_generators, random_subset, standard_normal
from mfcdm.sde import per_cloud
from mfcdm.training.batches import BRANCHING, Batches
from mfcdm.training.ema import EMA
from mfcdm.training.optimizers import build_optimizers, load_moments, read_moments
from mfcdm.training.options import TrainerOptions
from mfcdm.training.processes import Fabric, Processes
from mfcdm.training.refusals import MAX_REFUSED

# Steps of the score network for one of Psi, which so takes 7 % of the time with `small` at 2,048 points, and 14 % with
# `tiny` at 512.
EVERY = 4
FRAMES = 2  # of D random directions each, in the energy distance of a step
MIN_FRESH = 2  # points: their distance to each other is part of an energy distance


class NothingToTrain:
    """What training does for a branching without weights: nothing."""

    def step(self, batch: Clouds, step: int, rate: float) -> None:
        """Take one batch."""

    def flush(self) -> dict[str, float]:
        """The averages since the last call."""
        return {}

    def weights(self) -> dict[str, Tensor]:
        """Averaged weights, to sample with."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Current weights and the optimizer's state, by name."""
        return {}

    def numbers(self) -> dict[str, int]:
        """What else a checkpoint keeps."""
        return {}

    def load(self, state: checkpoint.TrainingState, folder: Path) -> None:
        """Go on from a checkpoint, exactly."""


class BranchingTrainer(NothingToTrain):
    """Trains Psi, with an optimizer and an average of its own.

    Args:
        rule: to train; it always has the averaged weights, so that whoever draws with it draws with them.
        objective: fixes the levels and the SDE.
        batches: what each step sees.
        options: how to train.
        fabric: devices and precision.

    Raises:
        ValueError: if no level grows, or the clouds do not fit.
    """

    def __init__(
        self,
        rule: Learned,
        objective: MeanFieldScoreMatching,
        batches: Batches,
        options: TrainerOptions,
        fabric: Fabric,
    ) -> None:
        self.sde, self.seed, self.options, self.fabric = objective.sde, batches.seed, options, fabric
        self.processes = Processes(fabric)
        self.boundaries = check_branching(rule, objective, batches.clouds)
        self.raw = copy.deepcopy(rule).train()
        self.raw_optimizers = build_optimizers(self.raw, options.optimizer, options.learning_rate, options.weight_decay)
        self.module, *self.optimizers = fabric.setup(self.raw, *self.raw_optimizers)
        rule.to(next(self.raw.parameters())).requires_grad_(False).eval()
        for module in (self.raw, rule):
            self.processes.copy_first(module)
        self.ema = EMA(self.raw, options.ema_decay)
        self.ema.mean = rule.state_dict()  # the rule's own tensors, which the average moves
        self.refused, self.in_a_row = 0, 0
        self._energies: list[Tensor] = []

    def step(self, batch: Clouds, step: int, rate: float) -> None:
        """Move Psi on one batch, at its turn; it takes all of a process' clouds at once, without micro-batches.

        Args:
            batch: normalised clouds, those of this process.
            step: of the run, from 0 on.
            rate: learning rate.

        Raises:
            FloatingPointError: if steps go on being non-finite.
        """
        if step % EVERY:
            return
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        energy = self.energy(batch, cloud_generators(self.seed, [step], BRANCHING)[0])
        self.fabric.backward(energy)
        self.processes.average_gradients(self.raw)
        energy = self.processes.mean(energy.detach())
        norm = nn.utils.clip_grad_norm_(self.raw.parameters(), self.options.gradient_clip)
        if not (bool(norm.isfinite()) and bool(energy.isfinite())):
            self._refuse(step)
            return
        for optimizer in self.optimizers:
            optimizer.step()
        self.ema.update(self.raw)
        self.in_a_row = 0
        self._energies.append(energy)

    def energy(self, batch: Clouds, generator: torch.Generator) -> Tensor:
        """The loss of one batch at a random boundary, see the module's docstring.

        The mean over the processes is that of the whole batch, as the mean that it is divided by is.
        """
        boundary = int(torch.randint(len(self.boundaries), (), generator=generator))
        t, num_parents, num_particles = self.boundaries[boundary]
        num_clouds, num_points, dim = batch.x.shape
        num_fresh = min(num_particles, self.processes.least(batch.smallest[1]) - num_parents)
        with self.processes.together():
            rows = self.processes.rows(generator, num_clouds)
            drawn = random_subset(num_parents + num_fresh, num_clouds, num_points, rows, lengths=batch.lengths)
            x_0 = batch.x.gather(1, drawn[..., None].expand(-1, -1, dim)).to(self.fabric.device)
            mean, std = self.sde.marginal(x_0, x_0.new_full((num_clouds,), t))
            noise = standard_normal(x_0.shape, rows, dtype=x_0.dtype, device=x_0.device)
            parents, fresh = (mean + per_cloud(std, x_0) * noise).split((num_parents, num_fresh), dim=1)
            made = self.module(parents, t, self.sde, num_particles, rows)
            excess, of_fresh = energy_excess(made, fresh, random_directions(dim, FRAMES * dim, rows))
        return excess.mean() / self.processes.gathered(of_fresh).mean()

    def flush(self) -> dict[str, float]:
        """The averages since the last call."""
        values = {"branching/energy": float(torch.stack(self._energies).mean())} if self._energies else {}
        self._energies.clear()
        return values | ({"branching/refused": self.refused} if self.refused else {})

    def weights(self) -> dict[str, Tensor]:
        """Averaged weights, to sample with."""
        return self.ema.mean

    def tensors(self) -> dict[str, Tensor]:
        """Current weights and the optimizer's state, by name."""
        moments = read_moments(self.raw, self.raw_optimizers)
        weights = {f"branching.{name}": tensor for name, tensor in self.raw.state_dict().items()}
        return weights | {f"branching_optimizer.{name}": tensor for name, tensor in moments.items()}

    def numbers(self) -> dict[str, int]:
        """What else a checkpoint keeps."""
        return {"updates": self.ema.updates, "refused": self.refused, "in_a_row": self.in_a_row}

    def load(self, state: checkpoint.TrainingState, folder: Path) -> None:
        """Go on from a checkpoint, exactly."""
        checkpoint.load_weights(self.raw, state.under("branching."), folder)
        load_moments(self.raw, self.raw_optimizers, state.under("branching_optimizer."))
        numbers = state.numbers["branching"]
        self.ema.load(checkpoint.read_tensors(folder / checkpoint.BRANCHING_FILE), numbers["updates"])
        self.refused, self.in_a_row = numbers["refused"], numbers["in_a_row"]

    def _refuse(self, step: int) -> None:
        """Take note of a step that was not applied."""
        self.refused, self.in_a_row = self.refused + 1, self.in_a_row + 1
        if self.in_a_row >= MAX_REFUSED:
            error = FloatingPointError(
                f"{self.in_a_row} steps in a row had a non-finite branching loss or gradient, the last at step "
                f"{step + 1}; lower trainer.learning_rate, or take branching=renoise"
            )
            raise self.processes.agreed(error)
        if self.refused == 1:
            warnings.warn(f"step {step + 1} skipped for the branching: a non-finite loss or gradient", stacklevel=2)


def check_branching(
    branching: Branching | None, objective: MeanFieldScoreMatching, clouds: Clouds
) -> list[tuple[float, int, int]]:
    """The boundaries (t, particles before, particles after) that a learned branching trains at; none for another.

    Raises:
        ValueError: if no level grows, or the clouds do not fit.
    """
    if not isinstance(branching, Learned):
        return []
    counts, times = objective.subdivision.cardinalities, objective.subdivision.times
    grows = [k for k in range(1, len(counts)) if counts[k] > counts[k - 1]]
    if not grows:
        raise ValueError(
            "branching=learned has nothing to learn: no level has more particles than the one before it; "
            "raise subdivision.num_levels, or take branching=renoise"
        )
    if branching.dim != clouds.x.shape[2]:
        raise ValueError(f"the clouds have dimension {clouds.x.shape[2]}, the branching {branching.dim}")
    needed = max(counts[k - 1] for k in grows) + MIN_FRESH
    index, points = clouds.smallest
    if points < needed:
        raise ValueError(
            f"branching=learned compares with points that are no parents: cloud {index} has {points} points, and "
            f"{needed} are needed; lower subdivision.num_particles, or take branching=renoise"
        )
    return [(times[k], counts[k - 1], counts[k]) for k in grows]


def branching_trainer(
    branching: Branching | None,
    objective: MeanFieldScoreMatching,
    batches: Batches,
    options: TrainerOptions,
    fabric: Fabric,
) -> NothingToTrain:
    """What trains a branching: nothing, where it is not `Learned`; arguments as of `BranchingTrainer`."""
    if isinstance(branching, Learned):
        return BranchingTrainer(branching, objective, batches, options, fabric)
    return NothingToTrain()
