"""The training loop: one level and one batch a step, on whatever device Fabric finds."""

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from lightning.fabric import Fabric
from torch import Tensor, nn

from mfcdm import checkpoint
from mfcdm.datasets.clouds import Normalization
from mfcdm.objective import Loss, MeanFieldScoreMatching
from mfcdm.training.batches import Batches
from mfcdm.training.ema import EMA
from mfcdm.training.loggers import Logger
from mfcdm.training.optimizers import build_optimizers, load_moments, read_moments
from mfcdm.training.options import TrainerOptions
from mfcdm.training.record import LossRecord
from mfcdm.training.validation import Scores, Validation

MAX_REFUSED = 20  # steps refused in a row before a run gives up: its weights have left the region where it can learn
MAX_COST = 0.05  # of the time of a run bounded by minutes, for validations before its end


@dataclass(frozen=True)
class Progress:
    """What an observer of a run sees after each step, and during a validation."""

    step: int
    share: float  # of the run's bound that is done, in [0, 1]
    level: int
    loss: float
    seconds: float  # of the run so far, over all its parts
    validated: float | None = None  # share of a validation that is done, None while training


Observer = Callable[[Progress], None]


class Trainer:
    """Trains a network.

    Args:
        network: network(x, t, lengths=..., label=...).
        objective: the loss.
        batches: what each step sees.
        normalization: saved with every checkpoint; the batches are normalised already.
        options: how to train.
        config: resolved configuration, saved with every checkpoint.
        folder: of the run.
        loggers: where records go.
        categories: names of the classes.
        fabric: devices and precision.
        validation: scores the averaged weights now and then; None for never.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: MeanFieldScoreMatching,
        batches: Batches,
        normalization: Normalization,
        options: TrainerOptions,
        config: dict[str, Any],
        folder: Path,
        loggers: Sequence[Logger] = (),
        categories: tuple[str, ...] = (),
        fabric: Fabric | None = None,
        validation: Validation | None = None,
    ) -> None:
        self.objective, self.batches, self.normalization = objective, batches, normalization
        self.options, self.config, self.folder = options, config, folder
        self.loggers, self.categories, self.validation = list(loggers), categories, validation
        self.fabric = fabric or Fabric(accelerator=options.accelerator, devices=1, precision=options.precision)
        self.fabric.launch()
        self.raw = network
        self.raw_optimizers = build_optimizers(network, options.optimizer, options.learning_rate, options.weight_decay)
        self.network, *self.optimizers = self.fabric.setup(network, *self.raw_optimizers)
        self.ema = EMA(self.raw, options.ema_decay)
        self.step, self.seconds, self.refused, self.refused_in_all = 0, 0.0, 0, 0
        self.clock: Callable[[], float] = time.monotonic  # seconds, of which the run's minutes are made
        self.validations: list[float] = []  # seconds that each took, since the start or the resumption
        self.best: dict[str, Any] | None = None  # {"step": int, "score": |1-NNA - 1/2|} of the best validation so far

    def run(self, observe: Observer | None = None) -> Path:
        """Train to the bound and return the last checkpoint's folder.

        Args:
            observe: called after every step, and during a validation.

        Raises:
            FloatingPointError: if steps go on being refused, or the weights overflow; the last whole checkpoint stays.
        """
        record, saved_at = LossRecord(), self.step if self.checkpoint_folder(self.step).is_dir() else -1
        self.network.train()
        now = self.clock()
        begun, recorded_at, recorded_step = now - self.seconds, now, self.step
        while (before := self.share()) < 1.0:
            loss, applied = self._step()
            self.step += 1
            self.seconds = self.clock() - begun
            if applied:
                record.add(loss, self.objective.sde.log_snr(loss.t))
            values: dict[str, float] = {}
            if not applied:
                values |= {"refused": self.refused_in_all, "refused/level": loss.level}
            progress = Progress(self.step, self.share(), loss.level, float(loss.total.detach()), self.seconds)
            if observe is not None:
                observe(progress)
            validates, scores = self._due(before), None
            if validates:
                scores = self._validate(progress, observe)
                values |= {"validation/failed": 1} if scores is None else scores.values
                self.validations.append(self.clock() - begun - self.seconds)
                recorded_at += self.validations[-1]  # no time of the steps
                self.seconds += self.validations[-1]
            ended = self.share() >= 1.0
            if self.step % self.options.log_every == 0 or ended:
                now = self.clock()
                speed = (self.step - recorded_step) / (now - recorded_at)
                values |= record.flush()
                values |= {"learning_rate": self.learning_rate(), "steps_per_second": speed, "seconds": self.seconds}
                recorded_at, recorded_step = now, self.step
            if values:
                for logger in self.loggers:  # one record a step, whatever it holds
                    logger.log(self.step, values)
            if scores is not None:
                self._show(scores)
            if self.refused >= MAX_REFUSED:
                what = f"{self.refused} steps in a row had a non-finite loss or gradient"
                times = f"t from {float(loss.t.min()):.4f} to {float(loss.t.max()):.4f}"
                self._give_up(f"{what}, the last at step {self.step}, level {loss.level}, {times}")
            if validates or self.step % self.options.checkpoint_every == 0:
                self.save()
                saved_at = self.step
        if saved_at != self.step:
            self.save()
        return self.checkpoint_folder(self.step)

    def share(self) -> float:
        """Share of the run that is done: of its steps or of its minutes, whichever is further."""
        return self.options.share(self.step, self.seconds)

    def learning_rate(self) -> float:
        """Of the next step."""
        return self.options.rate(self.step, self.share())

    def averaged(self) -> nn.Module:
        """A copy of the network with the averaged weights."""
        network = copy.deepcopy(self.raw)
        network.load_state_dict(self.ema.mean)
        return network

    def _step(self) -> tuple[Loss, bool]:
        """One batch: its loss, and whether it was applied."""
        batch, generator = self.batches.at(self.step), self.batches.generator(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
            optimizer.zero_grad(set_to_none=True)
        draw = self.objective.draw(batch.x.to(self.fabric.device), self._moved(batch.lengths), generator)
        try:
            loss = self.objective.loss(self.network, draw, self._moved(batch.labels), generator)
        except ValueError as error:
            if self.ema.updates == 0:  # nothing is learned yet: the mistake is in what was given
                raise
            # An overflow in the weights, as in a bandwidth exp(w), is refused inside the network before it is a loss.
            self._give_up(f"the network broke down at step {self.step + 1}, level {draw.level}: {error}")
        self.fabric.backward(loss.total)
        norm = nn.utils.clip_grad_norm_(self.raw.parameters(), self.options.gradient_clip)
        # One non-finite number in the gradient would put NaN into every weight; such a step is not applied.
        if not (bool(norm.isfinite()) and bool(loss.total.isfinite())):
            self.refused += 1
            self.refused_in_all += 1
            return loss, False
        for optimizer in self.optimizers:
            optimizer.step()
        self.ema.update(self.raw)
        self.refused = 0
        return loss, True

    def _give_up(self, what: str) -> NoReturn:
        raise FloatingPointError(f"{what}; lower trainer.learning_rate, or look for outliers in the data")

    def _due(self, before: float) -> bool:
        """Whether to validate after this step, at whose beginning the share of the run was `before`."""
        if self.validation is None or not self.validation.options.due(self.step, before, self.share()):
            return False
        if self.options.max_minutes is None or self.validation.options.every >= 1 or self.share() >= 1.0:
            return True  # a function of the step alone
        cost = sum(self.validations) + sum(self.validations[-1:])  # once more
        return cost <= MAX_COST * self.seconds

    def _validate(self, progress: Progress, observe: Observer | None) -> Scores | None:
        """Score the averaged weights; None where they cannot draw."""
        assert self.validation is not None

        def advance(done: int, total: int) -> None:
            if observe is not None:
                observe(replace(progress, validated=done / total))

        try:
            scores = self.validation(self.averaged(), advance)
        except (FloatingPointError, ValueError) as error:  # weights that cannot draw yet may still learn to
            warnings.warn(f"the validation at step {self.step} failed: {error}", stacklevel=2)
            return None
        if self.best is None or scores.error <= self.best["score"]:
            self.best = {"step": self.step, "score": scores.error}
        return scores

    def _show(self, scores: Scores) -> None:
        """Draw what a validation generated, and hand it to the loggers."""
        assert self.validation is not None
        picture = self.validation.draw(self.folder / "samples" / f"step-{self.step:08d}.png", scores)
        for logger in self.loggers:
            logger.clouds(self.step, "samples", list(scores.clouds), picture)

    def save(self) -> Path:
        """Write a checkpoint of this step, and point `last` at it, and `best` where it is the best so far.

        Raises:
            FloatingPointError: if a weight is not finite.
        """
        for name, weight in self.raw.state_dict().items():
            if not bool(weight.isfinite().all()):
                self._give_up(f"{name} overflowed by step {self.step}")
        tensors = {f"network.{name}": tensor for name, tensor in self.raw.state_dict().items()}
        moments = read_moments(self.raw, self.raw_optimizers)
        tensors |= {f"optimizer.{name}": tensor for name, tensor in moments.items()}
        numbers = {
            "seconds": self.seconds,
            "ema_updates": self.ema.updates,
            "refused": self.refused_in_all,
            "seed": self.batches.seed,
            "best": self.best,
        }
        folder = checkpoint.save(
            self.checkpoint_folder(self.step),
            weights=self.ema.mean,
            config=self.config,
            normalization=self.normalization,
            step=self.step,
            training=checkpoint.TrainingState(tensors, numbers),
            categories=self.categories,
        )
        self._point_at(folder)
        is_best = self.best is not None and self.best["step"] == self.step
        for logger in self.loggers:
            logger.checkpoint(folder, ("latest", "best") if is_best else ("latest",))
        return folder

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint of this run, exactly; what a killed process left half-written is removed.

        Raises:
            FileNotFoundError: if the checkpoint holds no training state.
            ValueError: if it does not fit the network.
        """
        state = checkpoint.load_training(folder)
        own = _under(state.tensors, "network.")
        checkpoint.load_weights(self.raw, own, folder)
        load_moments(self.raw, self.raw_optimizers, _under(state.tensors, "optimizer."))
        self.ema.load(checkpoint.read_tensors(folder / "network.safetensors"), state.numbers["ema_updates"])
        self.step = checkpoint.read_state(folder)["step"]
        self.seconds, self.refused_in_all = state.numbers["seconds"], state.numbers["refused"]
        self.best = state.numbers.get("best")
        checkpoint.remove_leftovers(folder.parent)
        self._point_at(folder)  # a process killed just after it wrote the checkpoint has not

    def checkpoint_folder(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / "checkpoints" / f"step-{step:08d}"

    def _point_at(self, folder: Path) -> None:
        checkpoint.point_at(folder, "last")
        if self.best is not None and (best := self.checkpoint_folder(self.best["step"])).is_dir():
            checkpoint.point_at(best, "best")

    def _moved(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(self.fabric.device)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
