"""A run's validations: when they fall, which was the best, whether they still improve, and which a stop cut off."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from mfcdm.training.options import TrainerOptions
from mfcdm.training.plateau import Plateau
from mfcdm.training.validation import Scores, Validation
from mfcdm.wording import counted

MAX_COST = 0.05  # of the time of a run bounded by minutes, for validations before its end


class _CutOff(Exception):
    """A validation was left because the run is to stop."""


class Judge:
    """Validates a run, and remembers what it found.

    Args:
        validation: scores the averaged weights; None for never.
        options: of the run.

    Raises:
        ValueError: if the run is to stop when its validations are flat, and there are none.
    """

    def __init__(self, validation: Validation | None, options: TrainerOptions) -> None:
        self.validation, self.options = validation, options
        self.best: dict[str, Any] | None = None  # {"step": int, "score": |1-NNA - 1/2|} of the best so far
        self.plateau = Plateau()
        self.unfinished: dict[str, float] | None = None  # record of a step whose validation was cut off
        self.durations: list[float] = []  # seconds that each took, since the start or the resumption
        if options.stop_when_flat and self.patience == 0:
            raise ValueError("trainer.stop_when_flat=true needs validations, and validation.patience >= 1")

    @property
    def patience(self) -> int:
        """Validations without an improvement that are too many, 0 for no such number."""
        return 0 if self.validation is None else self.validation.options.patience

    @property
    def satisfied(self) -> bool:
        """Whether the run is to end, as its validations have ceased to improve."""
        return self.options.stop_when_flat and self.plateau.since >= self.patience

    def due(self, step: int, before: float, after: float, seconds: float) -> bool:
        """Whether to validate after `step` steps in `seconds`, of which the last took the run's share to `after`."""
        if self.validation is None or not self.validation.options.due(step, before, after):
            return False
        if self.options.max_minutes is None or self.validation.options.every >= 1 or after >= 1.0:
            return True  # a function of the step alone
        cost = sum(self.durations) + sum(self.durations[-1:])  # once more
        return cost <= MAX_COST * seconds

    def seconds_left(self, step: int, seconds: float, steps_a_second: float) -> float:
        """How long the run goes on at a speed, with the validations still to come, each as long as the last one.

        Those that a run bounded by minutes will leave out are within its minutes; see `TrainerOptions.seconds_left`.
        """
        one = self.durations[-1] if self.durations else 0.0
        return self.options.seconds_left(step, seconds, steps_a_second, self.ahead(step, seconds), one)

    def ahead(self, step: int, seconds: float) -> int:
        """Validations still to come, after so many steps in so many seconds."""
        if self.validation is None:
            return 0
        return self.validation.options.ahead(step, self.options.share(step, seconds), self.options.max_steps)

    def validate(
        self, step: int, network: nn.Module, values: dict[str, float], go_on: Callable[[float], bool]
    ) -> Scores | None:
        """Score a network, and put what is found into a record; None where it cannot draw, or is cut off.

        Args:
            step: of the run.
            network: with averaged weights.
            values: the record. Where the validation is cut off it becomes `unfinished`, to be completed after it.
            go_on: called with the share of the clouds' steps that is done; False cuts the validation off.
        """
        assert self.validation is not None

        def advance(done: int, total: int) -> None:
            if not go_on(done / total):
                raise _CutOff

        try:
            scores = self.validation(network, advance)
        except _CutOff:
            self.unfinished = values
            return None
        except (FloatingPointError, ValueError) as error:  # weights that cannot draw yet may still learn to
            warnings.warn(f"the validation at step {step} failed: {error}", stacklevel=2)
            values |= {"validation/failed": 1}
            return None
        if self.best is None or scores.error <= self.best["score"]:
            self.best = {"step": step, "score": scores.error}
        self.plateau.add(step, scores)
        values |= scores.values | {"validation/since_improvement": self.plateau.since}
        if self.plateau.since == self.patience > 0:
            warnings.warn(self.plateau.sentence(scores), stacklevel=2)
        return scores

    def draw(self, path: Path, scores: Scores) -> bool:
        """Write a picture of generated clouds, or say why it cannot be written."""
        assert self.validation is not None
        try:
            self.validation.draw(path, scores)
        except (OSError, ValueError) as error:
            warnings.warn(f"{path} could not be written, and the run goes on: {error}", stacklevel=2)
            return False
        return True

    def summary(self) -> str | None:
        """What the validations have shown, None where there was none."""
        if self.best is None:
            return None
        best = f"the best validation is that of step {self.best['step']}, {self.best['score']:.1%} off a 1-NNA of 50%"
        if self.plateau.since == 0:
            return best
        tried = counted(self.plateau.since, "validation")
        return f"{best}; {tried} since step {self.plateau.step} brought no improvement beyond the interval"

    def numbers(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        plateau = vars(self.plateau) if self.plateau.step >= 0 else None
        return {"best": self.best, "plateau": plateau, "unfinished": self.unfinished}

    def load(self, numbers: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept; runs of earlier versions kept less."""
        self.best, self.unfinished = numbers.get("best"), numbers.get("unfinished")
        self.plateau = Plateau(**numbers.get("plateau") or {})
