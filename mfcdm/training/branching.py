"""Training of a learned branching, beside the score network and on the same batches.

Every fourth step draws a boundary at which the particles grow in number, and moves Psi down the gradient of its error
there, without a push (`branching_error.py`).
"""

import copy
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from mfcdm import checkpoint
from mfcdm.branching import Branching, Learned
from mfcdm.datasets import Clouds
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.randomness import Generators, cloud_generators
from mfcdm.sde import SDE
from mfcdm.training.batches import BRANCHING, Batches
from mfcdm.training.branching_error import Boundary, BranchingError, boundaries_of
from mfcdm.training.ema import EMA
from mfcdm.training.optimizers import build_optimizers, load_moments, read_moments
from mfcdm.training.options import TrainerOptions
from mfcdm.training.processes import Fabric, Processes
from mfcdm.training.refusals import MAX_REFUSED

# Steps of the score network for one of Psi, which so takes 7 % of the time with `small` at 2,048 points, and 14 % with
# `tiny` at 512.
EVERY = 4


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
        self.seed, self.options, self.fabric, self.processes = batches.seed, options, fabric, Processes(fabric)
        self.error = BranchingError(objective.sde, check_branching(rule, objective, batches.clouds), self.processes)
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
        """The loss of one batch at a random boundary."""

        def branch(x: Tensor, t: float, sde: SDE, num_particles: int, rows: Generators) -> tuple[Tensor, float]:
            return self.module(x, t, sde, num_particles, rows), t

        return self.error(branch, batch, generator)

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
        averaged = folder / checkpoint.BRANCHING_FILE
        self.ema.load(checkpoint.read_tensors(averaged), numbers["updates"], averaged)
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


def check_branching(branching: Branching | None, objective: MeanFieldScoreMatching, clouds: Clouds) -> list[Boundary]:
    """The boundaries that a learned branching trains at; none for another.

    Raises:
        ValueError: if no level grows, or the clouds do not fit.
    """
    if not isinstance(branching, Learned):
        return []
    boundaries = boundaries_of(objective)
    if not boundaries:
        raise ValueError(
            "branching=learned has nothing to learn: no level has more particles than the one before it; "
            "raise subdivision.num_levels, or take branching=renoise"
        )
    if branching.dim != clouds.x.shape[2]:
        raise ValueError(f"the clouds have dimension {clouds.x.shape[2]}, the branching {branching.dim}")
    needed = max(boundary.needed for boundary in boundaries)
    index, points = clouds.smallest
    if points < needed:
        raise ValueError(
            f"branching=learned compares with points that are no parents: cloud {index} has {points} points, and "
            f"{needed} are needed; lower subdivision.num_particles, or take branching=renoise"
        )
    return boundaries


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
