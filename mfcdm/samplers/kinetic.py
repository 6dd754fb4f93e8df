"""Kinetic (underdamped) Langevin dynamics: particles with velocities, of the law p_t x N(0, I).

    dx = sigma v dtau,    dv = sigma s dtau - friction v dtau + sqrt(2 friction) dB.

Positions in units of sigma make -1 the stiffest slope that a score can have, as its gradient is
-I / sigma^2 + (alpha^2 / sigma^4) Cov(x_0 | x_t). In the clock of the noise tau = 1/2 friction gamma, so that great
friction is `Langevin`.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from mfcdm.networks.parametrization import noise_from_x_0
from mfcdm.samplers.base import Point, Prediction, System
from mfcdm.samplers.dpm_solver import flow_step
from mfcdm.samplers.stochastic import StochasticSampler


@dataclass(frozen=True)
class Moving(Prediction):
    """A prediction with the velocities, (B, N, D), that the particles have; None before there was noise."""

    velocity: Tensor | None


@dataclass(frozen=True)
class UnderdampedLangevin(StochasticSampler):
    """Probability-flow step for x, then a kinetic step that keeps p_t x N(0, I); velocities last from step to step.

    Against s(x) = (mean - x) / sigma^2 the kinetic step is linear in u = (x - mean) / sigma and v, and solved exactly:
    (u, v) <- A (u, v) + L xi,  A = exp(tau [[0, 1], [-1, -friction]]),  L L^T = I - A A^T,  xi in R^2,
    for tau = 1/2 friction gamma. Stable at every step size, like the other samplers, for one evaluation a step.

    Args:
        friction: > 0, in units where the stiffest mode has frequency 1; 2 damps that one critically.
    """

    friction: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        super().__post_init__()
        check_friction(self.friction)

    def relaxation(self, x: Tensor, gamma: float, system: System) -> Tensor:
        """(1 - rho) / (1 + rho), rho = A_uu - A_uv^2 / (1 - A_vv): to a force rho is what e^(-k) is to `Langevin`."""
        (a_uu, a_uv), (_, a_vv) = exact_transition(0.5 * self.friction * gamma, self.friction)[0]
        rho = a_uu - a_uv**2 / (1 - a_vv) if a_vv < 1 else 1.0
        return x.new_full((), (1 - rho) / (1 + rho))

    def step(
        self, x: Tensor, before: Point, after: Point, system: System, previous: Prediction | None
    ) -> tuple[Tensor, Moving]:
        """One step from before.t to after.t with one score evaluation."""
        prediction = Prediction(before, system.data_prediction(x, before))
        x_0 = prediction.extrapolated(previous, after)
        x = flow_step(x, x_0, before, after)
        velocity = previous.velocity if isinstance(previous, Moving) else None
        gamma = self.strength(previous, before, after)
        if gamma > 0.0:
            velocity = system.noise_like(x) if velocity is None else velocity
            x_0 = self.data_of_noise(x, x_0, prediction, previous, after, system)
            x, velocity = self.kinetic_step(x, velocity, after.alpha * x_0, after.sigma, gamma, system)
        return x, Moving(before, prediction.x_0, velocity)

    def noise_step(self, x: Tensor, mean: Tensor, sigma: float, gamma: float, system: System) -> Tensor:
        """A kinetic step with fresh velocities."""
        return self.kinetic_step(x, system.noise_like(x), mean, sigma, gamma, system)[0]

    def kinetic_step(
        self, x: Tensor, velocity: Tensor, mean: Tensor, sigma: float, gamma: float, system: System
    ) -> tuple[Tensor, Tensor]:
        """See the class; x, velocity and mean (B, N, D)."""
        (a_uu, a_uv), (a_vu, a_vv) = (transition := exact_transition(0.5 * self.friction * gamma, self.friction))[0]
        (l_uu, _), (l_vu, l_vv) = transition[1]
        u, first, second = (x - mean) / sigma, system.noise_like(x), system.noise_like(x)
        moved = (a_uu - 1) * u + a_uv * velocity + l_uu * first
        return x + sigma * moved, a_vu * u + a_vv * velocity + l_vu * first + l_vv * second


Matrix = tuple[tuple[float, float], tuple[float, float]]


@lru_cache(maxsize=64)
def exact_transition(tau: float, friction: float) -> tuple[Matrix, Matrix]:
    """(A, L): A = exp(tau [[0, 1], [-1, -friction]]) and the lower triangular L with L L^T = I - A A^T."""
    generator = torch.tensor([[0.0, 1.0], [-1.0, -friction]], dtype=torch.float64)
    a = torch.linalg.matrix_exp(tau * generator)
    (uu, uv), (_, vv) = (torch.eye(2, dtype=torch.float64) - a @ a.mT).tolist()
    l_uu = math.sqrt(max(uu, 0.0))  # of order friction tau^3: for tiny steps rounding may leave it below 0
    l_vu = uv / l_uu if l_uu > 0 else 0.0
    l_vv = math.sqrt(max(vv - l_vu**2, 0.0))
    rows = a.tolist()
    return ((rows[0][0], rows[0][1]), (rows[1][0], rows[1][1])), ((l_uu, 0.0), (l_vu, l_vv))


def baoab(x: Tensor, velocity: Tensor, at: Point, tau: float, friction: float, system: System) -> tuple[Tensor, Tensor]:
    """One symmetric splitting step at a fixed time: half a kick, half a drift, friction and noise, and back.

    On a Gaussian law the positions keep its variance at every tau < 2, where the stiffest mode is stable. Its last
    evaluation, at the new x, is the first of the next step (`System.data_prediction`): one a step.

    Args:
        x: (B, N, D) positions.
        velocity: (B, N, D).
        at: the time, with its coefficients.
        tau: step size, in (0, 2).
        friction: > 0; math.inf draws the velocities anew.
        system: score, randomness and mask.

    Returns:
        positions and velocities.

    Source: Leimkuhler & Matthews, Rational construction of stochastic numerical methods for molecular sampling (2013).
    """
    kept = math.exp(-friction * tau)
    velocity = velocity - 0.5 * tau * _noise_prediction(x, at, system)  # sigma s = -eps
    x = x + 0.5 * tau * at.sigma * velocity
    velocity = kept * velocity + math.sqrt(1 - kept**2) * system.noise_like(x)
    x = x + 0.5 * tau * at.sigma * velocity
    return x, velocity - 0.5 * tau * _noise_prediction(x, at, system)


def check_friction(friction: float) -> None:
    """Refuse friction that is none.

    Raises:
        ValueError: a sentence that names the value.
    """
    if not 0.0 < friction < math.inf:
        raise ValueError(f"friction must be > 0 and finite, got {friction}")


def _noise_prediction(x: Tensor, at: Point, system: System) -> Tensor:
    return noise_from_x_0(system.data_prediction(x, at), x, at.alpha, at.sigma)
