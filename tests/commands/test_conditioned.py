"""sample.py complete=..., densify=..., interpolate=... and likelihood=..."""

import json
import math
from itertools import cycle

import numpy as np
import pytest
import torch
import trimesh
import yaml
from matplotlib.image import imread as read_png
from torch import nn

from mfcdm import checkpoint
from mfcdm.analytic import ExchangeableGaussian
from mfcdm.cli import config_folder
from mfcdm.commands import completing
from mfcdm.datasets import CloudArchive, Normalization
from mfcdm.holding import Hold
from mfcdm.interpolation import assignment
from mfcdm.likelihood import log_likelihood
from mfcdm.networks import ScoreNetwork, as_score
from mfcdm.randomness import cloud_generators, standard_normal
from mfcdm.sde import CosineVPSDE
from mfcdm.visualize import draw_clouds
from tests.commands.runs import PNG, clouds
from tests.laws import generator

SDE = CosineVPSDE()
LAW = ExchangeableGaussian(a=0.5, c=8.0, dim=2)
MEAN, STD = torch.tensor([3.0, -1.0]), 2.5  # of the law's data: x = MEAN + STD y, y from the law
QUICK = ("device=cpu", "sampler.num_steps=6")
CONFIG = {
    "sde": {"_target_": "mfcdm.sde.CosineVPSDE"},
    "branching": {"_target_": "mfcdm.branching.Renoise"},
    "normalization": "global",
}
TINY = {"width": 16, "depth": 1, "num_moments": 4, "num_scales": 2, "channels": 4, "num_classes": 2}


class Exact(nn.Module):
    """The network that has learned LAW."""

    dim, prediction = LAW.dim, "noise"

    def __init__(self):
        super().__init__()
        self.register_buffer("nothing", torch.zeros(1))

    def forward(self, x, t, lengths=None, label=None):
        return -SDE.sigma(t)[:, None, None] * LAW.score(x, t, SDE, lengths)


def saved(folder, network, about, mean, std, **config):
    levels = {"_target_": "mfcdm.subdivision.Subdivision", "cardinalities": [16, 32], "times": [1.0, 0.5]}
    config = {**CONFIG, "network": about, "subdivision": levels, **config}
    normalization = Normalization(mean, torch.tensor(std))
    return checkpoint.save(folder, weights=network.state_dict(), config=config, normalization=normalization, step=1)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """A checkpoint of LAW, which has one level: its interaction depends on N."""
    levels = {"_target_": "mfcdm.subdivision.Subdivision", "cardinalities": [16], "times": [1.0]}
    folder = tmp_path_factory.mktemp("exact") / "last"
    return saved(folder, Exact(), {"_target_": f"{__name__}.Exact"}, MEAN, STD, subdivision=levels)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A checkpoint of a small network that has learned nothing, in three dimensions."""
    torch.manual_seed(0)
    network = ScoreNetwork(**TINY)
    for parameter in network.parameters():  # a fresh network's last layer is 0
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator(1))
    mean, about = torch.tensor([0.5, 0.0, -0.5]), {"_target_": "mfcdm.networks.ScoreNetwork", **TINY}
    return saved(tmp_path_factory.mktemp("small") / "last", network, about, mean, 0.8)


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    """A checkpoint of LAW, as if each of its training clouds had been scaled to a box by itself."""
    folder, about = tmp_path_factory.mktemp("boxed") / "last", {"_target_": f"{__name__}.Exact"}
    return saved(folder, Exact(), about, torch.zeros(2), 0.25, normalization="box")


@pytest.fixture
def sample(call, tmp_path):
    """Run sample.py and read what it has written."""

    def sample(model, *options):
        folder = tmp_path / f"made-{len(list(tmp_path.glob('made-*')))}"
        ended = call("sample", f"checkpoint={model}", *QUICK, f"output={folder.name}", *options)
        assert ended.code == 0, ended.err
        about = {"folder": folder, "out": ended.out, "err": ended.err}
        if (folder / "likelihood.json").exists():
            return json.loads((folder / "likelihood.json").read_text()) | about
        with np.load(folder / "samples.npz") as samples:
            return {name: samples[name] for name in samples.files} | about

    return sample


def of_law(num_clouds, num_particles, seed=0):
    """Clouds of LAW in the data's coordinates, float32."""
    return MEAN + STD * LAW.sample(num_clouds, num_particles, generator(seed))


def float32(*shape, seed=0):
    return (0.5 * clouds(*shape, seed=seed)).astype(np.float32)


# Completion


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


# Formats


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


# Densification


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


# Interpolation


