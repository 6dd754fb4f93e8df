"""The training loop: one level and one batch a step, on whatever device Fabric finds."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from lightning.fabric import Fabric
from torch import Tensor, nn

from mfcdm import checkpoint
from mfcdm.branching import Branching
from mfcdm.datasets.clouds import Normalization
from mfcdm.objective import Loss, MeanFieldScoreMatching
from mfcdm.training.audience import Audience
from mfcdm.training.batches import Batches
from mfcdm.training.branching import branching_trainer
from mfcdm.training.ema import EMA
from mfcdm.training.judging import Judge
from mfcdm.training.loggers import Logger
from mfcdm.training.optimizers import build_optimizers, load_moments, read_moments
from mfcdm.training.options import TrainerOptions
from mfcdm.training.progress import Observer, Progress
from mfcdm.training.record import LossRecord
from mfcdm.training.refusals import Refusals, RefusedStep
from mfcdm.training.validation import Scores, Validation


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
        branching: trained beside the network where it is `Learned`; it always has its averaged weights.

    Raises:
        ValueError: if the run is to stop when its validations are flat, and there are none, or if a part does not fit.
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
        branching: Branching | None = None,
    ) -> None:
        self.objective, self.batches, self.normalization = objective, batches, normalization
        self.options, self.config, self.folder = options, config, folder
        self.loggers, self.categories = Audience(loggers), categories
        self.judge = Judge(validation, options)
        self.fabric = fabric or Fabric(accelerator=options.accelerator, devices=1, precision=options.precision)
        self.fabric.launch()
        self.raw = network
        self.raw_optimizers = build_optimizers(network, options.optimizer, options.learning_rate, options.weight_decay)
        self.network, *self.optimizers = self.fabric.setup(network, *self.raw_optimizers)
        self.ema = EMA(self.raw, options.ema_decay)
        self.branching = branching_trainer(branching, objective, batches, options, self.fabric)
        self.step, self.seconds, self.saved_at = 0, 0.0, -1
        self.clock: Callable[[], float] = time.monotonic  # seconds, of which the run's minutes are made
        self.refusals = Refusals()
        self.stopping = False
        self._begun = 0.0

    def stop(self) -> None:
        """Have `run` finish its step, write a checkpoint and return; a validation is left to the resumed run.

        It only sets a flag, so a signal's handler or another thread may call it.
        """
        self.stopping = True

    def run(self, observe: Observer | None = None) -> Path:
        """Train to the bound, or until `stop` is called, and return the last checkpoint's folder.

        Args:
            observe: called after every step, and during a validation.

        Raises:
            FloatingPointError: if steps go on being refused, or the weights overflow; the last whole checkpoint stays.
            OSError: if the last checkpoint cannot be written; earlier ones that cannot are a warning.
        """
        observe = observe or (lambda _: None)
        self.saved_at = self.step if self.checkpoint_folder(self.step).is_dir() else -1
        self.network.train()
        record, now = LossRecord(), self.clock()
        self._begun, recorded_at, recorded_step = now - self.seconds, now, self.step
        if (values := self.judge.unfinished) is not None and not self.stopping:
            progress, self.judge.unfinished = Progress(self.step, self.share(), 0, math.nan, self.seconds), None
            self.saved_at = -1  # without the validation
            self._conclude(values, self._validate(values, progress, observe), validated=True)
            recorded_at = self.clock()
        while not (self.ended() or self.stopping):
            before = self.share()
            loss, applied = self._step()
            self.step += 1
            self.seconds = self.clock() - self._begun
            values = {}
            if applied:
                record.add(loss, self.objective.sde.log_snr(loss.t))
            else:
                values |= {"refused": self.refusals.in_all, "refused/level": loss.level}
            progress = Progress(self.step, self.share(), loss.level, float(loss.total.detach()), self.seconds)
            observe(progress)
            scores, validated = None, self.judge.due(self.step, before, self.share(), self.seconds)
            if validated:
                scores = self._validate(values, progress, observe)
                recorded_at += self.judge.durations[-1]  # no time of the steps
            if self.step % self.options.log_every == 0 or self.ended() or self.stopping:
                now = self.clock()
                speed = (self.step - recorded_step) / (now - recorded_at)
                values |= record.flush() | self.branching.flush()
                values |= {"learning_rate": self.learning_rate(), "steps_per_second": speed, "seconds": self.seconds}
                recorded_at, recorded_step = now, self.step
            self._conclude(values, scores, validated)
        if self.saved_at != self.step:
            try:
                self.save()
            except OSError as error:
                raise OSError(self._unwritten(error)) from error
        return self.checkpoint_folder(self.step)

    def ended(self) -> bool:
        """Whether the run has reached its bound, or a plateau where it is to end there."""
        return self.share() >= 1.0 or self.judge.satisfied

    def share(self) -> float:
        """Share of the run that is done: of its steps or of its minutes, whichever is further."""
        return self.options.share(self.step, self.seconds)

    def learning_rate(self) -> float:
        """Of the next step."""
        return self.options.rate(self.step, self.share()) * self.refusals.rate

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
            refused = RefusedStep(self.step + 1, draw.level, draw.t.tolist(), self.batches.indices(self.step).tolist())
            told = self.refusals.refuse(refused, self.folder, self.batches.seed)
            self._give_up(f"the network broke down at {refused}: {error}", told)
        self.fabric.backward(loss.total)
        norm = nn.utils.clip_grad_norm_(self.raw.parameters(), self.options.gradient_clip)
        # One non-finite number in the gradient would put NaN into every weight; such a step is not applied.
        if not (bool(norm.isfinite()) and bool(loss.total.isfinite())):
            refused = RefusedStep.of(self.step + 1, self.batches.indices(self.step), loss, float(norm))
            told = self.refusals.refuse(refused, self.folder, self.batches.seed)
            if self.refusals.hopeless:
                self._give_up(f"{self.refusals}, the last at {refused}", told)
            if self.refusals.in_all == 1:
                warnings.warn(f"skipped for its non-finite loss or gradient: {refused}; {told}", stacklevel=2)
            return loss, False
        for optimizer in self.optimizers:
            optimizer.step()
        self.ema.update(self.raw)
        self.branching.step(batch, self.step, self.learning_rate())
        self.refusals.apply()
        return loss, True

    def _give_up(self, *what: str) -> NoReturn:
        raise FloatingPointError("; ".join([*what, "lower trainer.learning_rate, or look for outliers in the data"]))

    def _validate(self, values: dict[str, float], progress: Progress, observe: Observer) -> Scores | None:
        """Score the averaged weights, and put what is found into a record; a stop leaves both to the resumed run."""

        def go_on(validated: float) -> bool:
            observe(replace(progress, validated=validated))
            return not self.stopping

        try:
            return self.judge.validate(self.step, self.averaged(), values, go_on)
        finally:
            self.judge.durations.append(self.clock() - self._begun - self.seconds)
            self.seconds += self.judge.durations[-1]

    def _conclude(self, values: dict[str, float], scores: Scores | None, validated: bool) -> None:
        """Hand on the record and the clouds of a step, and write a checkpoint where one is due."""
        if values and self.judge.unfinished is None:  # one record a step, whatever it holds
            self.loggers.log(self.step, values)
        picture = self.folder / "samples" / f"step-{self.step:08d}.png"
        if scores is not None and self.judge.draw(picture, scores):
            self.loggers.clouds(self.step, "samples", list(scores.clouds), picture)
        due = validated or self.step % self.options.checkpoint_every == 0
        if due and not (self.ended() or self.stopping):  # `run` writes the last one
            try:
                self.save()
            except OSError as error:  # later ones may find room
                warnings.warn(f"{self._unwritten(error)}; the run goes on", stacklevel=2)

    def _unwritten(self, error: OSError) -> str:
        newest = checkpoint.newest(self.folder / "checkpoints")
        kept = "there is no earlier one" if newest is None else f"the newest whole one is {newest}"
        return f"the checkpoint of step {self.step} could not be written ({error.strerror or error}); {kept}"

    def save(self) -> Path:
        """Write a checkpoint of this step, point `last` at it, and `best` where it is the best so far; remove old ones.

        Raises:
            FloatingPointError: if a weight is not finite.
            OSError: if it cannot be written.
        """
        tensors = {f"network.{name}": tensor for name, tensor in self.raw.state_dict().items()}
        tensors |= self.branching.tensors()
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                self._give_up(f"{name} overflowed by step {self.step}")
        moments = read_moments(self.raw, self.raw_optimizers)
        tensors |= {f"optimizer.{name}": tensor for name, tensor in moments.items()}
        numbers = {
            "seconds": self.seconds,
            "ema_updates": self.ema.updates,
            "refusals": self.refusals.numbers(),
            "seed": self.batches.seed,
            "branching": self.branching.numbers(),
            **self.judge.numbers(),
        }
        folder = checkpoint.save(
            self.checkpoint_folder(self.step),
            weights=self.ema.mean,
            config=self.config,
            normalization=self.normalization,
            step=self.step,
            training=checkpoint.TrainingState(tensors, numbers),
            categories=self.categories,
            branching=self.branching.weights(),
        )
        self._point_at(folder)
        self.saved_at = self.step
        is_best = self.judge.best is not None and self.judge.best["step"] == self.step
        self.loggers.checkpoint(folder, ("latest", "best") if is_best else ("latest",))
        if self.options.keep_last:
            checkpoint.prune(folder.parent, self.options.keep_last)
        return folder

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint of this run, exactly; what a killed process left half-written is removed.

        Raises:
            FileNotFoundError: if the checkpoint holds no training state.
            ValueError: if it does not fit the network.
        """
        state = checkpoint.load_training(folder)
        checkpoint.load_weights(self.raw, state.under("network."), folder)
        load_moments(self.raw, self.raw_optimizers, state.under("optimizer."))
        self.branching.load(state, folder)
        self.ema.load(checkpoint.read_tensors(folder / "network.safetensors"), state.numbers["ema_updates"])
        numbers = state.numbers
        self.step, self.seconds = checkpoint.read_state(folder)["step"], numbers["seconds"]
        self.refusals = Refusals(**numbers["refusals"]) if "refusals" in numbers else Refusals(numbers["refused"])
        self.judge.load(numbers)
        checkpoint.remove_leftovers(folder.parent)
        self._point_at(folder)  # a process killed just after it wrote the checkpoint has not

    def checkpoint_folder(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / "checkpoints" / f"step-{step:08d}"

    def _point_at(self, folder: Path) -> None:
        checkpoint.point_at(folder, "last")
        if self.judge.best is not None and (best := self.checkpoint_folder(self.judge.best["step"])).is_dir():
            checkpoint.point_at(best, "best")

    def _moved(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(self.fabric.device)
