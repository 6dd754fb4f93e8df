"""What an observer of a run sees."""

from collections.abc import Callable
from dataclasses import dataclass


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
