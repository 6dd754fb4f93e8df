"""The numbers of a checkpoint's training state, checked before a run goes on from them: a damaged one is named."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mfcdm.checkpoint_text import shown

REFUSALS = {"in_all", "in_a_row", "halvings", "calm"}
PLATEAU = {"step", "score", "error", "low", "since"}


def check_kept(numbers: dict[str, Any], branching: Iterable[str], path: Path) -> None:
    """Refuse numbers that a run cannot go on from; those of earlier versions are fewer.

    Args:
        numbers: of the training state.
        branching: names of those that the run's branching needs.
        path: of the file that holds them.

    Raises:
        ValueError: a sentence that names the file and the number.
    """
    needed = set(branching)
    kinds: dict[str, Callable[[Any], bool]] = {
        "seconds": _duration,
        "ema_updates": _count,
        "refusals": lambda value: _are(value, _count, REFUSALS),
        "branching": lambda value: _are(value, _count) and needed <= set(value),
        "num_clouds": _count,
        "best": lambda value: value is None or _best(value),
        "plateau": lambda value: value is None or _are(value, _number, PLATEAU),
        "unfinished": lambda value: value is None or _are(value, _number),
    }
    required = {"seconds", "ema_updates", "refusals"} | ({"branching"} if needed else set())
    if "refused" in numbers:  # of an earlier version, which has no more of them
        kinds["refused"] = _count
        required = required - {"refusals"} | {"refused"}
    for key in sorted(required - set(numbers)):
        raise ValueError(f"{path} is damaged: training has no {key}")
    for key, holds in kinds.items():
        if key in numbers and not holds(numbers[key]):
            raise ValueError(f"{path} is damaged: training.{key} is {shown(numbers[key])}")


def _are(value: Any, holds: Callable[[Any], bool], known: set[str] | None = None) -> bool:
    """Whether a value names numbers of a kind, known ones only where these are given."""
    return isinstance(value, dict) and all(map(holds, value.values())) and (known is None or set(value) <= known)


def _best(value: Any) -> bool:
    return _are(value, _number, {"step", "score"}) and _count(value.get("step")) and "score" in value


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _duration(value: Any) -> bool:
    return _number(value) and math.isfinite(value) and value >= 0
