import errno
import json
import os

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from mfcdm import checkpoint
from mfcdm.branching import Renoise
from mfcdm.checkpoint import TrainingState
from mfcdm.datasets import Normalization
from mfcdm.networks import ScoreNetwork
from mfcdm.sde import VPSDE
from mfcdm.subdivision import Subdivision

CONFIG = {
    "sde": {"_target_": "mfcdm.sde.VPSDE", "beta_max": 15.0},
    "network": {"_target_": "mfcdm.networks.ScoreNetwork", "width": 8, "depth": 1, "num_moments": 2, "num_heads": 2},
    "subdivision": {"_target_": "mfcdm.subdivision.Subdivision.dyadic", "num_particles": 64, "num_levels": 3},
    "branching": {"_target_": "mfcdm.branching.Renoise", "push": 1.0},
    "seed": 5,
}
NORMALIZATION = Normalization(torch.tensor([1.0, -2.0, 0.1]), torch.tensor(3.3))
FILES = ["config.yaml", "network.safetensors", "state.json", "training.safetensors"]


def network(seed=0):
    torch.manual_seed(seed)
    return ScoreNetwork(**{key: value for key, value in CONFIG["network"].items() if key != "_target_"})


def save(folder, seed=0, step=7, training=True, **other):
    weights = network(seed).state_dict()
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "count": torch.tensor(4)}
    options = {
        "weights": weights,
        "config": CONFIG,
        "normalization": NORMALIZATION,
        "step": step,
        "training": TrainingState(tensors, {"seconds": 1.5, "ema_updates": 4}) if training else None,
        "categories": ("mug", "lamp"),
    }
    return checkpoint.save(folder, **{**options, **other})


