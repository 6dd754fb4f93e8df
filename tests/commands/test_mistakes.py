"""Mistakes: exit code 2 and one sentence that names what is wrong."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.commands.runs import ONE_STEP, SHAPES, archive, clouds

MISTAKES = [
    (("netwrk=tiny",), ["netwrk"]),
    (("network.widht=3",), ["network.widht"]),
    (("network.num_moments=10000000000000",), ["not enough memory", "bytes"]),  # a petabyte
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
    ((f"seed={2**63}",), [f"seed={2**63}"]),
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
    (("--max-steps=3",), ["--max-steps=3", "--help"]),
    (("--config-dir",), ["--config-dir", "argument"]),
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
    ({"points": clouds(1, 1, 3)}, ["cloud 0 has 1 point", "needs 64"]),
    ({"points": clouds(4, 1, 3)}, ["cloud 0 has 1 point", "64"]),
    ({"points": clouds(4, 80, 3), "lengths": np.array([80, 70, 40, 64])}, ["cloud 2 has 40 points", "64"]),
    ({"points": clouds(64, 3)}, ["clouds.npz", "(64, 3)"]),
    ({"points": np.ones((4, 64, 3))}, ["coincide"]),
    ({"points": clouds(4, 64, 4)}, ["clouds.npz", "dimension 4", "2 or 3"]),
    ({"points": clouds(4, 64, 1)}, ["clouds.npz", "dimension 1", "dimension 2 or 3"]),
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


def test_folder_that_is_empty(call, tmp_path):
    (tmp_path / "nothing").mkdir()
    for key in ("dataset=auto", "dataset=folder"):
        ended = call("train", *ONE_STEP, key, "dataset.path=nothing")
        assert (ended.code, "nothing holds no" in ended.sentence) == (2, True), ended.sentence


def test_folder_with_clouds_of_different_dimension(call, tmp_path):
    (tmp_path / "mixed").mkdir()
    np.save(tmp_path / "mixed" / "a.npy", clouds(64, 3))
    np.save(tmp_path / "mixed" / "b.npy", clouds(64, 2))
    ended = call("train", *ONE_STEP, "dataset.path=mixed")
    assert ended.code == 2
    assert "mixed/b.npy has dimension 2, the ones before it 3" in ended.sentence


def test_folder_with_nan_in_one_file(call, tmp_path):
    (tmp_path / "some").mkdir()
    np.save(tmp_path / "some" / "a.npy", clouds(64, 3))
    np.save(tmp_path / "some" / "b.npy", with_nan(clouds(3, 64, 3))[2])
    ended = call("train", *ONE_STEP, "dataset.path=some")
    assert (ended.code, "some/b.npy has 1 point with NaN" in ended.sentence) == (2, True), ended.sentence


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


# Where nothing can be written


def test_folder_that_cannot_be_made(run, call, tmp_path):
    (tmp_path / "file").write_text("")
    ended = call("train", *SHAPES, "trainer.max_steps=1", "hydra.run.dir=file/run")
    assert (ended.code, "file/run" in ended.sentence) == (2, True)
    ended = call("sample", f"checkpoint={run}/checkpoints/last", "output=file/drawn")
    assert (ended.code, "file/drawn" in ended.sentence) == (2, True)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no file system that refuses root")
def test_file_system_that_takes_no_files(run, call):
    ended = call("train", *SHAPES, "trainer.max_steps=1", "hydra.run.dir=/proc/mfcdm")
    assert (ended.code, "/proc/mfcdm" in ended.sentence) == (2, True)
    ended = call("sample", f"checkpoint={run}/checkpoints/last", "output=/proc/mfcdm")
    assert (ended.code, "/proc/mfcdm" in ended.sentence) == (2, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_to_write(run, call, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    ended = call("train", *SHAPES, "trainer.max_steps=1", "hydra.run.dir=closed/run")
    assert (ended.code, "closed" in ended.sentence) == (2, True)
    ended = call("sample", f"checkpoint={run}/checkpoints/last", "output=closed/drawn")
    assert (ended.code, "closed" in ended.sentence) == (2, True)
