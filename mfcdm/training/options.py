"""How to train, without what."""

import math
from dataclasses import dataclass
from typing import Literal

from mfcdm.training.optimizers import OptimizerName

MAX_RATE = 1e36  # AdamW divides by 1 - 0.9^n, and the result must be a float32

Precision = Literal["32-true", "bf16-mixed", "64-true"]


@dataclass(frozen=True)
class Machine:
    """What a command's processes run on.

    Args:
        accelerator: "auto", "cpu" or "cuda".
        devices: processes on each node, one for each GPU where there are GPUs; None for 1.
        num_nodes: machines; None for 1.
        precision: of Fabric.
        keys: begins the names of the keys that say so, for complaints.
    """

    accelerator: str
    devices: int | None = None
    num_nodes: int | None = None
    precision: Precision = "32-true"
    keys: str = ""

    @property
    def num_processes(self) -> int:
        """How many work together."""
        return (self.devices or 1) * (self.num_nodes or 1)

    def __str__(self) -> str:
        devices, nodes = self.devices or 1, self.num_nodes or 1
        return f"{self.keys}devices={devices} times {self.keys}num_nodes={nodes} is {self.num_processes}"


@dataclass(frozen=True)
class TrainerOptions:
    """How to train, without what.

    Args:
        max_steps: optimizer steps, or None.
        max_minutes: minutes of this run and those that it resumes, or None; at least one of the two bounds is needed.
        batch_size: clouds a step, over all processes and micro-batches, which have equally many of them.
        optimizer: "muon", for the matrices inside the network, with AdamW for the rest; or "adamw" alone.
        learning_rate: after the warm-up.
        warmup_steps: over which the learning rate rises linearly; a tenth of the run where that is shorter.
        weight_decay: of all parameters.
        ema_decay: of the averaged weights.
        gradient_clip: largest norm of the gradient.
        log_every: steps between records.
        checkpoint_every: steps between checkpoints.
        keep_last: so many of the newest checkpoints stay; `best`, and what any other link beside them points to, stays
            besides. 0 keeps all.
        stop_when_flat: ends the run after `validation.patience` validations without an improvement.
        accelerator: "auto", "cpu" or "cuda".
        precision: of Fabric.
        devices: processes on each node, one for each GPU where there are GPUs; None for 1.
        num_nodes: machines; None for 1.
        accumulate: micro-batches that a process' clouds are taken in, which need less memory; None for 1. The weights
            do not depend on it, nor on the number of processes, but for rounding.
        compile: have torch compile the network.

    Raises:
        ValueError: if an option is out of its range.
    """

    max_steps: int | None = None
    max_minutes: float | None = None
    batch_size: int = 16
    optimizer: OptimizerName = "muon"
    learning_rate: float = 8e-3
    warmup_steps: int = 100
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    gradient_clip: float = 1.0
    log_every: int = 50
    checkpoint_every: int = 1000
    keep_last: int = 0
    stop_when_flat: bool = False
    accelerator: str = "auto"
    precision: Precision = "32-true"
    devices: int | None = None
    num_nodes: int | None = None
    accumulate: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        if self.max_steps is None and self.max_minutes is None:
            raise ValueError("a run needs a bound: set trainer.max_steps or trainer.max_minutes")
        whole = ("max_steps", "batch_size", "log_every", "checkpoint_every", "devices", "num_nodes", "accumulate")
        for name in whole:
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < 1):
                raise ValueError(f"trainer.{name} must be a whole number >= 1, got {value}")
        for name in ("max_minutes", "learning_rate", "gradient_clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"trainer.{name} must be > 0 and finite, got {value}")
        if self.learning_rate > MAX_RATE:
            raise ValueError(f"trainer.learning_rate must be at most {MAX_RATE:g}, got {self.learning_rate}")
        for name in ("warmup_steps", "weight_decay", "keep_last"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"trainer.{name} must be >= 0, got {getattr(self, name)}")
        if self.batch_size % (self.num_processes * self.num_parts):
            raise ValueError(
                f"trainer.batch_size={self.batch_size} must be a multiple of trainer.devices={self.devices or 1} times "
                f"trainer.num_nodes={self.num_nodes or 1} times trainer.accumulate={self.num_parts}"
            )

    @property
    def machine(self) -> Machine:
        """What the run's processes run on."""
        return Machine(self.accelerator, self.devices, self.num_nodes, self.precision, "trainer.")

    @property
    def num_processes(self) -> int:
        """How many train together."""
        return self.machine.num_processes

    @property
    def num_parts(self) -> int:
        """Micro-batches of each process."""
        return self.accumulate or 1

    def share(self, step: int, seconds: float) -> float:
        """Share of the run that is done: of its steps or of its minutes, whichever is further, in [0, 1]."""
        steps = step / self.max_steps if self.max_steps else 0.0
        minutes = seconds / 60 / self.max_minutes if self.max_minutes else 0.0
        return min(1.0, max(steps, minutes))

    def rate(self, step: int, share: float) -> float:
        """Learning rate of a step: a linear warm-up, times a cosine of the share of the run that is done.

        min(1, max((step + 1) / warmup_steps, 10 share)) (1 + cos(pi share)) / 2: a run that is shorter than ten
        warm-ups reaches the full rate after its first tenth.
        """
        warmup = min(1.0, max((step + 1) / max(1, self.warmup_steps), 10 * share))
        return self.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * share))

    def seconds_left(
        self, step: int, seconds: float, steps_a_second: float, validations: int = 0, validation: float = 0.0
    ) -> float:
        """How long a run goes on, to the nearer of its bounds; infinite at speed 0 without max_minutes.

        Args:
            step: made so far.
            seconds: of the run so far.
            steps_a_second: the speed.
            validations: still to come until max_steps. Minutes include all but the last one, which follows them.
            validation: seconds of one.
        """
        by_steps = by_minutes = math.inf
        if self.max_steps:
            training = max(0, self.max_steps - step)
            by_steps = training / steps_a_second if steps_a_second > 0 else math.inf if training else 0.0
            by_steps += validations * validation
        if self.max_minutes:
            by_minutes = max(0.0, self.max_minutes * 60 - seconds) + min(validations, 1) * validation
        return min(by_steps, by_minutes)
