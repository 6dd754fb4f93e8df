"""Folders that one process at a time works in; where the system or its disk knows no locks, nobody is kept away."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"  # in a folder that a process works in
ATTEMPTS = 10  # to lock a file that others remove in the meantime


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """A block that no other process is in at the same time, for a folder, which is made where it is missing.

    The folder holds a file .lock meanwhile. One that a killed process has left keeps nobody away.

    Args:
        folder: to work in.

    Raises:
        BlockingIOError: if another process is in such a block.
        OSError: if the folder takes no files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    descriptor = _opened(path)
    try:
        yield
    finally:
        with suppress(OSError):  # before it is let go: what has the name then may be another's
            path.unlink()
        os.close(descriptor)


def is_ours(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed, or this process ends; False where another process has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, as of some networks
        return True
    return True


def _opened(path: Path) -> int:
    """A descriptor of the locked file."""
    for attempt in range(1, ATTEMPTS + 1):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not is_ours(descriptor):
            os.close(descriptor)
            raise BlockingIOError(f"another process is working in {path.parent}; it has to end first")
        if attempt == ATTEMPTS or _is_at(descriptor, path):
            break
        os.close(descriptor)  # whoever had it before has removed it: the next one to come would lock a new file
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
