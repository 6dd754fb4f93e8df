import json
import re
import shutil
import signal
import time

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from mfcdm import checkpoint
from mfcdm.locking import LOCK, alone_in
from mfcdm.training.batches import Batches
from tests.commands.runs import SHAPES, TINY, VALIDATED, archive, change_config, clouds, points, records


def test_resumed_run_ends_bit_equal(run, script, tmp_path):
    """As if the machine had stopped after the checkpoint of step 2, while it wrote the record of step 3."""
    copy = shutil.copytree(run, tmp_path / "copy", symlinks=True)
    shutil.rmtree(copy / "checkpoints" / "step-00000004")
    (copy / "checkpoints" / "last").unlink()
    (copy / "checkpoints" / "best").unlink()
    (copy / "checkpoints" / "last").symlink_to("step-00000002")
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:10])
    begun = (copy / "checkpoints" / "step-00000002" / "state.json").stat().st_ino
    ended = script("train.py", f"resume={copy}", "trainer.max_steps=9", cwd=tmp_path)
    assert ended.code == 0, ended.err
    # It went on: starting anew would end in the same weights, but make step 2 and its record, with the clock, again.
    assert (copy / "checkpoints" / "step-00000002" / "state.json").stat().st_ino == begun
    assert (copy / "metrics.jsonl").read_text().splitlines(keepends=True)[:2] == lines[:2]
    assert (copy / "checkpoints" / "best").resolve().name == (run / "checkpoints" / "best").resolve().name
    assert "ignored: trainer.max_steps=9" in ended.err
    for name in ("network.safetensors", "training.safetensors"):
        expected = load_file(run / "checkpoints" / "last" / name)
        found = load_file(copy / "checkpoints" / "last" / name)
        assert expected.keys() == found.keys()
        assert all(np.array_equal(expected[key], found[key]) for key in expected), name
    assert [record["step"] for record in records(copy)] == [1, 2, 3, 4]
    for found, expected in zip(records(copy), records(run), strict=True):
        timed = re.compile(r".*seconds|.*_per_second|(time|memory)/.*")
        assert found.keys() == expected.keys()
        assert all(found[key] == expected[key] for key in found if not timed.fullmatch(key))
    np.testing.assert_array_equal(points(copy / "samples"), points(run / "samples"))
    assert not (tmp_path / "outputs" / "default").exists() or not list((tmp_path / "outputs" / "default").iterdir())


def test_ctrl_c_ends_with_a_sentence_and_keeps_checkpoints(start, tmp_path):
    folder = tmp_path / "run"
    options = (*VALIDATED, "validation.every=3", "trainer.max_steps=1000000", f"hydra.run.dir={folder}", "logger=wandb")
    process = start("train.py", *SHAPES, *options, cwd=tmp_path)
    limit = time.monotonic() + 60
    while not (folder / "checkpoints" / "last").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    step = checkpoint.load(newest).step
    assert f"mfcdm: stopped by Ctrl-C after step {step}, in {newest}; python train.py resume={folder} goes on\n" in err
    assert err.count("mfcdm: ") == 1
    assert (folder / "checkpoints" / "last").resolve() == newest
    assert checkpoint.load(newest).step == checkpoint.load_training(newest).numbers["ema_updates"]
    assert not list((folder / "checkpoints").glob(".*"))


