import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mfcdm import checkpoint
from mfcdm.datasets import Normalization
from mfcdm.training.same_data import check_same_data
from tests.training.runs import state, trainer, validation

ROOT = Path(__file__).resolve().parents[2]


class Killed(Exception):
    pass


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def run_until(run, stop: int) -> None:
    """Train, and stop without a word after `stop` steps."""

    def kill(progress):
        if progress.step > stop:
            raise Killed

    with pytest.raises(Killed):
        run.run(kill)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(tmp_path, stop):
    whole = trainer(tmp_path / "whole")
    whole.run()
    run_until(trainer(tmp_path / "cut", checkpoint_every=stop), stop)
    resumed = trainer(tmp_path / "cut")
    resumed.resume(checkpoint.newest(tmp_path / "cut" / "checkpoints"))
    assert resumed.step == stop
    resumed.run()
    assert resumed.step == whole.step
    assert equal(state(whole), state(resumed))


def test_a_resumed_run_validates_and_knows_its_best(tmp_path):
    whole = trainer(tmp_path / "whole", validation=validation())
    whole.run()
    cut = tmp_path / "cut" / "checkpoints"
    run_until(trainer(tmp_path / "cut", validation=validation()), 3)
    assert checkpoint.newest(cut).name == "step-00000003"  # a validation leaves a checkpoint
    (cut / "best").unlink()  # as if it was killed before
    resumed = trainer(tmp_path / "cut", validation=validation())
    resumed.resume(checkpoint.newest(cut))
    assert resumed.judge.best == {"step": 3, "score": resumed.judge.best["score"]}
    assert (cut / "best").resolve().name == "step-00000003"
    resumed.judge.best["score"] = 0.0  # nothing that follows is better
    resumed.run()
    assert resumed.judge.best == {"step": 3, "score": 0.0}
    assert (cut / "best").resolve().name == "step-00000003"
    assert (cut / "last").resolve().name == "step-00000006"
    assert equal(state(whole), state(resumed))


# A process that is killed while it writes the file of its second checkpoint that `when` counts
WRITER = """
import os, pathlib, signal, sys
from mfcdm import checkpoint
from mfcdm.datasets import Normalization
from mfcdm.training.same_data import check_same_data
from tests.training.runs import trainer

flush, left = checkpoint._flush, {when}

def killed(path):
    global left
    flush(path)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint._flush = killed
trainer(pathlib.Path({folder!r}), checkpoint_every=2).run()
"""
# A checkpoint flushes its four files, itself and its parent, and `last` the parent: seven times.
FIRST = 7


@pytest.mark.parametrize("when", [FIRST + 1, FIRST + 4, FIRST + 5])
def test_a_process_killed_while_it_writes_is_resumed_from_the_last_whole_checkpoint(tmp_path, when):
    code = WRITER.format(folder=str(tmp_path), when=when)
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    checkpoints = tmp_path / "checkpoints"
    assert [path.name for path in checkpoints.glob(".writing-*")], "it was not killed while it wrote"
    newest = checkpoint.newest(checkpoints)
    assert newest.name == "step-00000002"
    resumed, whole = trainer(tmp_path), trainer(tmp_path / "whole")
    resumed.resume(newest)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["last", "step-00000002"]
    resumed.run()
    whole.run()
    assert sorted(path.name for path in checkpoints.iterdir()) == ["last", "step-00000002", "step-00000006"]
    assert checkpoint.load(checkpoints / "last").step == 6
    assert equal(state(whole), state(resumed))


def test_a_process_killed_between_the_two_renames_keeps_the_old_checkpoint(tmp_path):
    run = trainer(tmp_path)
    folder = run.save()
    folder.rename(folder.parent / f".old-{folder.name}-123")
    (folder.parent / f".writing-{folder.name}-123").mkdir()
    (folder.parent / ".link-last-123").symlink_to("nowhere")
    assert checkpoint.newest(folder.parent) is None
    checkpoint.remove_leftovers(folder.parent)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["last", "step-00000000"]
    assert checkpoint.load(folder.parent / "last").step == 0


DAMAGED = [
    (lambda numbers: numbers.clear(), "training has no ema_updates"),
    (lambda numbers: numbers.pop("seconds"), "training has no seconds"),
    (lambda numbers: numbers.pop("refusals"), "training has no refusals"),
    (lambda numbers: numbers.update(seconds="x"), "training.seconds is 'x'"),
    (lambda numbers: numbers.update(seconds=float("nan")), "training.seconds is nan"),
    (lambda numbers: numbers.update(ema_updates=-1), "training.ema_updates is -1"),
    (lambda numbers: numbers.update(refusals={"a": 1}), "training.refusals is {'a': 1}"),
    (lambda numbers: numbers.update(refusals={"in_all": "many"}), "training.refusals is"),
    (lambda numbers: numbers.update(best=3), "training.best is 3"),
    (lambda numbers: numbers.update(best={"step": 1}), "training.best is {'step': 1}"),
    (lambda numbers: numbers.update(best={"step": 0.5, "score": 0.1}), "training.best is {'step': 0.5"),
    (lambda numbers: numbers.update(plateau={"step": None}), "training.plateau is"),
    (lambda numbers: numbers.update(unfinished=[1]), r"training.unfinished is \[1\]"),
    (lambda numbers: numbers.update(branching=1), "training.branching is 1"),
    (lambda numbers: numbers.update(num_clouds="12"), "training.num_clouds is '12'"),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGED, ids=[sentence for _, sentence in DAMAGED])
def test_a_damaged_number_is_named_with_its_file(tmp_path, damage, sentence):
    folder = trainer(tmp_path).save()
    path = folder / "state.json"
    state = json.loads(path.read_text())
    damage(state["training"])
    path.write_text(json.dumps(state))
    with pytest.raises(ValueError, match=f"{path} is damaged: {sentence}"):
        trainer(tmp_path).resume(folder)


SAVED = {"mean": [1e3, 0.0], "std": 2.0, "categories": ["a"], "training": {"num_clouds": 3}}


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({}, None),
        ({"mean": [1e3 + 1e-4, 1e-5]}, None),  # another order of summation
        ({"mean": [1e3 + 1e-2, 0.0]}, r"their mean and standard deviation are \(1000.01, 0\) and 2, and were"),
        ({"mean": [1e3, 0.0, 0.0]}, "their mean"),
        ({"std": 2.001}, "their mean"),
        ({"categories": ["b"]}, "the categories are b, and were a"),
        ({"categories": []}, "the categories are none, and were a"),
        ({"num_clouds": 1}, "there are 1 cloud, and were 3"),
    ],
)
def test_data_are_compared_with_those_of_a_checkpoint(changed, difference):
    now = {"mean": SAVED["mean"], "std": SAVED["std"], "categories": SAVED["categories"], "num_clouds": 3, **changed}
    scale = Normalization(torch.tensor(now["mean"]), torch.tensor(now["std"]))
    parts = SAVED, scale, now["categories"], now["num_clouds"], "data.npz"
    if difference is None:
        check_same_data(*parts)
        return
    with pytest.raises(ValueError, match=f"data.npz holds other data than the run began with: {difference}"):
        check_same_data(*parts)
