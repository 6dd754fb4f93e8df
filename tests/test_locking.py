"""A folder belongs to one process at a time."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mfcdm import locking
from mfcdm.locking import LOCK, alone_in

ROOT = Path(__file__).resolve().parents[1]
KILLED = """
import os, sys
from pathlib import Path
from mfcdm.locking import alone_in

with alone_in(Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""


def test_a_folder_belongs_to_one_at_a_time_and_holds_nothing_afterwards(tmp_path):
    folder = tmp_path / "run"
    with alone_in(folder):
        for _ in range(2):
            with pytest.raises(BlockingIOError, match=f"another process is working in {folder}"), alone_in(folder):
                pass
        assert [path.name for path in folder.iterdir()] == [LOCK]
    assert not list(folder.iterdir())
    with pytest.raises(KeyError), alone_in(folder):
        raise KeyError
    with alone_in(folder):
        pass


def test_a_process_that_was_killed_keeps_nobody_away(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert (tmp_path / LOCK).exists()
    with alone_in(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_that_its_owner_removes_meanwhile_is_not_what_is_locked(tmp_path, monkeypatch):
    opened, first = os.open, True

    def late(path, *arguments):
        nonlocal first
        descriptor = opened(path, *arguments)
        if first:
            first = False
            os.unlink(path)  # as the process does that has just ended
        return descriptor

    monkeypatch.setattr(os, "open", late)
    with alone_in(tmp_path), pytest.raises(BlockingIOError), alone_in(tmp_path):
        pass


@pytest.mark.parametrize("reason", ["no module", "no locks"])
def test_where_there_are_no_locks_nobody_is_kept_away(tmp_path, monkeypatch, reason):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if reason == "no module":
        monkeypatch.setattr(locking, "fcntl", None)
    else:
        monkeypatch.setattr(locking.fcntl, "flock", flock)
    with alone_in(tmp_path), alone_in(tmp_path):
        pass
