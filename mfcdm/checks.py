"""Checks of arguments that many functions share."""

import operator
from typing import Any


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number, 5.0 too, or is too small.

    Args:
        name: of the argument.
        value: that was given.
        least: that is accepted.

    Raises:
        ValueError: a sentence that names both.
    """
    try:
        accepted = operator.index(value) >= least
    except TypeError:
        accepted = False
    if not accepted:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
