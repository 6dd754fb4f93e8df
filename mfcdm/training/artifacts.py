"""What a model artifact holds: a checkpoint without the optimizer's state, and never anything else."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mfcdm.checkpoint_files import BRANCHING_FILE

# What sampling needs of a checkpoint. The optimizer's state stays at home: it is three times as large.
MODEL_FILES = ("network.safetensors", "state.json", "config.yaml")
OPTIONAL_FILES = (BRANCHING_FILE,)


def kept_files(folder: Path, kept: Path) -> Iterator[Path]:
    """Give the model in a checkpoint's folder second names below `kept`, which outlive the first ones.

    They are hard links, or copies where the file system has none.
    """
    kept.mkdir(parents=True, exist_ok=True)
    for name in (*MODEL_FILES, *(name for name in OPTIONAL_FILES if (folder / name).exists())):
        target = kept / name
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(folder / name)
        except OSError:
            shutil.copy2(folder / name, target)
        yield target


def check_entries(reference: str, entries: Mapping[str, Any]) -> None:
    """Refuse an artifact that holds anything but a checkpoint, by its manifest {name: entry}.

    Raises:
        ValueError: if a file is foreign, missing or a link.
    """
    _check_names(reference, list(entries))
    # An entry may be a link to any address or file, which a download would follow.
    if links := sorted(name for name, entry in entries.items() if entry.ref is not None):
        raise ValueError(f"{reference} is refused: {links[0]!r} is a link to elsewhere")


def check_folder(reference: str, folder: Path) -> None:
    """Refuse a downloaded folder that holds anything but the plain files of a checkpoint.

    Raises:
        ValueError: if a file is foreign, missing or a link.
    """
    _check_names(reference, [path.relative_to(folder).as_posix() for path in folder.rglob("*")])
    if odd := sorted(path.name for path in folder.iterdir() if path.is_symlink() or not path.is_file()):
        raise ValueError(f"{reference} is refused: {odd[0]!r} is not a plain file")


def _check_names(reference: str, names: Sequence[str]) -> None:
    if foreign := sorted(set(names) - {*MODEL_FILES, *OPTIONAL_FILES, "training.safetensors"}):
        raise ValueError(f"{reference} is refused: {foreign[0]!r} is no file of a checkpoint")
    if missing := sorted(set(MODEL_FILES) - set(names)):
        raise ValueError(f"{reference} is no checkpoint: it has no {missing[0]}")
