"""sample.py complete=... and densify=..."""

import math

import numpy as np
import pytest
import torch
import trimesh
import yaml

from mfcdm.cli import config_folder
from mfcdm.datasets import CloudArchive
from mfcdm.holding import Hold
from tests.commands.conditioned.models import LAW, MEAN, STD, float32
from tests.commands.runs import PNG


def test_completions_keep_the_given_points_to_the_bit(small, sample):
    given = [float32(20, 3, seed=1), float32(9, 3, seed=2), float32(32, 3, seed=3)]
    np.savez("parts.npz", *given)
    made = sample(small, "complete=parts.npz", "num_clouds=5", "batch_size=2")
    assert made["points"].shape == (5, 32, 3)  # the trained cardinality
    assert made["points"].dtype == np.float32
    assert made["given"].tolist() == [20, 9, 32, 20, 9]
    for i, cloud in enumerate(made["points"]):
        np.testing.assert_array_equal(cloud[: made["given"][i]], given[i % 3])
    np.testing.assert_array_equal(made["points"][2], given[2])  # nothing was missing
    assert np.abs(made["points"][0, 20:] - made["points"][3, 20:]).min() > 0  # another draw
    assert np.isfinite(made["points"]).all()
    assert (made["folder"] / "samples.png").read_bytes().startswith(PNG)
    written = trimesh.load(made["folder"] / "sample-0001.ply").vertices
    np.testing.assert_array_equal(np.asarray(written, dtype=np.float32), made["points"][1])
    assert "5 clouds of 32 points, made of 3 of the 3 in parts.npz" in made["err"]


def test_every_cloud_is_completed_once_where_no_number_is_asked_for(small, sample):
    np.save("parts.npy", float32(3, 8, 3))
    made = sample(small, "complete=parts.npy", "num_particles=12")
    np.testing.assert_array_equal(made["points"][:, :8], float32(3, 8, 3))
    assert made["points"].shape == (3, 12, 3)


def test_a_completion_depends_on_seed_and_index_alone(small, sample):
    np.savez("parts.npz", float32(10, 3), float32(12, 3), float32(10, 3, seed=1))
    together = sample(small, "complete=parts.npz", "num_clouds=4", "batch_size=4")["points"]
    alone = sample(small, "complete=parts.npz", "num_clouds=3", "batch_size=1")["points"]
    # as in tests/commands/test_sample.py: rounding of 1e-7, times 150 at t = 1, over several evaluations
    np.testing.assert_allclose(alone, together[:3], rtol=0, atol=1e-3 * together.std())
    other = sample(small, "complete=parts.npz", "num_clouds=3", "seed=1")["points"]
    assert np.abs(other - together[:3])[0, 10:].mean() > 0.01


def test_completions_of_a_gaussian_have_the_conditional_law_in_the_data_s_coordinates(exact, sample):
    given, n, draws = torch.linspace(0.2, 1.4, 6)[:, None].expand(6, 2), 16, 600
    np.save("part.npy", MEAN + STD * given)
    options = ("num_particles=16", f"num_clouds={draws}", f"batch_size={draws}", "sampler.num_steps=100", "trust=true")
    exact_hold = ("conditioning.floor=0", "conditioning.trust=inf")
    new = sample(exact, "complete=part.npy", *options, *exact_hold)["points"][:, 6:]
    prior = LAW.a * np.eye(n) + LAW.c / n
    gain = np.linalg.solve(prior[:6, :6], prior[:6, 6:]).T
    covariance = prior[6:, 6:] - gain @ prior[:6, 6:]
    mean = MEAN.numpy() + STD * (gain @ given.numpy()).mean(axis=0)
    common = new.mean(axis=1)  # the direction in which the given points matter, (draws, 2)
    variance = STD**2 * covariance.mean()
    # 4.5 standard errors, and 3 % for the discretisation of the path, as in tests/test_conditioning.py
    assert np.abs(common.mean(axis=0) - mean).max() < 4.5 * math.sqrt(variance / draws) + 0.03 * STD
    assert common.var(axis=0) / variance == pytest.approx(1, abs=4.5 * math.sqrt(2 / draws) + 0.03)


def test_a_class_leads_completions(small, sample):
    np.save("part.npy", float32(16, 3))
    free, one, two, further = (
        sample(small, "complete=part.npy", *options)
        for options in ((), ("class=0",), ("class=[1,0]", "num_clouds=2"), ("class=0", "guidance=3"))
    )
    assert "labels" not in free
    assert (one["labels"].tolist(), two["labels"].tolist()) == ([0], [1, 0])
    for other in (one, two, further):
        np.testing.assert_array_equal(other["points"][:, :16], np.repeat(float32(1, 16, 3), len(other["points"]), 0))
    rest = [made["points"][0, 16:] for made in (free, one, two, further)]
    assert min(np.abs(a - b).max() for i, a in enumerate(rest) for b in rest[:i]) > 1e-3


@pytest.mark.parametrize("name", ["part.ply", "part.obj", "part.xyz", "part.npy", "folder"])
def test_single_files_and_folders_are_read(small, sample, tmp_path, name):
    part, path = float32(10, 3), tmp_path / name
    if name == "folder":
        path.mkdir()
        for index in (1, 2):
            np.savetxt(path / f"{index}.xyz", index * part)
        expected = np.stack((part, 2 * part))
    else:
        expected = part[None]
        if name.endswith("npy"):
            np.save(path, part)
        elif name.endswith("xyz"):
            np.savetxt(path, part)
        else:
            trimesh.PointCloud(part).export(path)
    made = sample(small, f"complete={name}", "num_particles=16")
    # text files hold as many digits as their writer gives them
    digits = 1e-7 if name.endswith(("obj", "xyz")) else 0
    np.testing.assert_allclose(made["points"][:, :10], expected, rtol=0, atol=digits)


def test_a_mesh_gives_points_of_its_surface(small, sample):
    trimesh.creation.box().export("box.off")
    made = sample(small, "densify=box.off", "conditioning.num_points=24", "num_particles=30")
    assert made["given"].tolist() == [24]
    assert np.abs(made["points"][0, :24]).max(axis=1) == pytest.approx(0.5)  # the cube's sides, to the bit


def test_densification_adds_nine_points_to_each(small, sample):
    given = [float32(16, 3), float32(12, 3)]
    np.savez("coarse.npz", *given)
    made = sample(small, "densify=coarse.npz")
    assert (made["given"].tolist(), made["lengths"].tolist()) == ([16, 12], [160, 120])
    for cloud, points in zip(made["points"], given, strict=True):
        np.testing.assert_array_equal(cloud[: len(points)], points)
    read = CloudArchive(made["folder"] / "samples.npz")  # what was written is data again
    assert [len(read.points(index)) for index in range(len(read))] == [160, 120]
    assert sample(small, "densify=coarse.npz", "num_particles=20", "num_clouds=3")["points"].shape == (3, 20, 3)


def test_defaults_are_those_of_the_library():
    keys = yaml.safe_load((config_folder() / "sample.yaml").read_text())["conditioning"]
    names = ("floor", "trust", "resamplings", "jump", "until", "share", "noise")
    assert {name: keys[name] for name in names} == {name: getattr(Hold, name) for name in names}
