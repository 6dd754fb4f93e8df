import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from mfcdm import __version__, checkpoint
from mfcdm.commands import draw
from mfcdm.samplers import Langevin

TINY = (
    "network=tiny",
    "subdivision.num_particles=64",
    "trainer.batch_size=4",
    "trainer.warmup_steps=1",
    "trainer.log_every=1",
    "trainer.accelerator=cpu",
    "sampler.num_steps=6",
)
SHAPES = ("dataset=shapes", "dataset.num_clouds=6", "dataset.num_points=64", *TINY)
ONE_STEP = (*TINY, "trainer.max_steps=1")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def run(script, tmp_path_factory):
    """A finished run of four steps with a checkpoint every two."""
    folder = tmp_path_factory.mktemp("run") / "run"
    options = ("trainer.max_steps=4", "trainer.checkpoint_every=2", "num_pictured=2", "seed=3")
    ended = script("train.py", *SHAPES, *options, f"hydra.run.dir={folder}", cwd=folder.parent)
    assert ended.code == 0, ended.err
    assert f"picture: {folder / 'samples.png'}\n" in ended.err
    return folder


@pytest.fixture
def last(run, tmp_path):
    """A copy of the run's last checkpoint, to be damaged."""
    return shutil.copytree(run / "checkpoints" / "last", tmp_path / "copy")


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def points(folder):
    with np.load(folder / "samples.npz") as samples:
        return samples["points"]


def archive(path, **arrays):
    np.savez(path, **arrays)
    return f"dataset.path={path}"


def clouds(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


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
    assert whole == ["last", "step-00000002", "step-00000004"]
    assert (run / "checkpoints" / "last").resolve().name == "step-00000004"
    assert list((run / "checkpoints" / "last").glob("*.safetensors"))
    assert points(run / "samples").shape == (2, 64, 3)
    assert (run / "samples.png").read_bytes().startswith(PNG)


def test_sample_script(run, script, tmp_path):
    ended = script(
        "sample.py",
        f"checkpoint={run / 'checkpoints' / 'last'}",
        "num_clouds=3",
        "num_particles=100",
        "sampler=geometric",
        "sampler.num_steps=6",
        "output=drawn",
        cwd=tmp_path,
    )
    assert ended.code == 0, ended.err
    x = points(tmp_path / "drawn")
    assert x.shape == (3, 100, 3)
    assert np.isfinite(x).all()
    assert (tmp_path / "drawn" / "samples.png").read_bytes().startswith(PNG)


def test_cloud_depends_on_seed_and_index_alone(run, call, tmp_path):
    def drawn(name, *options):
        ended = call("sample", f"checkpoint={run}/checkpoints/last", "sampler.num_steps=6", f"output={name}", *options)
        assert ended.code == 0, ended.err
        return points(tmp_path / name)

    together = drawn("together", "num_clouds=3", "batch_size=3")
    alone = drawn("alone", "num_clouds=2", "batch_size=1")
    # Sums round differently in another batch, by 1e-7 in float32; x_0 = (x - sigma noise) / alpha makes that 150 times
    # as much at t = 1, and several evaluations add up.
    np.testing.assert_allclose(alone, together[:2], rtol=0, atol=1e-3 * together.std())
    other = drawn("other", "num_clouds=3", "seed=1")
    assert np.abs(other - together).mean() > 0.1 * together.std()


def test_cloud_depends_on_seed_and_index_alone_in_double_precision(run):
    model = checkpoint.load(run / "checkpoints" / "last")
    model.network.double()
    together = draw(model, Langevin(num_steps=6), num_clouds=3, num_particles=100, seed=0, batch_size=3)
    alone = draw(model, Langevin(num_steps=6), num_clouds=2, num_particles=100, seed=0, batch_size=1)
    torch.testing.assert_close(alone, together[:2], rtol=0, atol=1e-10)  # 1e-16 an operation, amplified as above


def test_resumed_run_ends_bit_equal(run, script, tmp_path):
    """As if the machine had stopped after the checkpoint of step 2, while it wrote the record of step 3."""
    copy = shutil.copytree(run, tmp_path / "copy", symlinks=True)
    shutil.rmtree(copy / "checkpoints" / "step-00000004")
    (copy / "checkpoints" / "last").unlink()
    (copy / "checkpoints" / "last").symlink_to("step-00000002")
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:10])
    begun = (copy / "checkpoints" / "step-00000002" / "state.json").stat().st_ino
    ended = script("train.py", f"resume={copy}", "trainer.max_steps=9", cwd=tmp_path)
    assert ended.code == 0, ended.err
    # It went on: starting anew would end in the same weights, but make step 2 and its record, with the clock, again.
    assert (copy / "checkpoints" / "step-00000002" / "state.json").stat().st_ino == begun
    assert (copy / "metrics.jsonl").read_text().splitlines(keepends=True)[:2] == lines[:2]
    assert "ignored: trainer.max_steps=9" in ended.err
    for name in ("network.safetensors", "training.safetensors"):
        expected = load_file(run / "checkpoints" / "last" / name)
        found = load_file(copy / "checkpoints" / "last" / name)
        assert expected.keys() == found.keys()
        assert all(np.array_equal(expected[key], found[key]) for key in expected), name
    assert [record["step"] for record in records(copy)] == [1, 2, 3, 4]
    assert [record["loss"] for record in records(copy)] == [record["loss"] for record in records(run)]
    np.testing.assert_array_equal(points(copy / "samples"), points(run / "samples"))
    assert not (tmp_path / "outputs" / "default").exists() or not list((tmp_path / "outputs" / "default").iterdir())


