import json

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from mfcdm import __version__
from tests.commands.runs import PNG, SHAPES, TINY, VALIDATED, archive, clouds, points, records

# What a run leaves


def test_run_folder_explains_itself(run):
    assert [record["step"] for record in records(run)] == [1, 2, 3, 4]
    assert all(np.isfinite(record["loss"]) and record["learning_rate"] >= 0 for record in records(run))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["trainer"]["max_steps"] == 4
    assert config["seed"] == 3
    assert config["objective"]["push"] == config["branching"]["push"]  # references are resolved
    about = json.loads((run / "environment.json").read_text())
    assert about["mfcdm"] == __version__
    assert "trainer.max_steps=4" in about["command"]
    assert about["torch"]


def test_run_keeps_checkpoints_and_pictures(run):
    whole = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert whole == ["best", "last", "step-00000002", "step-00000004"]
    assert (run / "checkpoints" / "last").resolve().name == "step-00000004"
    assert list((run / "checkpoints" / "last").glob("*.safetensors"))
    assert points(run / "samples").shape == (2, 64, 3)
    assert (run / "samples.png").read_bytes().startswith(PNG)


# Data


@pytest.mark.parametrize(
    ("arrays", "options"),
    [
        ({"train": clouds(5, 80, 3).astype(np.float16), "val": clouds(2, 70, 3)}, ("trainer.precision=bf16-mixed",)),
        ({"points": clouds(5, 90, 3), "lengths": np.array([64, 90, 70, 65, 80])}, ()),
        ({"points": clouds(5, 64, 2)}, ("network.dim=2", "normalization=box")),
        ({"points": clouds(5, 1, 3)}, ("subdivision=none", "subdivision.num_particles=1")),
    ],
    ids=["float16 splits", "lengths", "plane", "single points"],
)
def test_trains_on_archives(call, tmp_path, arrays, options):
    data = archive(tmp_path / "clouds.npz", **arrays)
    ended = call("train", data, *TINY, "trainer.max_steps=2", "num_pictured=2", "hydra.run.dir=run", *options)
    assert ended.code == 0, ended.err
    assert np.isfinite(records(tmp_path / "run")[-1]["loss"])
    dim = arrays.get("points", arrays.get("train")).shape[2]
    assert points(tmp_path / "run" / "samples").shape == (2, 1 if "subdivision=none" in options else 64, dim)


def test_labels_of_the_data_are_used_where_the_network_has_classes(call, tmp_path):
    ended = call(
        "train", *SHAPES, "trainer.max_steps=1", "num_pictured=0", "network.num_classes=5", "hydra.run.dir=run"
    )
    assert ended.code == 0, ended.err
    weights = load_file(tmp_path / "run" / "checkpoints" / "last" / "network.safetensors")
    assert any("embed_label" in name for name in weights)


# Validation

COMPARED = ("trainer.max_steps=1", "num_pictured=0", "hydra.run.dir=run", *VALIDATED)


def test_a_run_is_validated_against_the_split_val(run):
    validated = [record for record in records(run) if "validation/1nna-cd" in record]
    assert [record["step"] for record in validated] == [2, 4]
    for record in validated:
        assert 0 <= record["validation/1nna-cd/low"] <= record["validation/1nna-cd"]
        assert record["validation/1nna-cd"] <= record["validation/1nna-cd/high"] <= 1
        assert record["validation/num_clouds"] == 6
        assert record["validation/seconds"] > 0
    for step in (2, 4):
        assert (run / "samples" / f"step-{step:08d}.png").read_bytes().startswith(PNG)
    errors = {record["step"]: abs(record["validation/1nna-cd"] - 0.5) for record in validated}
    best = 2 if errors[2] < errors[4] else 4
    assert (run / "checkpoints" / "best").resolve().name == f"step-{best:08d}"


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"train": clouds(5, 64, 3)}, "split val holds training clouds only"),
        ({"points": clouds(5, 64, 3)}, "split val holds training clouds only"),
        ({"train": clouds(5, 64, 3), "val": clouds(3, 64, 3, seed=1)}, "split val has 3 clouds, at least 4 are needed"),
        ({"train": clouds(5, 64, 3), "test": clouds(9, 64, 3, seed=1)}, "has no split 'val'; it has test, train"),
    ],
    ids=["no val", "no splits", "too few", "test is left alone"],
)
def test_without_held_out_clouds_a_run_says_so_once(call, tmp_path, arrays, reason):
    ended = call("train", archive(tmp_path / "clouds.npz", **arrays), *TINY, *COMPARED)
    assert ended.code == 0, ended.err
    said = [line for line in ended.err.splitlines() if "validation" in line]
    assert len(said) == 1
    assert said[0].startswith("no validation: ")
    assert reason in said[0]
    assert not any("validation/1nna-cd" in record for record in records(tmp_path / "run"))
    assert not (tmp_path / "run" / "checkpoints" / "best").exists()


