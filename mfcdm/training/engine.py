"""The training loop: one level and one batch a step, on whatever device Fabric finds."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from mfcdm import checkpoint
from mfcdm.datasets.clouds import Normalization
from mfcdm.objective import Loss, MeanFieldScoreMatching
from mfcdm.training.batches import Batches
from mfcdm.training.ema import EMA
from mfcdm.training.loggers import Logger
from mfcdm.training.record import LossRecord

MAX_REFUSED = 20  # steps refused in a row before a run gives up: its weights have left the region where it can learn

Precision = Literal["32-true", "bf16-mixed", "64-true"]


@dataclass(frozen=True)
class TrainerOptions:
    """How to train, without what.

    Args:
        max_steps: optimizer steps, or None.
        max_minutes: minutes of this run and those that it resumes, or None; at least one of the two bounds is needed.
        batch_size: clouds a step.
        learning_rate: of AdamW, after the warm-up.
        warmup_steps: over which the learning rate rises linearly.
        weight_decay: of AdamW.
        ema_decay: of the averaged weights.
        gradient_clip: largest norm of the gradient.
        log_every: steps between records.
        checkpoint_every: steps between checkpoints.
        accelerator: "auto", "cpu" or "cuda".
        precision: of Fabric.

    Raises:
        ValueError: if an option is out of its range.
    """

    max_steps: int | None = None
    max_minutes: float | None = None
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    log_every: int = 50
    checkpoint_every: int = 1000
    accelerator: str = "auto"
    precision: Precision = "32-true"

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        if self.max_steps is None and self.max_minutes is None:
            raise ValueError("a run needs a bound: set trainer.max_steps or trainer.max_minutes")
        for name in ("max_steps", "batch_size", "log_every", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < 1):
                raise ValueError(f"trainer.{name} must be a whole number >= 1, got {value}")
        for name in ("max_minutes", "learning_rate", "gradient_clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"trainer.{name} must be > 0 and finite, got {value}")
        for name in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"trainer.{name} must be >= 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Progress:
    """What an observer of a run sees after each step."""

    step: int
    share: float  # of the run's bound that is done, in [0, 1]
    level: int
    loss: float
    seconds: float  # of training so far, over all its parts


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
    ) -> None:
        self.objective, self.batches, self.normalization = objective, batches, normalization
        self.options, self.config, self.folder = options, config, folder
        self.loggers, self.categories = list(loggers), categories
        self.fabric = fabric or Fabric(accelerator=options.accelerator, devices=1, precision=options.precision)
        self.fabric.launch()
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, betas=(0.9, 0.99)
        )
        self.raw = network
        self.network, self.optimizer = self.fabric.setup(network, optimizer)
        self.ema = EMA(self.raw, options.ema_decay)
        self.step, self.seconds, self.refused, self.refused_in_all = 0, 0.0, 0, 0

    def run(self, observe: Callable[[Progress], None] | None = None) -> Path:
        """Train to the bound and return the last checkpoint's folder.

        Args:
            observe: called after every step.

        Raises:
            FloatingPointError: if steps go on being refused; the last whole checkpoint stays.
        """
        record, last_saved = LossRecord(), -1
        self.network.train()
        begun, earlier = time.monotonic(), self.seconds
        recorded_at, recorded_step = begun, self.step
        while self.share() < 1.0:
            loss, applied = self._step()
            self.step += 1
            self.seconds = earlier + time.monotonic() - begun
            if applied:
                record.add(loss, self.objective.sde.log_snr(loss.t))
            if observe is not None:
                observe(Progress(self.step, self.share(), loss.level, float(loss.total.detach()), self.seconds))
            if self.step % self.options.log_every == 0 or self.share() >= 1.0:
                now = time.monotonic()
                speed = (self.step - recorded_step) / (now - recorded_at)
                self._log(record.flush(), speed)
                recorded_at, recorded_step = now, self.step
            if self.step % self.options.checkpoint_every == 0:
                self.save()
                last_saved = self.step
        if last_saved != self.step:
            self.save()
        return self.checkpoint_folder(self.step)

    def share(self) -> float:
        """Share of the run that is done: of its steps or of its minutes, whichever is further."""
        steps = self.step / self.options.max_steps if self.options.max_steps else 0.0
        minutes = self.seconds / 60 / self.options.max_minutes if self.options.max_minutes else 0.0
        return min(1.0, max(steps, minutes))

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine of the share of the run that is done."""
        warmup = min(1.0, (self.step + 1) / max(1, self.options.warmup_steps))
        return self.options.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * self.share()))

    def _step(self) -> tuple[Loss, bool]:
        """One batch: its loss, and whether it was applied."""
        batch, generator = self.batches.at(self.step), self.batches.generator(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        draw = self.objective.draw(batch.x.to(self.fabric.device), self._moved(batch.lengths), generator)
        loss = self.objective.loss(self.network, draw, self._moved(batch.labels), generator)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss.total)
        norm = nn.utils.clip_grad_norm_(self.raw.parameters(), self.options.gradient_clip)
        # One non-finite number in the gradient would put NaN into every weight; such a step is not applied.
        if not (bool(norm.isfinite()) and bool(loss.total.isfinite())):
            self._refuse(loss)
            return loss, False
        self.optimizer.step()
        self.ema.update(self.raw)
        self.refused = 0
        return loss, True

    def _refuse(self, loss: Loss) -> None:
        self.refused += 1
        self.refused_in_all += 1
        self._send({"refused": self.refused_in_all, "refused/level": loss.level})
        if self.refused >= MAX_REFUSED:
            raise FloatingPointError(
                f"{self.refused} steps in a row had a non-finite loss or gradient, the last at step {self.step}, level "
                f"{loss.level}, t from {float(loss.t.min()):.4f} to {float(loss.t.max()):.4f}; lower "
                "trainer.learning_rate, or look for outliers in the data"
            )

    def save(self) -> Path:
        """Write a checkpoint of this step and point `last` at it."""
        tensors = {f"network.{name}": tensor for name, tensor in self.raw.state_dict().items()}
        state = self.optimizer.state_dict()
        for index, moments in state["state"].items():
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
        numbers = {
            "seconds": self.seconds,
            "ema_updates": self.ema.updates,
            "refused": self.refused_in_all,
            "seed": self.batches.seed,
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
        checkpoint.point_last_at(folder)
        return folder

    def resume(self, folder: Path) -> None:
        """Go on from a checkpoint of this run, exactly.

        Raises:
            FileNotFoundError: if the checkpoint holds no training state.
            ValueError: if it does not fit the network.
        """
        state = checkpoint.load_training(folder)
        own = _under(state.tensors, "network.")
        checkpoint.load_weights(self.raw, own, folder)
        saved: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under(state.tensors, "optimizer.").items():
            index, moment = name.split(".", 1)
            saved.setdefault(int(index), {})[moment] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": saved, "param_groups": groups})
        self.ema.load(checkpoint.read_tensors(folder / "network.safetensors"), state.numbers["ema_updates"])
        self.step = checkpoint.read_state(folder)["step"]
        self.seconds, self.refused_in_all = state.numbers["seconds"], state.numbers["refused"]

    def checkpoint_folder(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / "checkpoints" / f"step-{step:08d}"

    def _log(self, losses: dict[str, float], speed: float) -> None:
        extra = {"learning_rate": self.learning_rate(), "steps_per_second": speed, "seconds": self.seconds}
        self._send({**losses, **extra})

    def _send(self, values: dict[str, Any]) -> None:
        for logger in self.loggers:
            logger.log(self.step, values)

    def _moved(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(self.fabric.device)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
