import shutil

import pytest

from tests.commands.runs import SHAPES, VALIDATED


@pytest.fixture(scope="session")
def run(script, tmp_path_factory):
    """A finished run of four steps, with a checkpoint and a validation every two; to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("run") / "run"
    options = ("trainer.max_steps=4", "trainer.checkpoint_every=2", "num_pictured=2", "seed=3")
    ended = script("train.py", *SHAPES, *VALIDATED, *options, f"hydra.run.dir={folder}", cwd=folder.parent)
    assert ended.code == 0, ended.err
    assert f"picture: {folder / 'samples.png'}\n" in ended.err
    return folder


@pytest.fixture
def last(run, tmp_path):
    """A copy of the run's last checkpoint, to be damaged."""
    return shutil.copytree(run / "checkpoints" / "last", tmp_path / "copy")