def test_held_out_clouds_are_compared_in_the_scale_of_the_normalisation(call, tmp_path):
    """Clouds a thousand times as large: per_shape brings both sets to size 1, so a distance cannot be that large."""
    data = archive(tmp_path / "clouds.npz", train=1e3 * clouds(5, 64, 3), val=1e3 * clouds(6, 70, 3, seed=1))
    ended = call("train", data, *TINY, *COMPARED, "normalization=per_shape")
    assert ended.code == 0, ended.err
    assert 0 < records(tmp_path / "run")[-1]["validation/mmd-cd"] < 100


def test_held_out_clouds_carry_their_labels(call, tmp_path):
    ended = call("train", *SHAPES, *COMPARED, "network.num_classes=5")
    assert ended.code == 0, ended.err
    assert records(tmp_path / "run")[-1]["validation/num_clouds"] == 6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("validation.num_clouds=2",), ["validation.num_clouds", "2"]),
        (("validation.every=0",), ["validation.every", "0"]),
        (("validation.num_steps=3",), ["validation.num_steps=3", "4 levels"]),
        (("validation.evry=1",), ["validation.evry"]),
        (("+validation.evry=1",), ["validation.evry"]),
        (("logger=tensorboard",), ["logger/tensorboard", "wandb"]),
    ],
)
def test_mistakes_in_validation_and_logger_end_in_one_sentence(call, tmp_path, arguments, named):
    ended = call("train", *SHAPES, *COMPARED, *arguments)
    assert ended.code == 2
    assert all(name in ended.sentence for name in named), ended.sentence
    assert not (tmp_path / "run").exists()


def test_held_out_clouds_that_are_too_small_are_refused(call, tmp_path):
    data = archive(tmp_path / "clouds.npz", train=clouds(5, 64, 3), val=clouds(5, 40, 3))
    ended = call("train", data, *TINY, *COMPARED)
    assert ended.code == 2
    assert "held-out cloud 0 has 40 points" in ended.sentence


# W&B


def test_a_run_is_kept_for_wandb_offline_by_default(call, tmp_path):
    arguments = [argument for argument in SHAPES if not argument.startswith("logger=")]
    ended = call("train", *arguments, *COMPARED)
    assert ended.code == 0, ended.err
    assert ended.out == ""
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))


def test_every_logger_is_closed_and_told_whether_the_run_failed(call, tmp_path, monkeypatch):
    from mfcdm.training import loggers

    closed = []
    monkeypatch.setattr(loggers.Wandb, "close", lambda self, failed=False: closed.append(failed))
    data = archive(tmp_path / "clouds.npz", points=clouds(5, 64, 3))
    run = (*TINY, "num_pictured=0", "trainer.max_steps=30", "logger=wandb", "logger.mode=disabled")
    assert call("train", data, *run, "hydra.run.dir=good").code == 0
    ended = call("train", data, *run, "trainer.learning_rate=1e30", "hydra.run.dir=bad")
    assert ended.code == 2
    first, last = [line for line in ended.err.splitlines() if line.startswith(("warning: ", "mfcdm: "))]
    assert first.startswith("warning: skipped for its non-finite loss or gradient")
    assert "lower trainer.learning_rate" in last
    assert closed == [False, True]


# Help


@pytest.mark.parametrize("command", ["train", "sample"])
def test_help_and_version(call, command):
    ended = call(command, "--version")
    assert (ended.code, ended.out, ended.err) == (0, f"mfcdm {__version__}\n", "")
    ended = call(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "num_steps" in ended.out
