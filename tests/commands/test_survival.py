"""Runs that are killed or stopped, each in a process of its own, and go on: they end as if nothing had happened."""

import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mfcdm import checkpoint
from mfcdm.training.batches import Batches
from tests.commands.forks import Forks, killed
from tests.commands.runs import SHAPES, TINY, records

OPTIONS = (
    *SHAPES,
    "dataset.num_points=32",
    "network.width=16",
    "network.depth=1",
    "subdivision.num_particles=32",
    "subdivision.num_levels=2",
    "validation.num_clouds=4",
    "validation.num_steps=2",
    "validation.every=0.5",
    "trainer.max_steps=8",
    "trainer.checkpoint_every=2",
    "trainer.keep_last=2",
    "num_pictured=0",
)
TIMED = re.compile(r".*seconds|.*_per_second|(time|memory)/.*")  # what differs between two equal runs

# (steps done, the first place after them whose name holds this): where the process kills itself, before it does it.
WRITING = [
    (3, r"mkdir .*\.writing-step-00000004"),
    (3, r"tensors .*\.writing-step-00000004.*/network"),  # half of the file is written
    (3, r"tensors .*\.writing-step-00000004.*/training"),
    (3, r"open .*\.writing-step-00000004.*/config"),
    (3, r"rename .*\.writing-step-00000004"),
    (3, r"rename .*\.link-last"),
    (3, r"symlink .*\.link-best"),
    (5, r"rename .*/step-00000002"),  # an old checkpoint, to be removed
    (5, r"os.rmdir .*\.removed-step-00000002"),
    (7, r"rename .*\.link-best"),  # the last checkpoint
]
BEFORE_THE_FIRST = [
    (0, r"rename .*\.environment\.json"),
    (0, r"open .*/metrics\.jsonl$"),
    (0, r"step 0"),
    (1, r"step 1"),
    (1, r"rename .*\.writing-step-00000002"),
]
RESUMING = [
    (0, r"os.remove network.safetensors"),  # what the first kill left half-written is being removed
    (0, r"rename .*\.link-last"),
    (0, r"rename .*\.config\.yaml"),
    (0, r"rename .*\.metrics\.jsonl"),
    (0, r"step 2"),
]


def place(places: list[str], done: int, name: str) -> int:
    """Number of the first place whose name holds `name`, once `done` steps are done."""
    begun = places.index(f"step {done - 1}") if done else -1
    return next(at for at, passed in enumerate(places) if at > begun and re.search(name, passed))


def weights(run: Path) -> dict[str, np.ndarray]:
    """Averaged and current weights, and the optimizer's state."""
    files = [load_file(run / "checkpoints" / "last" / f"{name}.safetensors") for name in ("network", "training")]
    return {f"{index}.{name}": tensor for index, file in enumerate(files) for name, tensor in file.items()}


@pytest.fixture(scope="module")
def forks():
    with Forks() as forks:
        yield forks


@pytest.fixture(scope="module")
def whole(forks, tmp_path_factory):
    """A run that nothing disturbs, the places that it passes, and the seconds that it takes."""
    folder = tmp_path_factory.mktemp("whole")
    begun = time.monotonic()
    ran = forks.train(*OPTIONS, f"hydra.run.dir={folder / 'run'}", folder=folder)
    assert ran.code == 0, ran.err
    return folder / "run", ran.places, time.monotonic() - begun


@pytest.fixture(scope="module")
def half_written(forks, whole, tmp_path_factory):
    """A run killed while it wrote its second checkpoint, and the places that it passes when it goes on."""
    folder = tmp_path_factory.mktemp("half")
    at = place(whole[1], 3, r"rename .*\.writing-step-00000004")
    assert killed(forks.train(*OPTIONS, f"hydra.run.dir={folder / 'run'}", folder=folder, sent=signal.SIGKILL, at=at))
    # Its folder's path is in nothing that it holds, so a copy is as good.
    copy = shutil.copytree(folder / "run", folder / "copy", symlinks=True)
    ran = forks.train(f"resume={copy}", folder=folder)
    assert ran.code == 0, ran.err
    return folder / "run", ran.places