def test_resume_runs_nothing_foreign(run, call, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy", symlinks=True)
    change_config(copy / "checkpoints" / "last", "sde", _target_="os.system", command="touch hostile")
    ended = call("train", f"resume={copy}")
    assert (ended.code, "os.system" in ended.sentence) == (2, True)
    assert not (tmp_path / "hostile").exists()


def test_new_run_does_not_mix_with_an_old_one(run, call):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    ended = call("train", *SHAPES, "trainer.max_steps=1", f"hydra.run.dir={run}")
    assert ended.code == 2
    assert f"resume={run}" in ended.sentence
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_a_run_of_an_earlier_version_goes_on(run, call, tmp_path):
    """Its configuration knows no validation, no logger and no pruning, and its state no best and no back-off."""
    copy = shutil.copytree(run, tmp_path / "copy", symlinks=True)
    last = copy / "checkpoints" / "last"
    config = yaml.safe_load((last / "config.yaml").read_text())
    del config["validation"], config["logger"]
    trainer = {key: value for key, value in config["trainer"].items() if key not in ("keep_last", "stop_when_flat")}
    trainer |= {"max_steps": 7, "checkpoint_every": 1}
    (last / "config.yaml").write_text(yaml.safe_dump(config | {"trainer": trainer}))
    state = json.loads((last / "state.json").read_text())
    for key in ("best", "plateau", "unfinished", "refusals"):
        del state["training"][key]
    state["training"]["refused"] = 0
    (last / "state.json").write_text(json.dumps(state))
    ended = call("train", f"resume={copy}")
    assert ended.code == 0, ended.err
    assert (copy / "checkpoints" / "last").resolve().name == "step-00000007"
    assert len(list((copy / "checkpoints").glob("step-*"))) == 5  # 2, 4, 5, 6, 7: it was promised that all stay
    assert "validation" not in ended.err


def test_a_finished_run_is_left_as_it_is(run, call, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy", symlinks=True)
    before = {path: path.lstat().st_ino for path in (copy / "checkpoints").rglob("step-*/*")}
    ended = call("train", f"resume={copy}")
    assert ended.code == 0, ended.err
    assert {path: path.lstat().st_ino for path in (copy / "checkpoints").rglob("step-*/*")} == before
    assert records(copy) == records(run)


# The data of a resumed run

CHANGED = [
    ({"points": 50 * clouds(6, 64, 3) + 2}, {}, "their mean and standard deviation are"),
    ({"points": np.concatenate([clouds(6, 64, 3)] * 2)}, {}, "there are 12 clouds, and were 6"),
    ({"points": clouds(6, 64, 3) + 0.01}, {"num_clouds": None}, "their mean and standard deviation are"),
]


@pytest.fixture
def on_archive(call, tmp_path):
    """A run of four steps on a file, as if killed after the second."""
    archive(tmp_path / "data.npz", points=clouds(6, 64, 3))
    options = (*TINY, "trainer.max_steps=4", "trainer.checkpoint_every=2", "num_pictured=0", "hydra.run.dir=run")
    ended = call("train", "dataset.path=data.npz", *options)
    assert ended.code == 0, ended.err
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    return tmp_path / "run"


def change_state(run, key, value):
    """Set a number of the training state, or leave it out, as an earlier version did."""
    path = run / "checkpoints" / "step-00000002" / "state.json"
    state = json.loads(path.read_text())
    state["training"].pop(key)
    state["training"] |= {} if value is None else {key: value}
    path.write_text(json.dumps(state))


@pytest.mark.parametrize(("arrays", "state", "difference"), CHANGED, ids=["scale", "number", "earlier version"])
def test_a_run_whose_data_have_changed_is_refused_and_left_as_it_is(
    on_archive, call, tmp_path, arrays, state, difference
):
    for key, value in state.items():
        change_state(on_archive, key, value)
    archive(tmp_path / "data.npz", **arrays)
    before = {path: path.lstat().st_mtime_ns for path in on_archive.rglob("*")}
    ended = call("train", "resume=run")
    assert ended.code == 2
    assert f"{tmp_path / 'data.npz'} holds other data than the run began with: {difference}" in ended.sentence
    assert {path: path.lstat().st_mtime_ns for path in on_archive.rglob("*")} == before


def test_a_run_whose_checkpoints_count_no_clouds_goes_on(on_archive, call):
    change_state(on_archive, "num_clouds", None)
    ended = call("train", "resume=run")
    assert ended.code == 0, ended.err
    assert checkpoint.load_training(on_archive / "checkpoints" / "last").numbers["num_clouds"] == 6


def test_a_relative_path_that_is_not_there_is_refused_with_the_folder_that_it_was_looked_for_from(
    on_archive, call, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ended = call("train", f"resume={on_archive}")
    assert ended.code == 2
    assert f"dataset.path=data.npz is relative to {tmp_path / 'elsewhere'}" in ended.sentence


# Two processes in one folder


def test_a_folder_that_another_process_trains_in_is_refused_and_left_as_it_is(on_archive, call, tmp_path):
    half = on_archive / "checkpoints" / ".writing-step-00000004-4242"
    half.mkdir()
    with alone_in(on_archive):
        before = {path: path.lstat().st_mtime_ns for path in on_archive.rglob("*")}
        for arguments in (("resume=run",), ("dataset.path=data.npz", *TINY, "hydra.run.dir=run")):
            ended = call("train", *arguments)
            assert ended.code == 2
            assert "another process is working in " in ended.sentence
            assert "run; it has to end first" in ended.sentence
        assert {path: path.lstat().st_mtime_ns for path in on_archive.rglob("*")} == before
        ended = call("sample", "checkpoint=run/checkpoints/step-00000002", "num_clouds=1", "output=drawn", "device=cpu")
        assert ended.code == 0, ended.err
    ended = call("train", "resume=run")
    assert ended.code == 0, ended.err
    assert not list(on_archive.rglob(".*"))


def test_a_run_is_alone_in_its_folder_while_it_trains(call, tmp_path, monkeypatch):
    archive(tmp_path / "data.npz", points=clouds(6, 64, 3))
    seen, draw = [], Batches.at

    def at(batches, step):
        seen.append((tmp_path / "run" / LOCK).exists())
        with pytest.raises(BlockingIOError), alone_in(tmp_path / "run"):
            pass
        return draw(batches, step)

    monkeypatch.setattr(Batches, "at", at)
    ended = call("train", "dataset.path=data.npz", *TINY, "trainer.max_steps=1", "num_pictured=0", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    assert seen
    assert all(seen)
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_new_run_does_not_begin_over_damaged_checkpoints(on_archive, call):
    (on_archive / "checkpoints" / "step-00000002" / "network.safetensors").write_bytes(b"x")
    before = {path: path.lstat().st_mtime_ns for path in on_archive.rglob("*")}
    ended = call("train", "dataset.path=data.npz", *TINY, "hydra.run.dir=run")
    assert ended.code == 2
    assert "already holds step-00000002, which is not whole: network.safetensors: " in ended.sentence
    assert {path: path.lstat().st_mtime_ns for path in on_archive.rglob("*")} == before