def test_the_ends_of_an_interpolation_are_the_two_clouds(exact, sample):
    x, y = of_law(2, 24)
    np.savez("two.npz", points=np.stack((x, y)))
    errors = []
    for steps in (10, 20, 40):
        made = sample(exact, "interpolate=two.npz", "num_clouds=3", f"sampler.num_steps={steps}", "trust=true")
        assert made["points"].shape == (3, 24, 2)
        first, _, last = torch.from_numpy(made["points"])
        order = assignment(last[None], y[None])[0]
        assert sorted(order.tolist()) == list(range(24))
        errors.append(float(torch.stack((first - x, last - y[order])).norm()) / STD)
    # Heun's error there and back is of third order: a factor of 8 for twice the steps, here of at least 4
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 4
    assert errors[2] < 0.01 * math.sqrt(2 * 2 * 24)  # of the root mean square of all coordinates


def test_pairs_of_an_interpolation_are_consecutive_clouds(exact, sample):
    all_clouds = of_law(5, 16)
    np.save("five.npy", all_clouds)
    options = ("interpolate=five.npy", "conditioning.num_pairs=null", "num_clouds=2", "sampler.num_steps=40")
    made = torch.from_numpy(sample(exact, *options, "trust=true")["points"])
    assert len(made) == 4  # the fifth cloud has no partner
    for frame, cloud in zip(made, all_clouds, strict=False):
        order = assignment(frame[None], cloud[None])[0]
        # as above, every point by itself
        assert float((frame - cloud[order]).abs().max()) < 0.05 * STD
    default = sample(exact, "interpolate=five.npy", "trust=true")["points"]
    assert default.shape == (8, 16, 2)


def test_clouds_of_different_size_meet_in_random_parts(exact, sample):
    x, y = of_law(2, 24)
    np.savez("two.npz", x.numpy(), y[:20].numpy())
    options = ("interpolate=two.npz", "num_particles=12", "num_clouds=2", "sampler.num_steps=40", "trust=true")
    made = torch.from_numpy(sample(exact, *options)["points"])
    nearest = torch.cdist(made[0], x).min(dim=1)
    assert float(nearest.values.max()) < 0.05 * STD
    assert len(set(nearest.indices.tolist())) == 12


# Likelihood


def test_the_likelihood_of_a_gaussian_is_the_closed_form_in_the_data_s_coordinates(exact, sample):
    x = of_law(2, 24)
    np.save("two.npy", x)
    options = ("likelihood=two.npy", "trust=true", "conditioning.divergence=exact")
    found = sample(exact, *options)
    y = ((x - MEAN) / STD).double()
    expected = LAW.log_prob(y) / 24 - 2 * math.log(STD)
    for cloud, nats in zip(found["clouds"], expected.tolist(), strict=True):
        # N(0, I) for the law of x_1 costs alpha(1) |x_0| / sqrt(N), noise at t_min sigma |score| / sqrt(N): 0.002
        assert cloud["nats_per_point"] == pytest.approx(nats, abs=0.01)
        assert cloud["log_likelihood"] == pytest.approx(24 * cloud["nats_per_point"], rel=1e-12)
        assert cloud["standard_error"] == 0
    mean = np.mean([cloud["nats_per_point"] for cloud in found["clouds"]])
    assert found["mean_nats_per_point"] == pytest.approx(mean)
    assert "log p_data(x) = log p(normalised x) - N D log std, std = 2.5" in found["out"]
    for cloud in found["clouds"]:
        assert f"{cloud['nats_per_point']:.4f}" in found["out"]


def test_the_likelihood_is_that_of_the_library(small, sample):
    np.savez("two.npz", float32(12, 3), float32(8, 3, seed=1))
    found = sample(small, "likelihood=two.npz", "class=[1,0]", "conditioning.tolerance=1e-2", "seed=7")["clouds"]
    model = checkpoint.load(small)
    assert [cloud["label"] for cloud in found] == ["1", "0"]
    for index, points in enumerate((float32(12, 3), float32(8, 3, seed=1))):
        own = cloud_generators(7, [index])
        score = as_score(model.network, model.sde, torch.tensor([1 - index]))
        mean, std = model.sde.marginal(
            model.normalization.apply(torch.from_numpy(points))[None], torch.tensor([model.sde.t_min])
        )
        x = mean + std[:, None, None] * standard_normal(mean.shape, own)
        direct = log_likelihood(score, model.sde, x, generator=own, rtol=1e-2, atol=1e-2)
        per_point = float(direct.per_point) - 3 * math.log(0.8)
        # alpha(t_min) differs from 1 by 1e-6; float32 otherwise
        assert found[index]["nats_per_point"] == pytest.approx(per_point, abs=1e-4)
        assert found[index]["standard_error"] == pytest.approx(float(direct.standard_error), rel=1e-4)
        assert found[index]["evaluations"] == int(direct.evaluations)


def test_one_probe_has_no_standard_error_and_some_clouds_may_be_weighed(exact, sample):
    np.save("five.npy", of_law(5, 16))
    options = ("conditioning.num_probes=1", "num_clouds=2", "num_particles=8", "trust=true")
    found = sample(exact, "likelihood=five.npy", *options)
    assert [(cloud["points"], cloud["standard_error"]) for cloud in found["clouds"]] == [(8, None)] * 2


