"""Words of the sentences that users read, and of the commands that they may copy."""

import re
import shlex

# Text that Hydra takes as it is; more would do, but a list is safer than its grammar.
PLAIN = re.compile(r"[\w./:+@-]+", re.ASCII)


def printable(name: str) -> str:
    """The name of a file as text that every stream takes: bytes of it that are no UTF-8 stand there as codes.

    Args:
        name: as Python has it.
    """
    return name.encode(errors="backslashreplace").decode()


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number of things: "1 point", "2 points".

    Args:
        number: of them.
        noun: for one.
        plural: where it is not the noun with an s.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def quoted(text: str) -> str:
    """Text in quotes of Hydra's: every backslash before a quote or the end stands twice there, quotes are escaped."""
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)
    return f'"{escaped}"'


def spelled(key: str, value: object) -> str:
    """key=value, spelled so that a shell passes it on and Hydra takes the value as this very text.

    Args:
        key: a key of the configuration.
        value: a path or other text.
    """
    text = str(value)
    return shlex.quote(f"{key}={text if PLAIN.fullmatch(text) else quoted(text)}")
