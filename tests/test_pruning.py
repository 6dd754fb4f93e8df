"""Old checkpoints go, and none that anything points to; wherever the process is killed, what is left is whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from mfcdm import checkpoint
from tests.training.runs import CONFIG


def write(folder: Path, *steps: int) -> None:
    """Checkpoints that are whole as far as `fault` looks."""
    for step in steps:
        own = folder / f"step-{step:08d}"
        own.mkdir(parents=True)
        save_file({"weight": torch.zeros(3)}, own / "network.safetensors")
        save_file({"moment": torch.zeros(3)}, own / "training.safetensors")
        (own / "config.yaml").write_text(yaml.safe_dump(CONFIG))
        (own / "state.json").write_text(json.dumps({"step": step, "training": {}}))
        checkpoint.point_at(own, "last")


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


def test_the_newest_stay_and_what_a_link_points_to(tmp_path):
    write(tmp_path, *range(100, 1100, 100))
    checkpoint.point_at(tmp_path / "step-00000300", "best")
    checkpoint.point_at(tmp_path / "step-00000500", "mine")  # a user's own
    (tmp_path / "step-notes").write_text("a file of the user")
    checkpoint.prune(tmp_path, 3)
    (tmp_path / "step-notes").unlink()
    assert steps(tmp_path) == [300, 500, 800, 900, 1000]
    checkpoint.prune(tmp_path, 3)
    assert steps(tmp_path) == [300, 500, 800, 900, 1000]
    checkpoint.point_at(tmp_path / "step-00000900", "best")  # 300 is the best no more
    checkpoint.prune(tmp_path, 1)
    assert steps(tmp_path) == [500, 900, 1000]
    assert all(checkpoint.fault(tmp_path / link) is None for link in ("last", "best", "mine"))


def test_last_survives_where_it_is_not_the_newest(tmp_path):
    """As after a resumption from an older checkpoint, the newest being damaged."""
    write(tmp_path, 100, 200, 300)
    checkpoint.point_at(tmp_path / "step-00000100", "last")
    checkpoint.prune(tmp_path, 1)
    assert steps(tmp_path) == [100, 300]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survived", range(11))
def test_a_process_killed_while_it_prunes_leaves_whole_checkpoints_alone(tmp_path, monkeypatch, survived):
    """Killed after so many renames and removals of the ten that two old checkpoints take: 1 + 4 each."""
    write(tmp_path, 100, 200, 300, 400)
    checkpoint.point_at(tmp_path / "step-00000300", "best")
    left = survived

    def counted(action):
        def act(*arguments, **options):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return action(*arguments, **options)

        return act

    def remove(folder):
        for file in sorted(folder.iterdir()):
            unlink(file)
        folder.rmdir()

    unlink = counted(Path.unlink)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(shutil, "rmtree", remove)
        if survived < 10:
            with pytest.raises(Killed):
                checkpoint.prune(tmp_path, 1)
        else:
            checkpoint.prune(tmp_path, 1)
    assert all(checkpoint.fault(path) is None for path in tmp_path.glob("step-*"))
    assert {300, 400} <= set(steps(tmp_path))
    assert checkpoint.newest(tmp_path) == tmp_path / "step-00000400"
    checkpoint.remove_leftovers(tmp_path)
    assert not list(tmp_path.glob(".*"))
    assert all(checkpoint.fault(tmp_path / link) is None for link in ("last", "best"))
    checkpoint.prune(tmp_path, 1)
    assert steps(tmp_path) == [300, 400]


def test_a_checkpoint_that_cannot_be_removed_stays_and_harms_nothing(tmp_path, monkeypatch):
    write(tmp_path, 100, 200)

    def refuse(*_, **__):
        raise PermissionError("no")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        checkpoint.prune(tmp_path, 1)
    assert steps(tmp_path) == [100, 200]


# Which checkpoint is whole


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_the_newest_whole_one_is_found_among_damaged_ones(tmp_path):
    write(tmp_path, 100, 200, 300, 400, 500, 600)
    cut(tmp_path / "step-00000600" / "network.safetensors")  # by one byte
    cut(tmp_path / "step-00000500" / "training.safetensors")
    (tmp_path / "step-00000400" / "state.json").write_bytes(b"\0" * 40)  # as a power cut may leave it
    (tmp_path / "step-00000300" / "config.yaml").unlink()
    assert checkpoint.newest(tmp_path) == tmp_path / "step-00000200"
    named = {600: "network.safetensors", 500: "training.safetensors", 400: "state.json", 300: "config.yaml"}
    for step, name in named.items():
        assert checkpoint.fault(tmp_path / f"step-{step:08d}").startswith(f"{name}: ")
    assert checkpoint.fault(tmp_path / "step-00000200") is None
    shutil.rmtree(tmp_path / "step-00000200")
    shutil.rmtree(tmp_path / "step-00000100")
    assert checkpoint.newest(tmp_path) is None


def test_a_checkpoint_to_sample_from_is_whole_without_the_optimizers_state(tmp_path):
    write(tmp_path, 100)
    own = tmp_path / "step-00000100"
    (own / "training.safetensors").unlink()
    assert checkpoint.fault(own) is not None  # its state speaks of one
    (own / "state.json").write_text(json.dumps({"step": 100, "training": None}))
    assert checkpoint.fault(own) is None
