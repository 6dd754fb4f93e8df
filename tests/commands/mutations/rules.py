"""All rules, by the family of files that they change. Each takes a random generator and what it changes.

A rule that is marked `deep` leaves every header as it was: what is wrong lies behind it.
"""

import random
from collections.abc import Callable
from pathlib import Path

HUGE = (2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, -1, -(2**31), 0)
ODD = (float("nan"), float("inf"), -float("inf"), 1e39, -1e300, 1e-320)
Rule = Callable[[random.Random, Path], Path | None]
RULES: dict[str, list[tuple[str, bool, Rule]]] = {}


def rule(family: str, deep: bool = False) -> Callable[[Rule], Rule]:
    def add(made: Rule) -> Rule:
        RULES.setdefault(family, []).append((made.__name__, deep, made))
        return made

    return add


def cut(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def overwrite(rng: random.Random, path: Path, begin: int) -> None:
    """A few values behind `begin` replaced by those that break arithmetic."""
    content = bytearray(path.read_bytes())
    patterns = (b"\xff\xff\xff\xff", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\xff\x7f", b"\x00" * 8)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(min(begin, len(content) - 8), len(content) - 8)
        pattern = rng.choice(patterns)
        content[at : at + len(pattern)] = pattern
    path.write_bytes(content)


def nested(rng: random.Random) -> str:
    depth = rng.choice((30, 40, 300, 3000, 60000))
    return rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth))
