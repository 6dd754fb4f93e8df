"""How much memory clouds may take: what does not fit is refused with a sentence, before it is read."""

from __future__ import annotations

import os
import resource
from pathlib import Path

# What a user may do about clouds that do not fit.
CONVERT = "; python -m mfcdm.datasets.convert makes a mapped archive, of which only what is needed is read"

# Limits of a container, where there is one; text such as "max" is none.
_OF_A_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory() -> int:
    """Of the machine, or what a limit leaves of it to this process or its container, in bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    of_process = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    limits += [limit for limit in of_process if limit != resource.RLIM_INFINITY]
    for path in _OF_A_CONTAINER:
        text = path.read_text().strip() if path.is_file() else ""
        limits += [int(text)] if text.isdecimal() else []
    return min(limits)


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
