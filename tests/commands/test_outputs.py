"""What sample.py and evaluate.py leave: nothing of an earlier call, and no work is lost where it cannot be written."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from mfcdm.commands.outputs import check_kept, prepare_folder, remove_earlier
from mfcdm.evaluation import read_clouds
from tests.commands.runs import clouds

QUICK = ("sampler.num_steps=6", "device=cpu", "output=drawn", "protocol.num_permutations=20")
SCORED = ("evaluate=data.npz", "protocol.metrics=[jsd]")
FILES = ("generated=data.npz", "reference=data.npz", "protocol.metrics=[jsd]", "device=cpu")


@pytest.fixture(autouse=True)
def data(tmp_path):
    np.savez(tmp_path / "data.npz", clouds(8, 70, 3))


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_fewer_clouds_leave_none_of_an_earlier_call(run, call, tmp_path):
    arguments = (f"checkpoint={run}/checkpoints/last", *QUICK)
    assert call("sample", *arguments, "num_clouds=8", *SCORED).code == 0
    drawn = tmp_path / "drawn"
    mine = ["notes.txt", "sample-12.ply", "sample-0001.ply.bak", "my-sample-0001.ply"]
    for name in [*mine, "likelihood.json"]:
        (drawn / name).write_text("")
    assert call("sample", *arguments, "num_clouds=4").code == 0
    made = ["samples.npz", "samples.png", *(f"sample-{index:04d}.ply" for index in range(4))]
    assert sorted(path.name for path in drawn.iterdir()) == sorted([*mine, *made])
    for name in mine:
        (drawn / name).unlink()
    assert len(read_clouds(drawn)) == 4


def test_completions_and_frames_leave_none_of_an_earlier_call(run, call, tmp_path):
    np.savez(tmp_path / "two.npz", *(0.1 * clouds(2, 30, 3)))
    (tmp_path / "drawn").mkdir()
    for task in ("complete", "interpolate"):
        for name in ("sample-0009.ply", "report.json"):
            (tmp_path / "drawn" / name).write_text("")
        ended = call("sample", f"checkpoint={run}/checkpoints/last", *QUICK, "num_clouds=2", f"{task}=two.npz")
        assert ended.code == 0, ended.err
        left = sorted(path.name for path in (tmp_path / "drawn").iterdir())
        assert left == ["sample-0000.ply", "sample-0001.ply", "samples.npz", "samples.png"]


def test_a_folder_of_such_a_name_stays(tmp_path):
    (tmp_path / "sample-0000.ply").mkdir()
    remove_earlier(tmp_path)
    assert (tmp_path / "sample-0000.ply").is_dir()


@pytest.mark.parametrize("given", ["drawn", "drawn/samples.npz", "drawn/sample-0003.ply"])
def test_what_is_given_is_not_replaced(run, call, tmp_path, given):
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "sample-0003.ply").write_text("given")
    ended = call("sample", f"checkpoint={run}/checkpoints/last", *QUICK, f"complete={given}")
    assert ended.code == 2
    assert ended.sentence == f"mfcdm: complete={given} would be replaced by the new samples; give another output"
    assert (tmp_path / "drawn" / "sample-0003.ply").read_text() == "given"


def test_a_file_beside_the_samples_may_be_given(tmp_path):
    for name in ("parts.ply", "absent.npz", "."):
        check_kept("complete", str(tmp_path / name), tmp_path)


@pytest.mark.parametrize("name", ["samples.npz", "samples.png", "report.json", "likelihood.json"])
def test_a_folder_in_the_place_of_a_file_is_refused_before_the_work(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(IsADirectoryError, match=name):
        prepare_folder(tmp_path)


def test_a_folder_that_takes_no_files_is_refused_before_sampling(run, call, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "touch", full)
    (tmp_path / "drawn").mkdir()
    ended = call("sample", f"checkpoint={run}/checkpoints/last", *QUICK, "num_clouds=2")
    assert ended.code == 2
    assert ended.err.strip() == ended.sentence  # before any progress is shown
    assert ended.sentence == f"mfcdm: {tmp_path}/drawn/samples.npz cannot be written: No space left on device"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no file system that refuses root")
def test_a_report_that_cannot_be_written_is_refused_before_scoring(call, monkeypatch):
    monkeypatch.setattr("mfcdm.commands.evaluate.score", lambda *_: pytest.fail("was scored"))
    ended = call("evaluate", *FILES, "output=/proc/report.json")
    assert (ended.code, ended.sentence.startswith("mfcdm: /proc/report.json cannot be written: ")) == (2, True)


def test_scores_are_shown_where_the_report_can_no_longer_be_written(call, monkeypatch):
    monkeypatch.setattr(Path, "write_text", full)
    ended = call("evaluate", *FILES)
    assert ended.code == 2
    assert "jsd " in ended.out
    assert ended.err.splitlines()[-1] == "mfcdm: report.json: No space left on device"


def test_likelihoods_are_shown_where_the_report_can_no_longer_be_written(run, call, tmp_path, monkeypatch):
    np.save(tmp_path / "one.npy", 0.1 * clouds(16, 3))
    monkeypatch.setattr(Path, "write_text", full)
    ended = call(
        "sample", f"checkpoint={run}/checkpoints/last", *QUICK, "likelihood=one.npy", "conditioning.tolerance=0.1"
    )
    assert ended.code == 2
    assert "nats per point" in ended.out
    assert ended.err.splitlines()[-1].endswith("drawn/likelihood.json: No space left on device")
