"""Damaged and hostile checkpoints."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.commands.runs import change_config


def truncate(folder):
    path = folder / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return "network.safetensors"


def lose_state(folder):
    (folder / "state.json").unlink()
    return "state.json"


def lose_weights(folder):
    (folder / "network.safetensors").unlink()
    return "network.safetensors"


def another_format(folder):
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    return "99"


def another_width(folder):
    change_config(folder, "network", width=48)
    return str(folder)


def untyped_width(folder):
    change_config(folder, "network", width="wide")
    return "'wide'"


def foreign_target(folder):
    change_config(folder, "sde", _target_="os.system", command="touch hostile")
    return "os.system"


def nested_target(folder):
    change_config(folder, "network", width={"_target_": "os.system", "command": "touch hostile"})
    return "_target_"


def hostile_width(folder):
    change_config(folder, "network", width=2**24)  # 2^48 weights: half a petabyte
    return str(folder)


def nan_weight(folder):
    path = folder / "network.safetensors"
    weights = load_file(path)
    weights["out.bias"][1] = torch.nan
    save_file(weights, path)
    return "network.safetensors is damaged: out.bias holds NaN"


def nan_scale(folder):
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "std": float("nan")}))
    return "std is nan"


DAMAGES = [
    truncate,
    lose_state,
    lose_weights,
    another_format,
    another_width,
    untyped_width,
    foreign_target,
    nested_target,
    hostile_width,
    nan_weight,
    nan_scale,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_checkpoint_ends_in_one_sentence(call, last, tmp_path, damage):
    named = damage(last)
    ended = call("sample", f"checkpoint={last}", "output=drawn")
    assert ended.code == 2
    assert named in ended.sentence
    assert not (tmp_path / "hostile").exists()
    assert not (tmp_path / "drawn").exists()


def test_absent_checkpoint_ends_in_one_sentence(call):
    ended = call("sample", "checkpoint=absent")
    assert (ended.code, "absent" in ended.sentence) == (2, True)
    ended = call("sample")
    assert (ended.code, "checkpoint" in ended.sentence) == (2, True)


def test_resume_refuses_a_damaged_state(run, call, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy", symlinks=True)
    path = copy / "checkpoints" / "last" / "training.safetensors"
    tensors = load_file(path)
    tensors["network.out.bias"][1] = torch.inf
    save_file(tensors, path)
    ended = call("train", f"resume={copy}")
    assert ended.code == 2
    assert "training.safetensors is damaged: network.out.bias holds NaN or infinite numbers" in ended.sentence


@pytest.mark.parametrize("change", [lambda tensor: {}, lambda tensor: {"out.bias": tensor[:1]}])
def test_resume_refuses_averaged_weights_of_another_network(run, call, tmp_path, change):
    copy = shutil.copytree(run, tmp_path / "copy", symlinks=True)
    path = copy / "checkpoints" / "last" / "network.safetensors"
    tensors = load_file(path)
    save_file(tensors | change(tensors.pop("out.bias")), path)
    ended = call("train", f"resume={copy}")
    assert ended.code == 2
    assert "network.safetensors does not fit the network: it has no out.bias of shape (3,)" in ended.sentence


def test_resume_runs_nothing_that_a_sampler_holds(run, call, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy", symlinks=True)
    hostile = {"_target_": "os.system", "command": "touch hostile"}
    about = {"_target_": "mfcdm.samplers.PredictorCorrector", "predictor": hostile}
    change_config(copy / "checkpoints" / "last", "sampler", **about)
    ended = call("train", f"resume={copy}")
    assert (ended.code, "_target_ 'os.system' is refused" in ended.sentence) == (2, True), ended.sentence
    assert not (tmp_path / "hostile").exists()


def test_resume_runs_no_foreign_logger(run, call, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy", symlinks=True)
    change_config(copy / "checkpoints" / "last", "logger", _target_="os.system", command="touch hostile")
    ended = call("train", f"resume={copy}")
    assert (ended.code, "os.system" in ended.sentence) == (2, True)
    assert not (tmp_path / "hostile").exists()


@pytest.mark.parametrize(
    ("part", "size", "sentence"),
    [
        ("network", {"depth": 10**9}, "network would have more than 5000 weights"),
        ("network", {"width": 2**24}, "the weights of network would fill"),
        ("branching", {"_target_": "mfcdm.branching.Learned", "depth": 10**12}, "branching would have more than"),
    ],
)
def test_resume_builds_nothing_that_exhausts_the_machine(run, call, tmp_path, part, size, sentence):
    copy = shutil.copytree(run, tmp_path / "copy", symlinks=True)
    change_config(copy / "checkpoints" / "last", part, **size)
    ended = call("train", f"resume={copy}")
    assert ended.code == 2
    assert sentence in ended.sentence
