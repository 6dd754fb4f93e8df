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

    Without div D the samples have the right spread in the wrong place. D changes along with y, so a noise step is made
    in substeps, which use the prediction that the step has already paid for. A substep is a symmetric splitting, half
    of the drift D s, the noise with div D, and the other half of the drift: weak order two. As many as 16 sqrt(gamma)
    of them leave an error in proportion to gamma, a small part of the error of first order that a step has anyway.
    Beyond MAX_SUBSTEPS, at gamma = 64 and more, a step has forgotten where it began, and they grow.

    Args:
        form: "coordinate" or "isotropic".
    """

    MAX_SUBSTEPS: ClassVar[int] = 128
    MAX_DECAY: ClassVar[float] = 1.0  # of the drift in half a substep: 1 / e of a distance from the mean is left

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
        num_substeps = min(math.ceil(16 * math.sqrt(gamma)), self.MAX_SUBSTEPS)
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

    def multiply(self, y: Tensor, m: Tensor, sigma: float, gamma: float, div: Tensor, system: System) -> Tensor:
        """Run dy = (D s + div g^2 y) dt + G dB, s = (m - y) / sigma^2, y and m (B, N, D): one substep.

        The noise runs for v = int g^2 dt = gamma sigma^2 sinh(c) / kappa, kappa = 1/2 gamma y^2 (or |y|^2), where the
        drift leaves e^(-c) of a distance from m. As c is kappa to the second order this is no change in the second
        order; near m it keeps the spread sigma of the conditional law exactly, at every gamma.
        """
        y = self.drifted(y, m, 0.5 * gamma)
        kappa = (0.5 * gamma * self.square(y)).clamp_min(torch.finfo(y.dtype).tiny)
        y = self.multiplied(y, gamma * sigma**2 * (2 * self.decay(0.5 * kappa)).sinh() / kappa, div, system)
        return self.drifted(y, m, 0.5 * gamma)

    def drifted(self, y: Tensor, m: Tensor, gamma: float) -> Tensor:
        """The flow of dy = D s dt, s = (m - y) / sigma^2, in second order. It goes straight to m:

        y <- y + (1 - e^(-E)) (m - y), E = 1/2 int y^2 dgamma (or |y|^2). With kappa = 1/2 gamma y^2 and the growth 2 z
        of log y^2, z = 1/2 gamma y (m - y), E is kappa (1 + z) where y^2 grows and kappa / (1 - z) where it falls.
        Nothing is overshot: E > 0, and E < log(1 + |y / m|) on the other side of the centre, so m and the centre stay
        ahead.
        """
        product = y * (m - y)
        z = 0.5 * gamma * (product if self.form == "coordinate" else product.sum(dim=-1, keepdim=True))
        exponent = 0.5 * gamma * self.square(y) * (1 + z.clamp_min(0)) / (1 - z.clamp_max(0))
        return y - torch.expm1(-self.decay(exponent)) * (m - y)

    def decay(self, exponent: Tensor) -> Tensor:
        """An exponent up to its second order, and never above MAX_DECAY: sinh in `multiply` must stay small."""
        return self.MAX_DECAY * (exponent / self.MAX_DECAY).tanh()

    @abstractmethod
    def multiplied(self, y: Tensor, v: Tensor, div: Tensor, system: System) -> Tensor:
        """Run dy = div g^2 y dt + G dB for a time in which int g^2 dt = v, which broadcasts to y (B, N, D)."""


@dataclass(frozen=True)
class LinearNoise(MultiplicativeSampler):
    """Linear noise, stepped additively: the Taylor scheme of weak order two, a polynomial in the noise.

    y <- (1 + div v + 1/2 (div v)^2) y + (1 + (div + (d - 1) / 4) v) |y| sqrt(v) xi + 1/2 v (Q - y), where a coordinate
    alone has d = 1 and Q = y xi^2. The isotropic form has d = D and Q = (y . xi) xi + |y| P zeta, P the projection on
    what is orthogonal to y and zeta N(0, I): directions of noise that do not commute bring in a second one. As h -> 0
    this is the Euler-Maruyama step.

    Source: Kloeden & Platen, Numerical solution of stochastic differential equations (1992), section 14.2.
    """

    def multiplied(self, y: Tensor, v: Tensor, div: Tensor, system: System) -> Tensor:
        """See the class."""
        xi, drift = system.noise_like(y), div * v
        if self.form == "coordinate":
            return y * (1 + drift + 0.5 * drift**2 + (1 + drift) * v.sqrt() * xi + 0.5 * v * (xi**2 - 1))
        r, n = _polar(y)
        zeta = system.noise_like(y) if y.shape[-1] > 1 else torch.zeros_like(y)  # on a line all noise commutes
        quadratic = _along(y, xi) * xi + r * (zeta - _along(n, zeta) * n)
        noise = (1 + drift + 0.25 * (y.shape[-1] - 1) * v) * r * v.sqrt() * xi
        return y * (1 + drift + 0.5 * drift**2) + noise + 0.5 * v * (quadratic - y)


@dataclass(frozen=True)
class Geometric(MultiplicativeSampler):
    """Geometric noise: the same G, stepped in the multiplicative group, so nothing crosses the centre.

    A coordinate has d log|y| = (div - 1/2) g^2 dt + g dB: y <- y exp((div - 1/2) v + sqrt(v) xi), exactly.

    The isotropic group scales and turns. The Laplacian of log r, which is (D - 2) / r^2, adds 1/2 (D - 2) g^2 to the
    drift of log r where a coordinate alone has -1/2 g^2. With y = r n, e = sqrt(v) xi and e_T its part orthogonal to n,
    y <- r exp((div + (D - 2) / 2) v + e . n) (cos|u| n + sin|u| u / |u|), u = e_T / sqrt(1 + (D - 2) v / 6): the length
    r has its exact law, and n walks along great circles, shorter by what the curvature of the sphere takes off the heat
    kernel's variance in the second order.
    """

    def multiplied(self, y: Tensor, v: Tensor, div: Tensor, system: System) -> Tensor:
        """See the class."""
        e = v.sqrt() * system.noise_like(y)
        if self.form == "coordinate":
            return y * ((div - 0.5) * v + e).exp()
        (r, n), dim = _polar(y), y.shape[-1]
        e_r = _along(n, e)
        u = (e - e_r * n) / (1 + max(dim - 2, 0) * v / 6).sqrt()
        angle = u.norm(dim=-1, keepdim=True)
        turned = angle.cos() * n + torch.sinc(angle / math.pi) * u
        return r * ((div + 0.5 * (dim - 2)) * v + e_r).exp() * turned


def _polar(y: Tensor) -> tuple[Tensor, Tensor]:
    """|y| (B, N, 1) and y / |y| (B, N, D), 0 at the centre, where particles stay."""
    r = y.norm(dim=-1, keepdim=True)
    return r, y / r.clamp_min(torch.finfo(y.dtype).tiny)


def _along(n: Tensor, x: Tensor) -> Tensor:
    """Inner product of each particle's vectors, (B, N, 1)."""
    return (n * x).sum(dim=-1, keepdim=True)
