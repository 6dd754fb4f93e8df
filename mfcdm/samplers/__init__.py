"""Samplers: from noise at t = 1 back to data, driven by score(x, t, lengths=lengths)."""

from mfcdm.samplers.base import Sampler, Score
from mfcdm.samplers.grids import time_grid
from mfcdm.samplers.probability_flow import ProbabilityFlow
from mfcdm.samplers.stochastic import Geometric, Langevin, LinearNoise

__all__ = ["Geometric", "Langevin", "LinearNoise", "ProbabilityFlow", "Sampler", "Score", "time_grid"]
