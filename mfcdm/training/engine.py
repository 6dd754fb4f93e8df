"""The training loop: one level and one batch a step, on whatever devices Fabric finds."""

import copy
import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.fabric.strategies import DDPStrategy
from torch import nn

from mfcdm.branching import Branching
from mfcdm.datasets.clouds import Normalization
from mfcdm.networks import compiled
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.training import saving
from mfcdm.training.audience import Audience
from mfcdm.training.batches import Batches
from mfcdm.training.branching import branching_trainer, check_branching
from mfcdm.training.branching_error import BranchingWatch
from mfcdm.training.ema import EMA
from mfcdm.training.judging import Judge
from mfcdm.training.loggers import Logger
from mfcdm.training.optimizers import build_optimizers
from mfcdm.training.options import Machine, TrainerOptions
from mfcdm.training.processes import Processes
from mfcdm.training.progress import Observer, Progress
from mfcdm.training.record import LossRecord
from mfcdm.training.refusals import Refusals
from mfcdm.training.stepping import take_step
from mfcdm.training.validation import Scores, Validation
from mfcdm.training.vitals import STAGES, Vitals
from mfcdm.wording import counted


class Replicas(DDPStrategy):
    """Fabric's processes with a whole network each, whose gradients `Processes.average_gradients` sums."""

    def setup_module(self, module: nn.Module) -> Any:
        """The network as it is."""
        return module


def fabric_of(machine: Machine) -> Fabric:
    """Devices and precision, not launched yet; with more than one process it knows which one this is.

    Raises:
        ValueError: if torchrun or SLURM has started another number of processes.
    """
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # else the terminal is told what it is doing
    for name, cluster in (("torchrun", TorchElasticEnvironment), ("SLURM", SLURMEnvironment)):
        if not cluster.detect():
            continue
        try:
            started = cluster().world_size()
        except RuntimeError as error:  # settings of the job that lightning refuses
            raise ValueError(f"{name}: {' '.join(str(error).split())}") from error
        if started != machine.num_processes:
            raise ValueError(f"{name} has started {counted(started, 'process', 'processes')}, but {machine}")
    return Fabric(
        accelerator=machine.accelerator,
        strategy=Replicas() if machine.num_processes > 1 else "auto",
        devices=machine.devices or 1,
        num_nodes=machine.num_nodes or 1,
        precision=machine.precision,
    )


