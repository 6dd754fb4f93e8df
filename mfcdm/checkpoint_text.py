"""Plain values from the texts of a checkpoint, YAML and JSON: small enough to walk through and to show."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

# A configuration or a state of ours has a few thousand characters, and is nested three deep. Few characters can stand
# for very many: in YAML a name stands for whatever it was given to.
MOST_TEXT = 2**18
DEEPEST = 32
MOST_BITS = 64  # of a whole number


def read_plain(path: Path, parse: Callable[[str], Any], most: int = MOST_TEXT) -> Any:
    """Read a file of plain values.

    Args:
        path: of the file.
        parse: from its text to the values.
        most: characters, and values, that it may hold.

    Returns:
        the values.

    Raises:
        FileNotFoundError: if it is missing, or not a file.
        ValueError: if it is damaged, or larger or more deeply nested than what mfcdm writes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not a whole checkpoint: it has no {path.name}")
    with path.open("rb") as file:
        content = file.read(most + 1)
    try:
        return parsed(content.decode(), parse, path, most)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error.reason} at byte {error.start}") from error


def parsed(text: str, parse: Callable[[str], Any], path: Path, most: int = MOST_TEXT) -> Any:
    """Plain values from a text of at most so many characters; `path` is named in complaints."""
    if len(text) > most:
        raise ValueError(f"{path} is damaged: it has more than {most} characters of plain values")
    try:
        value = parse(text)
        _check_extent(value, most)
    except Exception as error:  # a parser that meets a hostile text fails in every possible way
        raise ValueError(f"{path} is damaged: {one_line(error)}") from error
    return value


def _check_extent(value: Any, most: int) -> None:
    """Refuse values that take much more to walk through, or to show, than it took to write them down."""
    left, waiting = most, [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        left -= 1 + (len(part) if hasattr(part, "__len__") else 0)
        if left < 0 or depth > DEEPEST:
            raise ValueError(f"it holds more than {most} values, or some {DEEPEST} deep")
        if isinstance(part, int) and part.bit_length() > MOST_BITS:
            raise ValueError(f"it holds a whole number of more than {MOST_BITS} bits")
        if isinstance(part, Mapping):
            waiting += [(inner, depth + 1) for pair in part.items() for inner in pair]
        elif isinstance(part, list | tuple | set):
            waiting += [(inner, depth + 1) for inner in part]


def one_line(error: Exception) -> str:
    """What an error says, without line breaks and no longer than a reader reads."""
    said = type(error).__name__  # of a RecursionError's own text nothing is left to say
    if not isinstance(error, RecursionError):
        with suppress(Exception):
            said = " ".join(str(error).split()) or said
    return said if len(said) <= 500 else f"{said[:500]}..."


def shown(value: Any) -> str:
    """A value as Python writes it, no longer than a reader reads."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
