"""A run's note belongs to one process at a time, and scores find their run."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from mfcdm.training.run_note import RunNote
from mfcdm.training.scores import RecordedRun
from tests.training.runs import trainer

ROOT = Path(__file__).resolve().parents[2]
KILLED = "import os, sys; from mfcdm.training.run_note import RunNote; from pathlib import Path; \
note = RunNote(Path(sys.argv[1])); os.kill(os.getpid(), 9)"


def test_a_note_belongs_to_one_at_a_time(tmp_path):
    note = RunNote(tmp_path)
    for _ in range(2):
        with pytest.raises(BlockingIOError, match=f"another process is recording {tmp_path}"):
            RunNote(tmp_path)
    note.settle()
    other = RunNote(tmp_path)
    with pytest.raises(BlockingIOError):
        RunNote(tmp_path)
    del other
    gc.collect()
    RunNote(tmp_path).settle()


def test_a_process_that_was_killed_has_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    RunNote(tmp_path).settle()


def test_only_what_wandb_recorded_is_a_recorded_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a run's folder nor one of its checkpoints"):
        RecordedRun.of(tmp_path)
    last = trainer(tmp_path).run()
    for path in (tmp_path, last):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path} was recorded by no W&B run"):
            RecordedRun.of(path)
    (tmp_path / "wandb.json").write_text('{"id": "ab", "step": 6}')
    with pytest.raises(FileNotFoundError, match="was recorded by no W&B run"):  # its configuration names another logger
        RecordedRun.of(tmp_path)
