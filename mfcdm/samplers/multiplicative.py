"""SDE samplers whose noise is proportional to the distance from a centre: linear noise and geometric noise."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mfcdm.samplers.base import System
from mfcdm.samplers.stochastic import StochasticSampler

Form = Literal["coordinate", "isotropic"]
FORMS: tuple[Form, ...] = ("coordinate", "isotropic")


@dataclass(frozen=True)
class MultiplicativeSampler(StochasticSampler):
    """Noise proportional to the distance y = x - c from a centre c.

    "coordinate": G = g(t) diag(y), D = 1/2 g^2 diag(y)^2. Coordinate a of div D is d/dx_a (1/2 g^2 y_a^2) = g^2 y_a.
    "isotropic": G = g(t) |y_i| I for particle i, D = 1/2 g^2 |y_i|^2 I, the same in every direction of space. Here
    div D is the gradient in x_i of 1/2 g^2 |y_i|^2, which is g^2 y_i again.
    If c is the cloud's mean, dy_i / dx_i = (1 - 1/N) I, and D of particle i meets the other particles only outside its
    own block, where the matrix is 0: div D is g^2 (1 - 1/N) y_i in both forms.

    Without div D the samples have the right spread in the wrong place. D changes along with y, so a noise step
    is made in substeps of gamma <= MAX_GAMMA; they use the prediction that the step has already paid for. Beyond
    MAX_SUBSTEPS, at gamma = 4 and more, a step has forgotten where it began, and they grow.

    Args:
        form: "coordinate" or "isotropic".
    """

    MAX_GAMMA: ClassVar[float] = 1 / 32  # leaves a bias of 1 % of sigma in mean and spread at y = sigma = 1
    MAX_SUBSTEPS: ClassVar[int] = 128

    form: Form = "coordinate"

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        super().__post_init__()
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")

    def relaxation(self, x: Tensor, gamma: float, system: System) -> Tensor:
        """See `StochasticSampler`."""
        square = self.square(x - self.center_of(x, system)[0])
        return (0.25 * gamma * square.clamp_min(1e-12)).tanh()  # ratios are those of gamma at the centre too

    def noise_step(self, x: Tensor, mean: Tensor, sigma: float, gamma: float, system: System) -> Tensor:
        """See the class."""
        num_substeps = min(math.ceil(gamma / self.MAX_GAMMA), self.MAX_SUBSTEPS)
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

    def square(self, y: Tensor) -> Tensor:
        """2 D / g^2: y^2, or |y|^2 where the noise is isotropic; broadcasts to y (B, N, D)."""
        return y**2 if self.form == "coordinate" else y.square().sum(dim=-1, keepdim=True)

    @abstractmethod
    def multiply(self, y: Tensor, m: Tensor, sigma: float, gamma: float, div: Tensor, system: System) -> Tensor:
        """Run dy = (D s + div g^2 y) dt + G dB, s = (m - y) / sigma^2, y and m (B, N, D)."""


@dataclass(frozen=True)
class LinearNoise(MultiplicativeSampler):
    """Linear noise, integrated additively with D frozen over the step.

    With kappa = 1/2 gamma y^2 (or |y|^2) and phi(z) = (1 - e^(-z)) / z:
    y <- m + e^(-kappa) (y - m) + div gamma sigma^2 y phi(kappa) + sigma sqrt(1 - e^(-2 kappa)) xi.
    As h -> 0 this is the Euler-Maruyama step; at any h its noise has at most the spread sigma of the conditional law.
    """

    def multiply(self, y: Tensor, m: Tensor, sigma: float, gamma: float, div: Tensor, system: System) -> Tensor:
        """See the class."""
        kappa = 0.5 * gamma * self.square(y)
        drift = -torch.expm1(-kappa) * (m - y) + div * gamma * sigma**2 * y * _phi(kappa)
        return y + drift + sigma * (-torch.expm1(-2 * kappa)).sqrt() * system.noise_like(y)


@dataclass(frozen=True)
class Geometric(MultiplicativeSampler):
    """Geometric noise: the same G, integrated in the multiplicative group, so nothing crosses the centre.

    A coordinate has d log|y| = (1/2 g^2 y s + (div - 1/2) g^2) dt + g dB. At y = m this drift has the slope -kappa in
    log|y|, kappa = 1/2 gamma y^2. With that slope integrated exactly and phi(z) = (1 - e^(-z)) / z:
    y <- y exp( (1/2 gamma y (m - y) + (div - 1/2) gamma sigma^2) phi(kappa) + sigma sqrt(gamma phi(2 kappa)) xi ).
    As h -> 0 this is y exp((1/2 g^2 + 1/2 g^2 y s) h + g sqrt(h) xi), and no coordinate changes its sign.

    The isotropic group scales and turns: y = r n moves along e = e_r n + e_T, e_T orthogonal to n, by
    y <- r exp(e_r) (cos|e_T| n + sin|e_T| e_T / |e_T|). The Laplacian of log r, which is (D - 2) / r^2, adds
    1/2 (D - 2) g^2 to the drift of log r where a coordinate alone has -1/2 g^2, and e is, with kappa = 1/2 gamma r^2,
    e = (1/2 gamma r (m - y) + (div + (D - 2) / 2) gamma sigma^2 n) phi(kappa) + sigma sqrt(gamma phi(2 kappa)) xi.
    """

    def multiply(self, y: Tensor, m: Tensor, sigma: float, gamma: float, div: Tensor, system: System) -> Tensor:
        """See the class."""
        kappa = 0.5 * gamma * self.square(y)
        spread = sigma * (gamma * _phi(2 * kappa)).sqrt()
        if self.form == "coordinate":
            drift = (0.5 * gamma * y * (m - y) + (div - 0.5) * gamma * sigma**2) * _phi(kappa)
            return y * (drift + spread * system.noise_like(y)).exp()
        r = y.norm(dim=-1, keepdim=True)  # (B, N, 1)
        n = y / r.clamp_min(torch.finfo(y.dtype).tiny)  # 0 at the centre, where particles stay
        ito = (div + 0.5 * (y.shape[-1] - 2)) * gamma * sigma**2
        e = (0.5 * gamma * r * (m - y) + ito * n) * _phi(kappa) + spread * system.noise_like(y)
        e_r = (e * n).sum(dim=-1, keepdim=True)
        e_T = e - e_r * n
        angle = e_T.norm(dim=-1, keepdim=True)
        return r * e_r.exp() * (angle.cos() * n + torch.sinc(angle / math.pi) * e_T)


def _phi(z: Tensor) -> Tensor:
    """(1 - e^(-z)) / z for z >= 0, 1 at z = 0."""
    return torch.where(z > 0, -torch.expm1(-z) / z.clamp_min(torch.finfo(z.dtype).tiny), torch.ones_like(z))