# Where training scaled each cloud by itself


def here_and_there(num_clouds, num_points):
    """Clouds of another size at another place: files here.npy and there.npy."""
    x = float32(num_clouds, num_points, 2)
    moved = (7 * x + np.float32([100, -50])).astype(np.float32)
    np.save("here.npy", x)
    np.save("there.npy", moved)
    return x, moved


def test_whole_clouds_are_scaled_as_in_training_and_back(boxed, sample):
    _, moved = here_and_there(2, 12)
    options = ("num_particles=20", "sampler=probability_flow", "sampler.num_steps=20", "trust=true")
    here, there = (sample(boxed, f"densify={name}.npy", *options)["points"] for name in ("here", "there"))
    np.testing.assert_array_equal(there[:, :12], moved)
    # 100 in float32 is exact to 4e-6, 1e-6 of the clouds' size, which few evaluations make ten times as much
    np.testing.assert_allclose((there - [100, -50]) / 7, here, rtol=0, atol=1e-4)
    options = ("interpolate=there.npy", "num_clouds=2", "sampler.num_steps=40", "trust=true")
    for frame, cloud in zip(sample(boxed, *options)["points"], moved, strict=True):
        order = assignment(torch.from_numpy(frame)[None], torch.from_numpy(cloud)[None])[0]
        np.testing.assert_allclose(frame, cloud[order], rtol=0, atol=0.05 * 7)  # the solver's error, as above


def test_the_likelihood_does_not_weigh_what_scaling_takes_away(boxed, sample):
    x, _ = here_and_there(1, 8)
    options = ("conditioning.divergence=exact", "trust=true")
    here, there = (sample(boxed, f"likelihood={name}.npy", *options) for name in ("here", "there"))
    scaled = torch.from_numpy(x - (x.max(axis=1) + x.min(axis=1)) / 2) / float((x.max(axis=1) - x.min(axis=1)).max())
    expected = float(LAW.log_prob(scaled.double() / 0.25)) / 8 - 2 * math.log(0.25)
    for found in (here, there):
        assert found["mean_nats_per_point"] == pytest.approx(expected, abs=0.02)  # as above, of 8 points
        assert found["normalization"] == "box"
        assert "normalization=box" in found["out"]
    as_it_is = sample(boxed, "likelihood=here.npy", *options, "conditioning.rescale=false")
    expected = float(LAW.log_prob(torch.from_numpy(x).double() / 0.25)) / 8 - 2 * math.log(0.25)
    assert as_it_is["mean_nats_per_point"] == pytest.approx(expected, abs=0.05)  # further out, so more of both errors
    assert as_it_is["normalization"] == "global"


def test_what_is_assumed_of_a_part_is_said(boxed, sample):
    part = float32(10, 2)
    np.save("part.npy", part)
    options = ("complete=part.npy", "num_particles=32", "trust=true")
    made = sample(boxed, *options)
    assert "normalization=box" in made["err"]
    assert "conditioning.rescale=true" in made["err"]
    own = sample(boxed, *options, "conditioning.rescale=true")
    assert "warning" not in own["err"]
    for found in (made, own):
        np.testing.assert_array_equal(found["points"][0, :10], part)
    assert np.abs(own["points"][0, 10:] - made["points"][0, 10:]).max() > 0.01


# Pictures


def test_marked_points_are_red_and_columns_share_a_window(tmp_path):
    part = torch.rand(400, 2, generator=generator(0))
    rows = [[part], [torch.cat((part, torch.rand(400, 2, generator=generator(1)) + torch.tensor([1.5, 0.0])))]]
    reds = []
    for name, options in (("plain", {}), ("marked", {"marked": [[400], [400]], "aligned": True})):
        picture = read_png(draw_clouds(tmp_path / f"{name}.png", rows, **options))[..., :3]
        red = (picture[..., 0] > 0.7) & (picture[..., 1] < 0.4) & (picture[..., 2] < 0.4)
        reds.append(red)
    assert not reds[0].any()
    height = len(reds[1]) // 2
    top, bottom = (np.nonzero(half.any(axis=0))[0] for half in (reds[1][:height], reds[1][-height:]))
    # the same points in the same window fill the same columns of pixels, up to the dots' size, which their number sets
    assert np.abs(top[[0, -1]] - bottom[[0, -1]]).max() <= 3
    assert top[-1] < 0.55 * reds[1].shape[1]  # the left half of what the lower cloud spans


# Mistakes


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
    ("nan.npy", ["nan.npy has 1 points with NaN"]),
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
    assert (ended.code, "same.npy: the 5 points of cloud 0 coincide" in ended.sentence) == (2, True), ended.sentence
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


def test_defaults_are_those_of_the_library():
    keys = yaml.safe_load((config_folder() / "sample.yaml").read_text())["conditioning"]
    names = ("floor", "trust", "resamplings", "jump", "share", "noise")
    assert {name: keys[name] for name in names} == {name: getattr(Hold, name) for name in names}