def check_equal(run: Path, whole: Path) -> None:
    """The same weights to the last bit, the same best, the same records but for the clock, and nothing left over."""
    found, expected = weights(run), weights(whole)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert {"last", "best", "step-00000006", "step-00000008"} <= names
    assert not [name for name in names if name.startswith(".")]
    for link in ("last", "best"):
        assert (run / "checkpoints" / link).resolve().name == (whole / "checkpoints" / link).resolve().name
    untimed = [[{k: v for k, v in r.items() if not TIMED.fullmatch(k)} for r in records(f)] for f in (run, whole)]
    assert untimed[0] == untimed[1]


def go_on(forks, run: Path) -> None:
    ran = forks.train(f"resume={run}", folder=run.parent)
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(("done", "name"), WRITING, ids=[name for _, name in WRITING])
def test_killed_while_it_writes_a_checkpoint(forks, whole, tmp_path, done, name):
    at, run = place(whole[1], done, name), tmp_path / "run"
    ran = forks.train(*OPTIONS, f"hydra.run.dir={run}", folder=tmp_path, sent=signal.SIGKILL, at=at)
    assert killed(ran), ran.err
    assert re.search(name, ran.places[-1])
    newest = checkpoint.newest(run / "checkpoints")
    assert checkpoint.load_training(newest).numbers["ema_updates"] == checkpoint.load(newest).step >= 2
    go_on(forks, run)
    check_equal(run, whole[0])


@pytest.mark.parametrize("name", [r"tensors .*\.writing-step-00000004.*/branching", r"step 5"])
def test_killed_with_a_learned_branching(forks, tmp_path, name):
    folders = tmp_path / "whole", tmp_path / "run"
    options = (*OPTIONS, "branching=learned")
    ran = forks.train(*options, f"hydra.run.dir={folders[0]}", folder=tmp_path)
    assert ran.code == 0, ran.err
    at = place(ran.places, 3, name)
    ran = forks.train(*options, f"hydra.run.dir={folders[1]}", folder=tmp_path, sent=signal.SIGKILL, at=at)
    assert killed(ran), ran.err
    go_on(forks, folders[1])
    check_equal(folders[1], folders[0])
    found, expected = (load_file(folder / "checkpoints" / "last" / "branching.safetensors") for folder in folders)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(("done", "name"), BEFORE_THE_FIRST, ids=[name for _, name in BEFORE_THE_FIRST])
def test_killed_before_the_first_checkpoint(forks, whole, tmp_path, done, name):
    at, run = place(whole[1], done, name), tmp_path / "run"
    assert killed(forks.train(*OPTIONS, f"hydra.run.dir={run}", folder=tmp_path, sent=signal.SIGKILL, at=at))
    assert checkpoint.newest(run / "checkpoints") is None
    ran = forks.train(f"resume={run}", folder=tmp_path)
    assert ran.code == 0, ran.err
    assert f"{run} was left before its first checkpoint: it begins anew, with its own configuration" in ran.err
    check_equal(run, whole[0])


@pytest.mark.parametrize(("done", "name"), RESUMING, ids=[name for _, name in RESUMING])
def test_killed_again_while_it_resumes(forks, whole, half_written, tmp_path, done, name):
    run = shutil.copytree(half_written[0], tmp_path / "run", symlinks=True)
    at = place(half_written[1], done, name)
    ran = forks.train(f"resume={run}", folder=tmp_path, sent=signal.SIGKILL, at=at)
    assert killed(ran), ran.err
    assert re.search(name, ran.places[-1])
    go_on(forks, run)
    check_equal(run, whole[0])


