"""Steps whose loss or gradient is not finite: they are not applied, the learning rate backs off, and many end a run."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

from torch import Tensor

from mfcdm.atomic import whole
from mfcdm.checkpoint_text import one_line, read_plain
from mfcdm.objective import Loss

MAX_REFUSED = 20  # steps refused in a row before a run gives up: its weights have left the region where it can learn
MAX_HALVINGS = 6  # of the learning rate
CALM = 50  # applied steps after which the rate doubles again
MAX_NAMED = 16  # clouds in a sentence
REFUSED = "refused.json"  # in a run's folder: what repeats its last refused steps
MOST_TEXT = 2**24  # characters of it that are read: a cloud takes about 50, so 20 steps may have 16,000 each


@dataclass(frozen=True)
class RefusedStep:
    """What a step needs to be repeated: `Batches.at(step - 1)`, with its generator, draws the same level, t and noise.

    `python -m mfcdm.commands.replay RUN` does so.

    Args:
        step: of the run, from 1 on, as in its records.
        level: of the objective.
        t: a cloud, (B,).
        indices: of the clouds in the training set, (B,).
        loss: a cloud, (B,); nothing where the network broke down before it had a loss.
        gradient_norm: NaN where there is none.
    """

    step: int
    level: int
    t: Sequence[float]
    indices: Sequence[int]
    loss: Sequence[float] = ()
    gradient_norm: float = math.nan

    @classmethod
    def of(cls, step: int, indices: Tensor, loss: Loss, gradient_norm: float) -> "RefusedStep":
        """The step with a loss."""
        losses = loss.score_matching.tolist()
        return cls(step, loss.level, loss.t.tolist(), indices.tolist(), losses, gradient_norm)

    def __str__(self) -> str:
        named = ", ".join(str(index) for index in self.indices[:MAX_NAMED])
        more = f" and {len(self.indices) - MAX_NAMED} more" if len(self.indices) > MAX_NAMED else ""
        times = f"t from {min(self.t):.4f} to {max(self.t):.4f}"
        return f"step {self.step}, level {self.level}, {times}, clouds {named}{more}"


@dataclass
class Refusals:
    """Counts refused steps and says how far the learning rate backs off.

    After n refused steps in a row the rate is 2^-n of the schedule's, at least 2^-6, and doubles after every 50 applied
    steps until it is the schedule's again. Batches that are refused now and then, for an outlier, so cost at most
    half of the rate.

    Args:
        in_all: steps refused.
        in_a_row: steps refused since the last applied one.
        halvings: of the learning rate.
        calm: applied steps since the rate last changed.
    """

    in_all: int = 0
    in_a_row: int = 0
    halvings: int = 0
    calm: int = 0
    row: list[RefusedStep] = field(default_factory=list, repr=False)  # the last ones in a row that this process saw

    def refuse(self, step: RefusedStep, folder: Path | None, seed: int) -> str:
        """Take note of a step that was not applied, in the run's folder too where one is given, and say where."""
        self.row = [step] if self.in_a_row == 0 else [*self.row, step][-MAX_REFUSED:]
        self.in_all, self.in_a_row, self.calm = self.in_all + 1, self.in_a_row + 1, 0
        self.halvings = max(self.halvings, min(self.in_a_row, MAX_HALVINGS))
        if folder is None:
            return ""
        try:
            repeat = f"python -m mfcdm.commands.replay {quote(str(folder))}"
            return f"{self.write(folder, seed)} has what repeats it, by {repeat}"
        except OSError as error:
            return f"what repeats it could not be written ({error.strerror or error})"

    def apply(self) -> None:
        """Take note of a step that was applied."""
        self.in_a_row, self.calm = 0, self.calm + 1
        if self.calm == CALM:
            self.halvings, self.calm = max(0, self.halvings - 1), 0

    @property
    def rate(self) -> float:
        """Share of the schedule's learning rate."""
        return 2.0**-self.halvings

    @property
    def hopeless(self) -> bool:
        """Whether to give up."""
        return self.in_a_row >= MAX_REFUSED

    def __str__(self) -> str:
        return f"{self.in_a_row} steps in a row had a non-finite loss or gradient"

    def numbers(self) -> dict[str, int]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in ("in_all", "in_a_row", "halvings", "calm")}

    def write(self, folder: Path, seed: int) -> Path:
        """Write the last steps refused in a row to <folder>/refused.json, for replay, and return its path.

        {"seed": of the run, "steps": [...]}: each a `RefusedStep`, its numbers that are not finite as text.
        """
        steps = [{name: _plain(value) for name, value in vars(step).items()} for step in self.row]
        path = folder / REFUSED
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as scratch:
            scratch.write_text(json.dumps({"seed": seed, "steps": steps}, separators=(",", ":"), allow_nan=False))
        return path


def read_refused(folder: Path) -> tuple[int, list[RefusedStep]]:
    """What `Refusals.write` has written into a run's folder: the seed, and the steps.

    Raises:
        FileNotFoundError: if no step of the run was refused.
        ValueError: if the file is damaged.
    """
    path = folder / REFUSED
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {REFUSED}: no step of a run there was refused")
    found = read_plain(path, json.loads, MOST_TEXT)
    try:
        return int(found["seed"]), [_refused(step) for step in found["steps"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {one_line(error)}") from error


def _refused(found: Any) -> RefusedStep:
    step = RefusedStep(
        step=int(found["step"]),
        level=int(found["level"]),
        t=[float(value) for value in found["t"]],
        indices=[int(value) for value in found["indices"]],
        loss=[float(value) for value in found["loss"]],  # also of "nan", as a number that is not finite is written
        gradient_norm=float(found["gradient_norm"]),
    )
    if step.step < 1 or not step.indices or len(step.t) != len(step.indices):
        raise ValueError(f"step {step.step} has {len(step.indices)} clouds and {len(step.t)} times")
    if step.loss and len(step.loss) != len(step.indices):
        raise ValueError(f"step {step.step} has {len(step.indices)} clouds and {len(step.loss)} losses")
    return step


def _plain(value: Any) -> Any:
    """For JSON, which has no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return [_plain(part) for part in value] if isinstance(value, Sequence) and not isinstance(value, str) else value
