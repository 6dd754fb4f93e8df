"""What a W&B run must know when it goes on: its id, and what of it is surely on the disk."""

import json
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mfcdm import checkpoint
from mfcdm.atomic import whole
from mfcdm.locking import is_ours

# W&B's service writes to the disk every 15 s; a process that is killed outright loses what came since.
WRITTEN_AFTER = 30.0
_BEGUN = time.time()  # of this process, nearly


class RunNote:
    """The file <folder>/wandb.json: {"id": of the run, "step": the last one recorded for sure}.

    One process at a time has a run's note, from here until it is settled: rows of two would not grow.

    Args:
        folder: of the run. Its note is continued where it holds a checkpoint to go on from, and begun anew otherwise.

    Raises:
        BlockingIOError: if another process has it.
        ValueError: if the note is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._metrics = folder / "wandb.json", folder / "metrics.jsonl"
        self._let_go = weakref.finalize(self, _held(folder))
        self.id, self.step = secrets.token_hex(4), -1
        newest = checkpoint.newest(folder / "checkpoints")
        self._resumes_at = -1 if newest is None else checkpoint.read_state(newest)["step"]
        if newest is not None and self._path.is_file():
            try:
                note = json.loads(self._path.read_text())
                self.id, self.step = str(note["id"]), int(note["step"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self._path} is damaged: {error}") from error
        self._last = self._waiting = self.step
        self._waits_since = time.monotonic()
        self._write(self.step)

    def missing(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The records in metrics.jsonl up to the checkpoint that an earlier part of the run may have lost."""
        if self._resumes_at < 0 or not self._metrics.is_file():
            return
        for line in self._metrics.read_text().splitlines():
            record = json.loads(line)
            step = record.pop("step")
            if self.step < step <= self._resumes_at:
                yield step, record

    def take(self, run_id: str) -> None:
        """Go under the id that W&B has given, as it does in a sweep."""
        if run_id != self.id:
            self.id = run_id
            self._write(self.step)

    def add(self, step: int) -> None:
        """Take note of a recorded step, once it is old enough to be on the disk."""
        self._last, now = step, time.monotonic()
        if now - self._waits_since >= WRITTEN_AFTER:
            self._write(self._waiting)
            self._waiting, self._waits_since = step, now

    def settle(self) -> None:
        """Take note of the last step, as W&B has written all, and let others have the note."""
        self._write(self._last)
        self._let_go()

    def _write(self, step: int) -> None:
        with whole(self._path) as scratch:
            scratch.write_text(json.dumps({"id": self.id, "step": step}))


def _held(folder: Path) -> Callable[[], None]:
    """Keep other processes from a folder's run until what is returned is called, or this process ends."""
    opened = os.open(folder, os.O_RDONLY)
    if not is_ours(opened):
        os.close(opened)
        raise BlockingIOError(f"another process is recording {folder}")
    return partial(os.close, opened)


def remove_empty(folder: Path) -> None:
    """Remove parts that were killed before anything was written: `wandb sync` stops at them, and sends nothing."""
    for log in folder.glob("offline-run-*/*.wandb"):
        about = log.stat()
        if about.st_size <= 7 and about.st_mtime < _BEGUN:  # the header alone, and nobody is going to add to it
            shutil.rmtree(log.parent)
