"""Given clouds and keys that cannot be used."""

from itertools import cycle

import numpy as np
import pytest

from mfcdm.commands import completing
from tests.commands.conditioned.models import QUICK, float32


def with_nan(cloud):
    cloud = cloud.copy()
    cloud[3, 1] = np.nan
    return cloud


FILES = {
    "part.npy": float32(10, 3),
    "nan.npy": with_nan(float32(10, 3)),
    "point.npy": float32(1, 3),
    "many.npy": float32(40, 3),
    "flat.npy": float32(10, 2),
    "far.npy": 1000 * float32(10, 3),
    "words.npy": np.array([["a", "b"]]),
    "same.npy": np.ones((1, 5, 2), dtype=np.float32),
    "two.npz": {"a_0": float32(10, 3), "a_1": float32(12, 3)},
    "mixed.npz": {"a_0": float32(10, 3), "a_1": float32(10, 2)},
    "splits.npz": {"train": float32(2, 10, 3), "test": float32(2, 10, 3)},
}
TASKS = ("complete", "densify", "interpolate", "likelihood")
OF_FILES = [
    ("absent.npz", ["absent.npz is neither a file nor a folder"]),
    ("empty", ["empty holds no"]),
    ("text.npz", ["text.npz cannot be read"]),
    ("words.npy", ["words.npy", "numbers"]),
    ("nan.npy", ["nan.npy has 1 point with NaN"]),
    ("point.npy", ["point.npy has 1 point", "at least 2"]),
    ("flat.npy", ["flat.npy holds points of dimension 2, the checkpoint draws 3"]),
    ("far.npy", ["far.npy reaches", "standard deviations", "conditioning.farthest=10"]),
    ("mixed.npz", ["mixed.npz: cloud 1 has dimension 2"]),
    ("splits.npz", ["splits.npz has no split 'val'; it has test, train"]),
]
MISTAKES = [
    *[((f"{task}={name}",), named) for task, (name, named) in zip(cycle(TASKS), OF_FILES, strict=False)],
    *[((f"{task}=absent.npz",), OF_FILES[0][1]) for task in TASKS[1:]],
    (("complete=many.npy",), ["many.npy has 40 points, more than num_particles=32"]),
    (("densify=many.npy", "num_particles=39"), ["many.npy has 40 points, more than num_particles=39"]),
    (("complete=part.npy", "densify=many.npy"), ["complete=part.npy and densify=many.npy exclude each other"]),
    (("interpolate=a", "likelihood=b", "complete=c"), ["complete=c and interpolate=a and likelihood=b exclude"]),
    (("complete=part.npy", "num_particles=[16,32]"), ["complete=part.npy takes one num_particles", "[16, 32]"]),
    (("complete=part.npy", "num_real=2"), ["num_real=2", "complete=part.npy"]),
    (("densify=part.npy", "evaluate=part.npy"), ["evaluate=part.npy", "densify=part.npy"]),
    (("complete=part.npy", "num_clouds=0"), ["num_clouds=0"]),
    (("complete=part.npy", "sampler.num_steps=1"), ["sampler.num_steps=1 is too few for 2 levels"]),
    (("complete=part.npy", "conditioning.resamplings=1", "conditioning.jump=0.1"), ["num_steps=6", "stretches"]),
    (("complete=part.npy", "conditioning.resamplings=-1"), ["conditioning.resamplings", "-1"]),
    (("complete=part.npy", "conditioning.directions=two"), ["conditioning.directions", "'two'"]),
    (("complete=part.npy", "conditioning.noise=no"), ["conditioning.noise"]),
    (("complete=part.npy", "conditioning.rescale=true"), ["conditioning.rescale=true", "normalization=global"]),
    (("complete=part.npy", "+conditioning.direction=2"), ["conditioning.direction is unknown"]),
    (("complete=part.npy", "class=sofa"), ["class=sofa"]),
    (("complete=part.npy", "guidance=2"), ["guidance=2"]),
    (("densify=part.npy", "conditioning.push=-1"), ["conditioning.push", "-1"]),
    (("densify=part.npy", "conditioning.farthest=0"), ["conditioning.farthest", "0"]),
    (("interpolate=part.npy",), ["part.npy holds 1 cloud; interpolate needs two"]),
    (("interpolate=two.npz",), ["cloud 0 has 10 points and two.npz: cloud 1 12; num_particles=10"]),
    (("interpolate=two.npz", "num_particles=11"), ["cloud 0 has 10 points, fewer than num_particles=11"]),
    (("interpolate=two.npz", "num_clouds=1"), ["frame for each end", "num_clouds=1"]),
    (("interpolate=two.npz", "conditioning.num_pairs=2"), ["holds 2 clouds", "conditioning.num_pairs=2"]),
    (("interpolate=two.npz", "conditioning.num_pairs=0"), ["conditioning.num_pairs", "0"]),
    (("interpolate=two.npz", "conditioning.matching=best"), ["conditioning.matching", "'best'"]),
    (("likelihood=part.npy", "class=0", "guidance=2"), ["guidance=2", "likelihood=part.npy"]),
    (("likelihood=part.npy", "num_particles=11"), ["part.npy has 10 points, fewer than num_particles=11"]),
    (("likelihood=part.npy", "conditioning.num_probes=0"), ["conditioning.num_probes", "0"]),
    (("likelihood=part.npy", "conditioning.tolerance=nan"), ["conditioning.tolerance", "nan"]),
]


@pytest.fixture
def files(tmp_path):
    for name, content in FILES.items():
        if isinstance(content, dict):
            np.savez(tmp_path / name, **content)
        else:
            np.save(tmp_path / name, content)
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty").mkdir()


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_mistakes_end_in_one_sentence_and_write_nothing(small, call, files, tmp_path, arguments, named):
    ended = call("sample", f"checkpoint={small}", *QUICK, "output=drawn", *arguments)
    assert ended.code == 2
    assert all(name in ended.sentence for name in named), ended.sentence
    assert ended.err.strip() == ended.sentence
    assert not (tmp_path / "drawn").exists()


def test_clouds_that_cannot_be_scaled_are_named(boxed, call, files, tmp_path):
    ended = call("sample", f"checkpoint={boxed}", *QUICK, "trust=true", "output=drawn", "densify=same.npy")
    assert (ended.code, "same.npy: all points (5) of cloud 0 coincide" in ended.sentence) == (2, True), ended.sentence
    assert not (tmp_path / "drawn").exists()


def test_ctrl_c_between_two_batches_leaves_nothing(small, call, files, tmp_path, monkeypatch):
    calls = []

    def interrupted(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    whole = completing.complete
    monkeypatch.setattr(completing, "complete", interrupted)
    options = ("complete=part.npy", "num_clouds=3", "batch_size=1", "output=drawn")
    ended = call("sample", f"checkpoint={small}", *QUICK, *options)
    assert (ended.code, len(calls), "stopped by Ctrl-C" in ended.sentence) == (130, 2, True)
    assert not (tmp_path / "drawn").exists()
