"""The folder that sample.py writes into: checked before the work, and free of what an earlier call has left there."""

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from mfcdm.atomic import check_writable
from mfcdm.commands.files import write_ply

SAMPLES, PICTURE, REPORT, LIKELIHOOD = "samples.npz", "samples.png", "report.json", "likelihood.json"

# Names that only sample.py gives; nothing else is ever removed.
_PLY = re.compile(r"sample-\d{4,}\.ply", re.ASCII)


def prepare_folder(folder: Path) -> None:
    """Make the folder, and refuse one that nothing can be written into: before the work, which would be lost.

    Raises:
        OSError: if it cannot be made or written into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (SAMPLES, PICTURE, REPORT, LIKELIHOOD):
        check_writable(folder / name)


def check_kept(key: str, given: str, folder: Path) -> None:
    """Refuse a user's file that the samples would take the place of.

    Args:
        key: under which it is given.
        given: file or folder.
        folder: of the samples.

    Raises:
        ValueError: if it is, or holds, the clouds of an earlier call in this folder.
    """
    path, folder = Path(given).resolve(), folder.resolve()
    files = folder.iterdir() if path == folder and folder.is_dir() else [path]
    if any(file.parent == folder and (file.name == SAMPLES or _PLY.fullmatch(file.name)) for file in files):
        raise ValueError(f"{key}={given} would be replaced by the new samples; give another output")


def remove_earlier(folder: Path) -> None:
    """Remove the clouds and the scores of an earlier call, which would pass for those of this one."""
    for path in _earlier(folder):
        path.unlink()


def write_plies(folder: Path, clouds: Sequence[Tensor]) -> None:
    """One ply a cloud (N, D)."""
    for index, cloud in enumerate(clouds):
        write_ply(folder / f"sample-{index:04d}.ply", cloud)


def _earlier(folder: Path) -> list[Path]:
    """What an earlier call has left besides samples.npz and samples.png, which are always written anew."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if _PLY.fullmatch(path.name) or path.name in (REPORT, LIKELIHOOD))
    return sorted(path for path in found if not path.is_dir())
