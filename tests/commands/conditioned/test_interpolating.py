"""sample.py interpolate=..."""

import math

import numpy as np
import torch

from mfcdm.interpolation import assignment
from tests.commands.conditioned.models import STD, of_law


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
