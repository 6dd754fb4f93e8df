"""What the tests of W&B share: a small checkpoint and a picture."""

import matplotlib.pyplot as plt
import pytest
import torch

from mfcdm import checkpoint
from mfcdm.datasets import Normalization
from mfcdm.networks import ScoreNetwork

MODEL = {"network.safetensors", "state.json", "config.yaml"}  # the files of a published model


@pytest.fixture
def save():
    """Write a small checkpoint that can be loaded."""

    def save(folder, step=20):
        keys = {"width": 8, "depth": 1, "num_heads": 2, "num_moments": 2}
        config = {
            "network": {"_target_": "mfcdm.networks.ScoreNetwork", **keys},
            "sde": {"_target_": "mfcdm.sde.CosineVPSDE"},
            "subdivision": {"_target_": "mfcdm.subdivision.Subdivision", "cardinalities": [4, 8], "times": [1.0, 0.5]},
            "branching": {"_target_": "mfcdm.branching.Renoise"},
        }
        weights = ScoreNetwork(**keys).state_dict()
        training = checkpoint.TrainingState({"moment": torch.zeros(4)}, {"seconds": 1.0})
        normalization = Normalization(torch.zeros(3), torch.tensor(2.0))
        return checkpoint.save(
            folder, weights=weights, config=config, normalization=normalization, step=step, training=training
        )

    return save


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "samples.png"
    plt.imsave(path, torch.rand(4, 6).numpy())
    return path
