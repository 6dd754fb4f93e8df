import json

import numpy as np
import pytest
import torch

from mfcdm.networks import ScoreNetwork
from tests.commands.conditioned.models import ABOUT_EXACT, MEAN, QUICK, STD, TINY, Exact, saved
from tests.laws import generator


@pytest.fixture(scope="session")
def exact(tmp_path_factory):
    """A checkpoint of LAW, which has one level: its interaction depends on N."""
    levels = {"_target_": "mfcdm.subdivision.Subdivision", "cardinalities": [16], "times": [1.0]}
    folder = tmp_path_factory.mktemp("exact") / "last"
    return saved(folder, Exact(), ABOUT_EXACT, MEAN, STD, subdivision=levels)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A checkpoint of a small network that has learned nothing, in three dimensions."""
    torch.manual_seed(0)
    network = ScoreNetwork(**TINY)
    for parameter in network.parameters():  # a fresh network's last layer is 0
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator(1))
    mean, about = torch.tensor([0.5, 0.0, -0.5]), {"_target_": "mfcdm.networks.ScoreNetwork", **TINY}
    return saved(tmp_path_factory.mktemp("small") / "last", network, about, mean, 0.8)


@pytest.fixture(scope="session")
def boxed(tmp_path_factory):
    """A checkpoint of LAW, as if each of its training clouds had been scaled to a box by itself."""
    folder, about = tmp_path_factory.mktemp("boxed") / "last", ABOUT_EXACT
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