def weights_of(folder):
    return load_file(folder / "network.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_round_trip(tmp_path):
    folder = save(tmp_path / "deep" / "step-00000007")
    assert sorted(path.name for path in folder.iterdir()) == FILES
    model = checkpoint.load(folder)
    assert equal(model.network.state_dict(), network().state_dict())
    assert not model.network.training
    assert isinstance(model.sde, VPSDE)
    assert model.sde.beta_max == 15.0
    assert model.subdivision == Subdivision.dyadic(64, 3, sde=model.sde)
    assert model.branching == Renoise(1.0)
    torch.testing.assert_close(model.normalization.mean, NORMALIZATION.mean, rtol=0, atol=0)
    torch.testing.assert_close(model.normalization.std, NORMALIZATION.std, rtol=0, atol=0)
    assert (model.config, model.step, model.categories) == (CONFIG, 7, ("mug", "lamp"))


def test_training_state_round_trip(tmp_path):
    state = checkpoint.load_training(save(tmp_path / "step-00000007"))
    assert torch.equal(state.tensors["a"], torch.arange(6.0).reshape(2, 3).T)
    assert state.tensors["count"].item() == 4
    assert state.numbers == {"seconds": 1.5, "ema_updates": 4}


def test_checkpoint_to_sample_from_says_that_it_cannot_be_resumed(tmp_path):
    folder = save(tmp_path / "step-00000007", training=False)
    assert checkpoint.load(folder).step == 7
    with pytest.raises(FileNotFoundError, match=f"{folder} .*no training state"):
        checkpoint.load_training(folder)


def test_every_precision_survives(tmp_path):
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        weights = {"w": torch.randn(3, 4, dtype=torch.float64).to(dtype)}
        folder = save(tmp_path / str(dtype), weights=weights)
        assert equal(weights_of(folder), weights)
        assert weights_of(folder)["w"].dtype == dtype


def test_replaces_an_older_one(tmp_path):
    folder = save(tmp_path / "step-00000007", seed=0)
    save(folder, seed=1)
    assert equal(weights_of(folder), network(1).state_dict())
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


# What can go wrong in the middle of writing: the disk fills up, Ctrl-C, a bug


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def ctrl_c(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("accident", [full_disk, ctrl_c])
@pytest.mark.parametrize("step", ["save_file", "json.dumps", "yaml.safe_dump", "_flush"])
@pytest.mark.parametrize("old", [True, False])
def test_an_accident_leaves_the_old_checkpoint_and_nothing_else(tmp_path, monkeypatch, accident, step, old):
    folder = tmp_path / "step-00000007"
    if old:
        save(folder, seed=0)
    with monkeypatch.context() as patch:
        patch.setattr(f"mfcdm.checkpoint.{step}", accident)
        with pytest.raises((OSError, KeyboardInterrupt)):
            save(folder, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ([folder.name] if old else [])
    if old:
        assert equal(checkpoint.load(folder).network.state_dict(), network(0).state_dict())


def test_accident_in_the_last_rename_brings_the_old_one_back(tmp_path, monkeypatch):
    folder = save(tmp_path / "step-00000007", seed=0)
    rename = type(folder).rename

    def fails_into_place(path, target):
        if path.name.startswith(".writing"):
            full_disk()
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "rename", fails_into_place)
        with pytest.raises(OSError, match="No space"):
            save(folder, seed=1)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert equal(checkpoint.load(folder).network.state_dict(), network(0).state_dict())


def test_last_always_points_at_a_whole_checkpoint(tmp_path, monkeypatch):
    first, second = save(tmp_path / "step-00000001", seed=1), save(tmp_path / "step-00000002", seed=2)
    checkpoint.point_at(first, "last")
    checkpoint.point_at(first, "last")
    assert equal(weights_of(tmp_path / "last"), network(1).state_dict())
    with monkeypatch.context() as patch:
        patch.setattr(type(first), "replace", full_disk)
        with pytest.raises(OSError, match="No space"):
            checkpoint.point_at(second, "last")
    assert (tmp_path / "last").resolve() == first
    checkpoint.point_at(second, "last")
    assert (tmp_path / "last").resolve() == second
    # a run folder that is moved keeps its link
    moved = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    assert (moved / "last").resolve() == moved / "step-00000002"


def test_newest_is_the_whole_one_with_the_most_steps(tmp_path):
    assert checkpoint.newest(tmp_path / "absent") is None
    assert checkpoint.newest(tmp_path) is None
    save(tmp_path / "step-00000900")
    save(tmp_path / "step-00001000")
    (tmp_path / "step-00002000").mkdir()  # emptied by hand
    (tmp_path / ".writing-step-00003000-1").mkdir()
    (tmp_path / ".writing-step-00003000-1" / "state.json").write_text("{}")
    checkpoint.point_at(tmp_path / "step-00000900", "last")
    assert checkpoint.newest(tmp_path) == tmp_path / "step-00001000"


# Damaged files


def load_all(folder):
    checkpoint.load(folder)
    checkpoint.load_training(folder)


def rewrite(change):
    """A damage that changes the parsed state.json."""

    def damage(path):
        state = json.loads(path.read_text())
        change(state)
        path.write_text(json.dumps(state))

    return damage


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def binary(path):
    path.write_bytes(b"\xff\xfe\x00\x80" * 50)


DAMAGES = [
    *((name, damage) for name in FILES[1:] for damage in (cut, empty, binary)),
    ("config.yaml", empty),
    ("config.yaml", binary),
    ("config.yaml", lambda path: path.write_text("network: [1, 2")),
    ("config.yaml", lambda path: path.write_text("network: 3")),
    ("config.yaml", lambda path: path.write_text("!!python/object/apply:os.system ['touch hostile']")),
    ("state.json", lambda path: path.write_text("[]")),
    ("state.json", rewrite(lambda state: state.update(format_version=2))),
    ("state.json", rewrite(lambda state: state.pop("format_version"))),
    ("state.json", rewrite(lambda state: state.update(step="7"))),
    ("state.json", rewrite(lambda state: state.update(std=None))),
    ("state.json", rewrite(lambda state: state.update(mean=["a", "b", "c"]))),
    ("state.json", rewrite(lambda state: state.update(mean=[0.0]))),
    ("state.json", rewrite(lambda state: state.update(std=0.0))),
    ("state.json", rewrite(lambda state: state.update(std=float("nan")))),
    ("state.json", rewrite(lambda state: state.update(training=[]))),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(DAMAGES)])
def test_damaged_file_is_named(tmp_path, monkeypatch, name, damage):
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "step-00000007")
    damage(folder / name)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_all(folder)
    assert str(folder / name) in str(caught.value)
    assert not (tmp_path / "hostile").exists()


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(tmp_path, name):
    folder = save(tmp_path / "step-00000007")
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load_all(folder)
    assert str(folder) in str(caught.value)
    assert name in str(caught.value)


def test_absent_folder_is_named(tmp_path):
    for path in (tmp_path / "absent", tmp_path / "file"):
        (tmp_path / "file").write_text("")
        with pytest.raises(FileNotFoundError, match=f"{path} is not a checkpoint folder"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("out.bias"),
        lambda weights: weights.update(foreign=torch.zeros(1)),
        lambda weights: weights.update({"out.bias": torch.zeros(99)}),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change):
    folder = save(tmp_path / "step-00000007")
    weights = weights_of(folder)
    change(weights)
    save_file(weights, folder / "network.safetensors")
    with pytest.raises(ValueError, match=f"{folder} do not fit"):
        checkpoint.load(folder)


@pytest.mark.parametrize("part", ["sde", "network", "subdivision", "branching"])
def test_foreign_parts_are_refused_unless_trusted(tmp_path, monkeypatch, part):
    monkeypatch.chdir(tmp_path)
    config = {**CONFIG, part: {"_target_": "os.mkdir", "path": "hostile"}}
    folder = save(tmp_path / "step-00000007", config=config)
    with pytest.raises(ValueError, match=r"'os\.mkdir' is refused"):
        checkpoint.load(folder)
    assert not (tmp_path / "hostile").exists()
    # trust lifts it: the target is called, and what it makes is refused
    with pytest.raises(ValueError, match="made a NoneType"):
        checkpoint.load(folder, trust=True)
    assert (tmp_path / "hostile").exists()


def test_configuration_is_plain_yaml(tmp_path):
    folder = save(tmp_path / "step-00000007")
    assert yaml.safe_load((folder / "config.yaml").read_text()) == CONFIG
