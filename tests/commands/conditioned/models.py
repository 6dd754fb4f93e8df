"""Laws, networks and clouds for sample.py complete=..., densify=..., interpolate=... and likelihood=..."""

import numpy as np
import torch
from torch import nn

from mfcdm import checkpoint
from mfcdm.analytic import ExchangeableGaussian
from mfcdm.datasets import Normalization
from mfcdm.sde import CosineVPSDE
from tests.commands.runs import clouds
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
ABOUT_EXACT = {"_target_": f"{__name__}.Exact"}


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


def of_law(num_clouds, num_particles, seed=0):
    """Clouds of LAW in the data's coordinates, float32."""
    return MEAN + STD * LAW.sample(num_clouds, num_particles, generator(seed))


def float32(*shape, seed=0):
    return (0.5 * clouds(*shape, seed=seed)).astype(np.float32)
