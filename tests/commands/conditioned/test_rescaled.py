"""Given clouds where training scaled each cloud by itself."""

import math

import numpy as np
import pytest
import torch

from mfcdm.interpolation import assignment
from tests.commands.conditioned.models import LAW, float32


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