@pytest.mark.parametrize("seed", range(5))
def test_killed_anywhere(forks, whole, tmp_path, seed):
    run, delay = tmp_path / "run", random.Random(seed).uniform(0.0, whole[2])
    forks.train(*OPTIONS, f"hydra.run.dir={run}", folder=tmp_path, sent=signal.SIGKILL, delay=delay)
    if not (run / "config.yaml").is_file():  # it had not begun: only its command line knows what it was to do
        ran = forks.train(*OPTIONS, f"hydra.run.dir={run}", folder=tmp_path)
        assert ran.code == 0, ran.err
    else:
        go_on(forks, run)
    check_equal(run, whole[0])


@pytest.mark.parametrize(
    ("sent", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")], ids=["INT", "TERM"]
)
@pytest.mark.parametrize(("done", "where"), [(2, "step 2"), (3, r"tensors .*step-00000004.*/network")])
def test_a_stopped_run_says_how_to_go_on_and_ends_bit_equal(forks, whole, tmp_path, sent, code, name, done, where):
    run = tmp_path / "run"
    at = place(whole[1], done, where)
    ran = forks.train(*OPTIONS, f"hydra.run.dir={run}", folder=tmp_path, sent=sent, at=at)
    assert ran.code == code
    last = run / "checkpoints" / f"step-{done + 1:08d}"
    (sentence,) = [line for line in ran.err.splitlines() if line.startswith("mfcdm: ")]
    assert sentence == (
        f"mfcdm: stopped by {name} after step {done + 1}, in {last}; python train.py resume={run} goes on"
    )
    assert ran.err.count(f"{name}: the run stops after this step") == 1
    assert (run / "checkpoints" / "last").resolve() == last
    assert records(run)[-1]["step"] == done + 1
    go_on(forks, run)
    check_equal(run, whole[0])


# Damage


def cut(folder):
    path = folder / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    return "training.safetensors"


def empty(folder):
    (folder / "state.json").write_text("")
    return "state.json"


def lose(folder):
    (folder / "network.safetensors").unlink()
    return "network.safetensors"


@pytest.mark.parametrize("damage", [cut, empty, lose])
def test_a_damaged_checkpoint_is_left_out_and_said(forks, whole, tmp_path, damage):
    run = shutil.copytree(whole[0], tmp_path / "run", symlinks=True)
    newest = run / "checkpoints" / "step-00000008"
    damage(newest)
    ran = forks.train(f"resume={run}", folder=tmp_path)
    assert ran.code == 0, ran.err
    assert f"{newest} is not whole, and left out: " in ran.err
    assert "step 6" in ran.places
    assert "step 5" not in ran.places
    check_equal(run, whole[0])


def test_a_run_whose_checkpoints_are_all_damaged_is_refused_and_left_as_it_is(forks, whole, tmp_path):
    run = shutil.copytree(whole[0], tmp_path / "run", symlinks=True)
    for folder in (run / "checkpoints").glob("step-*"):
        cut(folder)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    ran = forks.train(f"resume={run}", folder=tmp_path)
    assert ran.code == 2
    assert f"resume={run}: it holds no whole checkpoint to go on from" in ran.err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_data_that_vanish_do_not_disturb_a_run_and_end_its_resumption_with_a_sentence(call, tmp_path, monkeypatch):
    """A folder of clouds, removed in the midst of training: all of them are in memory by then."""
    data, run, draw = tmp_path / "data", tmp_path / "run", Batches.at
    data.mkdir()
    for index in range(6):
        np.save(data / f"{index}.npy", np.random.default_rng(index).normal(size=(64, 3)))
    monkeypatch.setattr(Batches, "at", lambda self, step: shutil.rmtree(data, ignore_errors=True) or draw(self, step))
    ended = call(
        "train", f"dataset.path={data}", *TINY, "trainer.max_steps=2", "num_pictured=2", f"hydra.run.dir={run}"
    )
    assert ended.code == 0, ended.err
    assert (run / "samples.png").is_file()
    assert not data.exists()
    before = {path: path.lstat().st_mtime_ns for path in run.rglob("*")}
    ended = call("train", f"resume={run}")
    assert ended.code == 2
    assert str(data) in ended.sentence
    assert {path: path.lstat().st_mtime_ns for path in run.rglob("*")} == before
