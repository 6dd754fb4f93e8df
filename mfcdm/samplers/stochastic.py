"""SDE samplers: three choices of the noise matrix G in one marginal-preserving family.

Let v = -1/2 beta x - 1/2 beta s be the velocity of the probability flow, s the score, and D = 1/2 G G^T. For any G,

    x <- x - v h + (D s + div D) h + G sqrt(h) xi,     t <- t - h,

keeps the marginals p_t: the first term moves p_t to p_{t-h}, the other two are a diffusion that is reversible with
respect to p_t. A step here splits the two and takes one score evaluation, from which the data x_0 are predicted at the
middle of the step (`Prediction.extrapolated`). The flow step is the exponential integrator with x_0 held fixed,

    x_t = alpha x_0 + sigma eps    ->    alpha' x_0 + sigma' eps,

and the noise step then runs for h at t - h against the score that the same prediction implies there,
s(y) = (alpha' x_0 - y) / sigma'^2. This s has the stiff slope -1/sigma'^2 of the true score, and integrating that slope
exactly makes every G stable at every step size, with no clip. In the clock of the forward process the noise
strength of a step is gamma = noise^2 (log-SNR after - log-SNR before), so that g^2 h = gamma sigma'^2.

After the Langevin-type, linear-noise and geometric SDEs of Oh, Lim & Kim (ICLR 2024); using them as samplers of a
diffusion model is our construction.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mfcdm.networks.parametrization import noise_from_x_0
from mfcdm.samplers.base import Point, Prediction, Sampler, System


@dataclass(frozen=True)
class StochasticSampler(Sampler):
    """Probability-flow step, then a noise step that keeps the marginal."""

    def step(
        self, x: Tensor, before: Point, after: Point, system: System, previous: Prediction | None
    ) -> tuple[Tensor, Prediction | None]:
        """One step from before.t to after.t with one score evaluation."""
        prediction = Prediction(before, system.data_prediction(x, before))
        x_0 = prediction.extrapolated(previous, after)
        eps = noise_from_x_0(x_0, x, before.alpha, before.sigma)
        x = after.alpha * x_0 + after.sigma * eps
        gamma = self.noise**2 * (after.log_snr - before.log_snr)
        if gamma > 0.0:
            x = self.noise_step(x, after.alpha * x_0, after.sigma, gamma, system)
        return x, prediction

    @abstractmethod
    def noise_step(self, x: Tensor, mean: Tensor, sigma: float, gamma: float, system: System) -> Tensor:
        """Diffuse x (B, N, D) against s(x) = (mean - x) / sigma^2 for a time in which g^2 h = gamma sigma^2."""


@dataclass(frozen=True)
class Langevin(StochasticSampler):
    """Additive noise, G = g(t) I, div D = 0; with noise = 1 the reverse SDE.

    The noise step is an Ornstein-Uhlenbeck process, solved exactly:
    x <- mean + e^(-gamma/2) (x - mean) + sigma sqrt(1 - e^(-gamma)) xi.
    """

    def noise_step(self, x: Tensor, mean: Tensor, sigma: float, gamma: float, system: System) -> Tensor:
        """See the class."""
        x = mean + math.exp(-0.5 * gamma) * (x - mean)
        return x + sigma * math.sqrt(-math.expm1(-gamma)) * system.noise_like(x)


@dataclass(frozen=True)
class MultiplicativeSampler(StochasticSampler):
    """Noise proportional to the distance from a centre c, coordinate by coordinate: G = g(t) diag(x - c).

    With y = x - c: D s = 1/2 g^2 y^2 s and div D = g^2 y, times (1 - 1/N) if c is the cloud's mean, as that moves with
    x_i. Without div D the samples have the right spread in the wrong place. D changes along with y, so a noise step
    is made in substeps of gamma <= MAX_GAMMA; they use the prediction that the step has already paid for.
    """

    MAX_GAMMA: ClassVar[float] = 1 / 32  # leaves a bias of 1 % of sigma in mean and spread at y = sigma = 1

    def noise_step(self, x: Tensor, mean: Tensor, sigma: float, gamma: float, system: System) -> Tensor:
        """See the class."""
        num_substeps = math.ceil(gamma / self.MAX_GAMMA)
        for _ in range(num_substeps):
            c, div = self.center_of(x, system)
            x = c + self.multiply(x - c, mean - c, sigma, gamma / num_substeps, div, system)
        return x

    def center_of(self, x: Tensor, system: System) -> tuple[Tensor, Tensor]:
        """The centre c and the factor of div D, each broadcasting to x (B, N, D)."""
        if self.center == "origin":
            return x.new_zeros(()), x.new_ones(())
        c, count = system.mean(x)
        return c, 1 - 1 / count

    @abstractmethod
    def multiply(self, y: Tensor, m: Tensor, sigma: float, gamma: float, div: Tensor, system: System) -> Tensor:
        """Run dy = (1/2 g^2 y^2 s + div g^2 y) dt + g y dB, s = (m - y) / sigma^2, y and m (B, N, D)."""


@dataclass(frozen=True)
class LinearNoise(MultiplicativeSampler):
    """Linear noise G = g(t) diag(x - c), integrated additively with D frozen over the step.

    With kappa = 1/2 gamma y^2 and phi(z) = (1 - e^(-z)) / z:
    y <- m + e^(-kappa) (y - m) + div gamma sigma^2 y phi(kappa) + sigma sqrt(1 - e^(-2 kappa)) xi.
    As h -> 0 this is the Euler-Maruyama step; at any h its noise has at most the spread sigma of the conditional law.
    """

    def multiply(self, y: Tensor, m: Tensor, sigma: float, gamma: float, div: Tensor, system: System) -> Tensor:
        """See the class."""
        kappa = 0.5 * gamma * y**2
        drift = -torch.expm1(-kappa) * (m - y) + div * gamma * sigma**2 * y * _phi(kappa)
        return y + drift + sigma * (-torch.expm1(-2 * kappa)).sqrt() * system.noise_like(y)


@dataclass(frozen=True)
class Geometric(MultiplicativeSampler):
    """Geometric noise: the same G = g(t) diag(x - c), integrated in the multiplicative group, so no sign changes.

    log|y| follows d log|y| = (1/2 g^2 y s + (div - 1/2) g^2) dt + g dB. At y = m its drift has the slope -kappa a step
    in log|y|, kappa = 1/2 gamma y^2. With that slope integrated exactly and phi(z) = (1 - e^(-z)) / z:
    y <- y exp( (1/2 gamma y (m - y) + (div - 1/2) gamma sigma^2) phi(kappa) + sigma sqrt(gamma phi(2 kappa)) xi ).
    As h -> 0 this is y exp((1/2 g^2 + 1/2 g^2 y s) h + g sqrt(h) xi).
    """

    def multiply(self, y: Tensor, m: Tensor, sigma: float, gamma: float, div: Tensor, system: System) -> Tensor:
        """See the class."""
        kappa = 0.5 * gamma * y**2
        drift = (0.5 * gamma * y * (m - y) + (div - 0.5) * gamma * sigma**2) * _phi(kappa)
        return y * (drift + sigma * (gamma * _phi(2 * kappa)).sqrt() * system.noise_like(y)).exp()


def _phi(z: Tensor) -> Tensor:
    """(1 - e^(-z)) / z for z >= 0, 1 at z = 0."""
    return torch.where(z > 0, -torch.expm1(-z) / z.clamp_min(torch.finfo(z.dtype).tiny), torch.ones_like(z))
