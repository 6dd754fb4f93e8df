"""Files that are there whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes its place at the end of the block.

    A block that raises leaves what was at `path` before, and nothing beside it.

    Raises:
        OSError: if it cannot be written; it names `path`, not the place beside it.
    """
    scratch = _scratch(path)
    try:
        yield scratch
        scratch.replace(path)
    except OSError as error:
        if error.filename in (None, scratch, str(scratch)):  # of which nobody has heard
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # the block's own error says more
            scratch.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Refuse a place where `whole` could not write: before the work, which would be lost.

    Args:
        path: of a file to be; its folder has to be there.

    Raises:
        OSError: if it is a folder, or nothing can be written beside it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    scratch = _scratch(path)
    try:
        scratch.touch()
        scratch.unlink()
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}") from error


def _scratch(path: Path) -> Path:
    return path.with_name(f".{path.name}.writing")
