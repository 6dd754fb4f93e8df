"""sample.py likelihood=..."""

import math

import numpy as np
import pytest
import torch

from mfcdm import checkpoint
from mfcdm.likelihood import log_likelihood
from mfcdm.networks import as_score
from mfcdm.randomness import cloud_generators, standard_normal
from tests.commands.conditioned.models import LAW, MEAN, STD, float32, of_law


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