def is_started_elsewhere(fabric: Fabric) -> bool:
    """Whether something else has started this process and the others: torchrun, SLURM, or the first of them."""
    cluster = getattr(fabric.strategy, "cluster_environment", None)
    return cluster is not None and cluster.creates_processes_externally


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
        fabric: devices and precision, launched; None for those that the options name.
        validation: scores the averaged weights now and then; None for never.
        branching: trained beside the network where it is `Learned`; it always has its averaged weights.

    Raises:
        ValueError: if the run is to stop when its validations are flat, and there are none, if the Jacobian is to be
            matched in bf16, or if a part does not fit.
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
        self.objective, self.normalization, self.options, self.config = objective, normalization, options, config
        self.loggers, self.categories = Audience(loggers), categories
        self.judge = Judge(validation, options)
        self.raw = network
        self.raw_optimizers = build_optimizers(network, options.optimizer, options.learning_rate, options.weight_decay)
        check_branching(branching, objective, batches.clouds)
        if objective.jacobian_weight > 0 and options.precision == "bf16-mixed":
            raise ValueError(
                f"jacobian_weight={objective.jacobian_weight} needs precision 32-true or 64-true, got bf16-mixed: its "
                "central difference is smaller than what bf16 rounds off"
            )
        if fabric is None:
            fabric = fabric_of(options.machine)
            fabric.launch()
        self.fabric, self.folder, self.processes = fabric, folder, Processes(fabric)
        self.batches = replace(batches, part=(self.processes.rank, self.processes.count))
        if validation is not None:
            validation.processes = self.processes
        trained: Any = compiled(network) if options.compile else network  # `raw` keeps its weights' names
        self.network, *self.optimizers = self.fabric.setup(trained, *self.raw_optimizers)
        self.processes.copy_first(self.raw)
        self.ema = EMA(self.raw, options.ema_decay)
        self.branching = branching_trainer(branching, objective, batches, options, self.fabric)
        self.branching_watch = BranchingWatch(branching, objective, batches, self.processes)
        self.step, self.seconds, self.saved_at = 0, 0.0, -1
        self.clock: Callable[[], float] = time.monotonic  # seconds, of which the run's minutes are made
        self.refusals, self.vitals = Refusals(), Vitals(stages=STAGES)
        self.stopping, self._asked_to_stop = False, False
        self._begun = 0.0

    def stop(self) -> None:
        """Have `run` finish its step, write a checkpoint and return; a validation is left to the resumed run.

        It only sets a flag, so a signal's handler or another thread may call it, in any of the processes.
        """
        self._asked_to_stop = True

    def run(self, observe: Observer | None = None) -> Path:
        """Train to the bound, or until `stop` is called, and return the last checkpoint's folder.

        Args:
            observe: called after every step, and during a validation.

        Raises:
            FloatingPointError: if steps go on being refused, or the weights overflow; the last whole checkpoint stays.
            OSError: if the last checkpoint cannot be written; earlier ones that cannot are a warning.
        """
        observe = observe or (lambda _: None)
        self.saved_at = self.step if self.processes.by_first(self.checkpoint_folder(self.step).is_dir) else -1
        self.network.train()
        record, now = LossRecord(), self.clock()
        self._begun, recorded_at, recorded_step = now - self.seconds, now, self.step
        if (values := self.judge.unfinished) is not None and not self._is_to_stop():
            progress, self.judge.unfinished = Progress(self.step, self.share(), 0, math.nan, self.seconds), None
            self.saved_at = -1  # without the validation
            self._conclude(values, self._validate(values, progress, observe), validated=True)
            recorded_at = self.clock()
        while not (self.ended() or self._is_to_stop()):
            before = self.share()
            loss, applied = take_step(self)
            self.step += 1
            self.seconds = self._elapsed()
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
            if self._is_to_stop() or self.ended() or self.step % self.options.log_every == 0:
                now = self.clock()
                took, made = now - recorded_at, self.step - recorded_step
                values |= record.flush() | self.branching.flush() | self.branching_watch.flush()
                values |= {"learning_rate": self.learning_rate(), "steps_per_second": made / took}
                values |= self.vitals.flush(self.raw, took) | {"seconds": self.seconds}
                recorded_at, recorded_step = now, self.step
            self._conclude(values, scores, validated)
        if self.saved_at != self.step:
            try:
                self.save()
            except ConnectionError:  # of another process, not of the disk
                raise
            except OSError as error:
                raise self.processes.agreed(OSError(saving.unwritten(self, error))) from error
        return self.checkpoint_folder(self.step)

    def _is_to_stop(self) -> bool:
        """Whether any of the processes has been asked to stop, which all then know."""
        self.stopping = self.processes.any(self._asked_to_stop)
        return self.stopping

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

    def _validate(self, values: dict[str, float], progress: Progress, observe: Observer) -> Scores | None:
        """Score the averaged weights, and put what is found into a record; a stop leaves both to the resumed run."""

        def go_on(validated: float) -> bool:
            observe(replace(progress, validated=validated))
            return not self._asked_to_stop

        scores = self.judge.validate(self.step, self.averaged(), values, go_on)
        elapsed = self._elapsed()
        self.judge.durations.append(elapsed - self.seconds)
        self.seconds = elapsed
        self._is_to_stop()
        return scores

    def _conclude(self, values: dict[str, float], scores: Scores | None, validated: bool) -> None:
        """Hand on the record and the clouds of a step, and write a checkpoint where one is due."""
        with self.vitals.stage("record"):
            if values and self.judge.unfinished is None:  # one record a step, whatever it holds
                self.loggers.log(self.step, values)
            picture = self.folder / "samples" / f"step-{self.step:08d}.png"
            if self.processes.is_first and scores is not None and self.judge.draw(picture, scores):
                self.loggers.clouds(self.step, "samples", list(scores.clouds), picture)
        due = validated or self.step % self.options.checkpoint_every == 0
        if due and not (self.ended() or self.stopping):  # `run` writes the last one
            try:
                with self.vitals.stage("checkpoint"):
                    self.save()
            except ConnectionError:
                raise
            except OSError as error:  # later ones may find room
                warnings.warn(f"{saving.unwritten(self, error)}; the run goes on", stacklevel=2)

    def save(self) -> Path:
        """Write a checkpoint of this step, see `mfcdm.training.saving.save`."""
        return saving.save(self)

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint of this run, exactly, see `mfcdm.training.saving.resume`."""
        saving.resume(self, folder)

    def checkpoint_folder(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / "checkpoints" / f"step-{step:08d}"

    def _elapsed(self) -> float:
        """Seconds of training so far, by the first process' clock."""
        return self.processes.number_of_first(self.clock() - self._begun)
