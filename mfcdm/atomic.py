"""Files that are there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes its place at the end of the block.

    A block that raises leaves what was at `path` before, and nothing beside it.
    """
    scratch = path.with_name(f".{path.name}.writing")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        with suppress(OSError):  # the block's own error says more
            scratch.unlink(missing_ok=True)
