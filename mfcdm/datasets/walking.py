"""The files below a folder."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def files_below(folder: Path, enters: Callable[[str], bool] = lambda _: True) -> Iterator[Path]:
    """Paths, relative to the folder, of all files below it, in no order; links to files and folders are followed.

    Args:
        folder: to look through.
        enters: from the name of a file or folder to whether it counts.

    Raises:
        OSError: if a folder cannot be read.
    """
    return _below(folder, Path(), (), enters)


def _below(root: Path, at: Path, above: tuple[str, ...], enters: Callable[[str], bool]) -> Iterator[Path]:
    """The files below root/at; a link back to a folder that it lies in, `above`, would have no end."""
    own = os.path.realpath(root / at)
    if own in above:
        return
    for entry in os.scandir(root / at):
        if not enters(entry.name):
            continue
        if entry.is_dir():
            yield from _below(root, at / entry.name, (*above, own), enters)
        elif entry.is_file():
            yield at / entry.name
