"""python -m mfcdm.commands.replay: the steps that a run has refused."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch

from mfcdm.commands import replay
from tests.commands.runs import TINY, archive, clouds

REFUSED_STEP = 3


@pytest.fixture
def refused(call, monkeypatch, tmp_path):
    """A run of three steps on ten clouds, of which the last is refused as if its gradient were not finite."""
    norm, calls = torch.nn.utils.clip_grad_norm_, []

    def broken(*arguments):
        calls.append(norm(*arguments))
        return calls[-1] if len(calls) != REFUSED_STEP else torch.tensor(torch.inf)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", broken)
    data = archive(tmp_path / "data.npz", points=clouds(10, 80, 3))
    options = (*TINY, "trainer.max_steps=3", "trainer.checkpoint_every=1", "num_pictured=0", "seed=5")
    ended = call("train", data, *options, "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    assert "python -m mfcdm.commands.replay" in ended.err
    return tmp_path / "run", float(calls[-1])


def said(run, capsys):
    capsys.readouterr()
    try:
        replay.main([str(run)])
        code = 0
    except SystemExit as error:
        code = error.code
    return code, capsys.readouterr()


def test_a_refused_step_has_the_same_loss_again(refused, capsys):
    """It changed no weight: the checkpoint after it has those that it was taken with."""
    run, norm = refused
    kept = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, found = said(run, capsys)
    assert code == 0, found.err
    assert f"with the weights of {run / 'checkpoints' / 'step-00000003'}" in found.err
    head, _, *rows = found.out.splitlines()
    assert f"step {REFUSED_STEP}, level " in head
    now = float(re.search(r"gradient norm inf then, (\S+) now", head)[1])
    assert now == pytest.approx(norm, rel=1e-4)  # five digits are shown
    about = json.loads((run / "refused.json").read_text())["steps"][0]
    x = np.load(run.parent / "data.npz")["points"]
    reach = np.abs(x - x.mean(axis=(0, 1))).max(axis=(1, 2)) / (x - x.mean(axis=(0, 1))).std()
    assert len(rows) == 4
    for row, index, t, loss in zip(rows, about["indices"], about["t"], about["loss"], strict=True):
        shown = [float(word) for word in row.split()]
        assert shown == pytest.approx([index, t, loss, loss, reach[index]], rel=1e-4)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == kept


def test_without_a_checkpoint_the_first_weights_are_taken(refused, capsys):
    run, _ = refused
    shutil.rmtree(run / "checkpoints")
    code, found = said(run, capsys)
    assert code == 0, found.err
    assert "as there is no checkpoint" in found.err
    assert all(math.isfinite(float(row.split()[3])) for row in found.out.splitlines()[2:])


def damage(run, **changes):
    path = run / "refused.json"
    found = json.loads(path.read_text())
    found["steps"][0] |= changes
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda run: (run / "refused.json").unlink(), "holds no refused.json: no step of a run there was refused"),
        (lambda run: (run / "refused.json").write_text("[]"), "refused.json is damaged"),
        (lambda run: (run / "refused.json").write_text('{"seed": 5, "steps": [{}]}'), "refused.json is damaged"),
        (lambda run: (run / "refused.json").write_text('{"seed": 6, "steps": []}'), "is of seed 6, but the run's"),
        (lambda run: damage(run, step=0), "refused.json is damaged: step 0"),
        (lambda run: damage(run, t=[0.5]), "has 4 clouds and 1 times"),
        (lambda run: damage(run, indices=[0, 0, 0, 0]), "the data set is not that of the run any more"),
        (lambda run: (run.parent / "data.npz").unlink(), "data.npz"),
    ],
)
def test_mistakes_are_one_sentence(refused, capsys, change, sentence):
    run, _ = refused
    change(run)
    code, found = said(run, capsys)
    assert (code, found.out) == (2, "")
    complaint = [line for line in found.err.splitlines() if line.startswith("mfcdm: ")]
    assert len(complaint) == 1
    assert sentence in complaint[0]
    assert "Traceback" not in found.err