def test_ctrl_c_ends_with_a_sentence_and_keeps_checkpoints(start, tmp_path):
    folder = tmp_path / "run"
    options = ("trainer.max_steps=1000000", "trainer.checkpoint_every=3", f"hydra.run.dir={folder}")
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
    assert err.count("mfcdm: stopped by Ctrl-C") == 1
    newest = checkpoint.newest(folder / "checkpoints")
    assert newest is not None
    assert checkpoint.load(newest).step == checkpoint.load_training(newest).numbers["ema_updates"]
    assert not list((folder / "checkpoints").glob(".*"))


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


# Mistakes: exit code 2 and one sentence that names what is wrong

MISTAKES = [
    (("netwrk=tiny",), ["netwrk"]),
    (("network.widht=3",), ["network.widht"]),
    (("+network.widht=3",), ["widht"]),
    (("+trainer.steps=3",), ["trainer.steps"]),
    (("+max_steps=3",), ["max_steps is unknown"]),
    (("~seed",), ["seed"]),
    (("network=huge",), ["network/huge", "tiny"]),
    (("trainer=3",), ["trainer=3"]),
    (("tiny",), ["tiny"]),
    (("network.width=abc",), ["width", "'abc'"]),
    (("network.width=2.5",), ["width", "2.5"]),
    (("network.radius=3",), ["radius", "3"]),
    (("network.interactions=[locl]",), ["locl"]),
    (("network.backend=numpy",), ["numpy"]),
    (("trainer.max_steps=-3",), ["trainer.max_steps", "-3"]),
    (("trainer.max_steps=ten",), ["trainer.max_steps", "'ten'"]),
    (("trainer.learning_rate=nan",), ["trainer.learning_rate", "nan"]),
    (("trainer.precision=8",), ["trainer.precision", "8"]),
    (("trainer.accelerator=gpuu",), ["trainer.accelerator", "gpuu"]),
    (("trainer.batch_size=0",), ["trainer.batch_size", "0"]),
    (("seed=-1",), ["seed", "-1"]),
    (("seed=one",), ["seed", "'one'"]),
    (("num_pictured=-1",), ["num_pictured", "-1"]),
    (("normalization=sphere",), ["normalization", "sphere"]),
    (("sampler.num_steps=many",), ["num_steps", "'many'"]),
    (("sampler.num_steps=2",), ["sampler.num_steps=2", "4 levels"]),
    (("sde.t_min=2",), ["t_min", "2"]),
    (("branching.push=-1",), ["push", "-1"]),
    (("objective.level_weights=heavy",), ["level_weights", "heavy"]),
    (("subdivision.num_particles=4096",), ["64 points", "4096"]),
    (("subdivision.num_levels=9",), ["9 levels", "num_particles=64"]),
    (("network.dim=2",), ["dimension 3", "network.dim"]),
    (("network.num_classes=2",), ["network.num_classes=2"]),
    (("dataset.split=tset",), ["tset"]),
    (("dataset.categories=[plane]",), ["plane"]),
    (("resume=nowhere",), ["nowhere"]),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_mistakes_end_in_one_sentence(call, tmp_path, arguments, named):
    options = () if arguments == ("resume=nowhere",) else (*SHAPES, "trainer.max_steps=1", "hydra.run.dir=run")
    ended = call("train", *options, *arguments)
    assert ended.code == 2
    assert all(name in ended.sentence for name in named), ended.sentence
    assert not (tmp_path / "run" / "checkpoints").exists()


def with_nan(array):
    array[2, 5, 1] = np.nan
    return array


DATA_MISTAKES = [
    ({"points": with_nan(clouds(4, 64, 3))}, ["cloud 2", "NaN"]),
    ({"points": clouds(4, 1, 3)}, ["cloud 0 has 1 points", "64"]),
    ({"points": clouds(4, 80, 3), "lengths": np.array([80, 70, 40, 64])}, ["cloud 2 has 40 points", "64"]),
    ({"points": clouds(64, 3)}, ["clouds.npz", "(64, 3)"]),
    ({"points": np.ones((4, 64, 3))}, ["coincide"]),
    ({"points": np.array([[["a", "b"]]])}, ["clouds.npz", "<U1"]),
    ({"val": clouds(4, 64, 3), "test": clouds(4, 64, 3)}, ["clouds.npz", "'train'", "val"]),
]


@pytest.mark.parametrize(("arrays", "named"), DATA_MISTAKES, ids=[named[-1] for _, named in DATA_MISTAKES])
def test_unusable_data_ends_in_one_sentence(call, tmp_path, arrays, named):
    data = archive(tmp_path / "clouds.npz", **arrays)
    ended = call("train", data, *ONE_STEP, "hydra.run.dir=run")
    assert ended.code == 2
    assert all(name in ended.sentence for name in named), ended.sentence


def test_data_file_that_is_not_there_or_not_given(call, tmp_path):
    ended = call("train", *ONE_STEP, "dataset.path=absent.npz")
    assert (ended.code, "absent.npz" in ended.sentence) == (2, True)
    ended = call("train", *ONE_STEP, "dataset=archive")
    assert (ended.code, "dataset.path" in ended.sentence) == (2, True)
    (tmp_path / "text.npz").write_text("no archive")
    ended = call("train", *ONE_STEP, "dataset.path=text.npz")
    assert (ended.code, "text.npz" in ended.sentence) == (2, True)
    ended = call("train", *ONE_STEP, f"dataset.path={tmp_path}")
    assert (ended.code, str(tmp_path) in ended.sentence) == (2, True)


def test_pickles_in_an_archive_are_not_opened(call, tmp_path):
    np.savez(tmp_path / "objects.npz", points=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    ended = call("train", *ONE_STEP, "dataset.path=objects.npz")
    assert (ended.code, "objects.npz" in ended.sentence) == (2, True)


def test_a_mistake_in_a_process_of_its_own(script, tmp_path):
    ended = script("train.py", *SHAPES, "trainer.max_steps=1", "network.width=abc", cwd=tmp_path)
    assert ended.code == 2
    assert ended.out == ""
    assert "'abc'" in ended.sentence
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


SAMPLE_MISTAKES = [
    (("num_clouds=0",), ["num_clouds", "0"]),
    (("num_particles=0",), ["num_particles", "0"]),
    (("num_particles=many",), ["num_particles", "'many'"]),
    (("batch_size=0",), ["batch_size", "0"]),
    (("seed=-1",), ["seed=-1"]),
    (("device=tpu",), ["device=tpu"]),
    (("device=cuda:99",), ["device=cuda:99"]),
    (("sampler=best",), ["sampler/best", "langevin"]),
    (("sampler.num_steps=1",), ["num_steps=1", "4 levels"]),
    (("sampler.noise=-1",), ["noise", "-1"]),
    (("sampler.grid=fine",), ["grid", "fine"]),
    (("number=3",), ["number"]),
]


@pytest.mark.parametrize(("arguments", "named"), SAMPLE_MISTAKES, ids=[" ".join(a) for a, _ in SAMPLE_MISTAKES])
def test_sampling_mistakes_end_in_one_sentence(run, call, arguments, named):
    ended = call("sample", f"checkpoint={run}/checkpoints/last", "device=cpu", "output=drawn", *arguments)
    assert ended.code == 2
    assert all(name in ended.sentence for name in named), ended.sentence


# Damaged and hostile checkpoints


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


def change_config(folder, group, **entries):
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[group] |= entries
    path.write_text(yaml.safe_dump(config))


DAMAGES = [
    truncate,
    lose_state,
    lose_weights,
    another_format,
    another_width,
    untyped_width,
    foreign_target,
    nested_target,
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


def test_resume_runs_nothing_foreign(run, call, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy", symlinks=True)
    foreign_target(copy / "checkpoints" / "last")
    ended = call("train", f"resume={copy}")
    assert (ended.code, "os.system" in ended.sentence) == (2, True)
    assert not (tmp_path / "hostile").exists()


def test_new_run_does_not_mix_with_an_old_one(run, call):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    ended = call("train", *SHAPES, "trainer.max_steps=1", f"hydra.run.dir={run}")
    assert ended.code == 2
    assert f"resume={run}" in ended.sentence
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


# Where nothing can be written


def test_folder_that_cannot_be_made(run, call, tmp_path):
    (tmp_path / "file").write_text("")
    ended = call("train", *SHAPES, "trainer.max_steps=1", "hydra.run.dir=file/run")
    assert (ended.code, "file/run" in ended.sentence) == (2, True)
    ended = call("sample", f"checkpoint={run}/checkpoints/last", "output=file/drawn")
    assert (ended.code, "file/drawn" in ended.sentence) == (2, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(run, call, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    ended = call("train", *SHAPES, "trainer.max_steps=1", "hydra.run.dir=closed/run")
    assert (ended.code, "closed" in ended.sentence) == (2, True)
    ended = call("sample", f"checkpoint={run}/checkpoints/last", "output=closed/drawn")
    assert (ended.code, "closed" in ended.sentence) == (2, True)


# Help


@pytest.mark.parametrize("command", ["train", "sample"])
def test_help_and_version(call, command):
    ended = call(command, "--version")
    assert (ended.code, ended.out, ended.err) == (0, f"mfcdm {__version__}\n", "")
    ended = call(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "num_steps" in ended.out
