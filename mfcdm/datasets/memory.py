"""How much memory clouds may take: what does not fit is refused with a sentence, before it is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# What a user may do about clouds that do not fit.
CONVERT = "; python -m mfcdm.datasets.convert makes a mapped archive, of which only what is needed is read"

_GROUPS = Path("/sys/fs/cgroup")  # of processes, to which Linux gives limits


def memory() -> int:
    """Of the machine, or what a limit leaves of it to this process, its container or its job, in bytes."""
    limits = [*_of_machine(), *_of_process(), *_of_groups()]
    return min(limits, default=2**63)


def _of_machine() -> Iterator[int]:
    with suppress(AttributeError, ValueError):  # Windows does not say
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_process() -> Iterator[int]:
    with suppress(ImportError):  # Windows has no such module
        import resource

        of_process = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
        yield from (limit for limit in of_process if limit != resource.RLIM_INFINITY)


def _of_groups() -> Iterator[int]:
    """Limits of the groups that the process is in, from the innermost to that of the container."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, below = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            base, name = (_GROUPS / "memory", "memory.limit_in_bytes") if kinds else (_GROUPS, "memory.max")
            group = base / below.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(base):
                    yield from _number(folder / name)


def _number(path: Path) -> Iterator[int]:
    with suppress(OSError):
        text = path.read_text().strip()
        if text.isdecimal():  # "max" is no limit
            yield int(text)


def check_fits(size: int, what: str, advice: str = CONVERT) -> None:
    """Refuse what would take more than half of the memory: the rest is needed to work with it.

    Args:
        size: of it, in bytes.
        what: subject of the sentence.
        advice: its end.

    Raises:
        MemoryError: if it does not fit.
    """
    there = memory()
    if size > there / 2:
        raise MemoryError(f"{what} would fill {in_words(size)} of {in_words(there)} of memory{advice}")


def in_words(size: int) -> str:
    """A size in bytes, as "1.5 GiB"."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 2**power:
            return f"{size / 2**power:,.1f} {unit}"
    return f"{size} bytes"
