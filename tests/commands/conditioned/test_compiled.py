"""What takes gradients of the score finds the same with a compiled network."""

from functools import partial

import numpy as np
import pytest
import torch

from tests.commands.conditioned.models import float32


@pytest.fixture(autouse=True)
def traced(monkeypatch):
    torch.compiler.reset()  # graphs that other tests' networks have left
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traced, then computed as ever


def test_completions(small, sample):
    np.save("part.npy", float32(1, 8, 3))
    plain, compiled = (sample(small, "complete=part.npy", *options)["points"] for options in ((), ("compile=true",)))
    np.testing.assert_allclose(compiled, plain, rtol=0, atol=1e-3 * plain.std())  # rounding, amplified at t = 1


def test_likelihoods(small, sample):
    np.save("whole.npy", float32(1, 24, 3))
    found = [sample(small, "likelihood=whole.npy", *options) for options in ((), ("compile=true",))]
    plain, compiled = (each["mean_nats_per_point"] for each in found)
    assert compiled == pytest.approx(plain, rel=1e-4)  # of the integration's tolerance
