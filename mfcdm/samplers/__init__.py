"""Samplers: from noise at t = 1 back to data, driven by score(x, t, lengths=lengths)."""

from mfcdm.samplers.base import Sampler, Score
from mfcdm.samplers.dpm_solver import DPMSolver
from mfcdm.samplers.grids import time_grid
from mfcdm.samplers.kinetic import UnderdampedLangevin
from mfcdm.samplers.multiplicative import Geometric, LinearNoise
from mfcdm.samplers.predictor_corrector import PredictorCorrector
from mfcdm.samplers.probability_flow import ProbabilityFlow
from mfcdm.samplers.stochastic import Langevin

__all__ = [
    "DPMSolver",
    "Geometric",
    "Langevin",
    "LinearNoise",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Sampler",
    "Score",
    "UnderdampedLangevin",
    "time_grid",
]
