"""Random choices that the shapes share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Option = TypeVar("Option")


def pick(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    """Choose one of the options, each equally likely; repeat an option to make it likelier."""
    return options[int(rng.integers(len(options)))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Say yes with the given probability."""
    return bool(rng.random() < probability)
