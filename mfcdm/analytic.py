"""Exact laws of N-particle systems: at every cardinality and time, samples, densities and scores in closed form.

They are what tests, demonstrations and benchmarks compare with. Under x_t = alpha x_0 + sigma noise a Gaussian of mean
m and covariance S becomes one of mean alpha m and covariance alpha^2 S + sigma^2 I, and that is all that is used.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mfcdm.randomness import Generators, standard_normal, uniform
from mfcdm.sde import SDE, per_cloud


class Law(ABC):
    """The law of a cloud x_0 of any number N of particles, known exactly."""

    dim: int

    @abstractmethod
    def sample(
        self, num_clouds: int, num_particles: int, generator: Generators = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw clouds x_0, (B, N, D), on the CPU."""

    @abstractmethod
    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor, own: Tensor) -> Tensor:
        """Log-density of alpha x_0 + sigma noise at x; alpha, sigma (B, 1, 1), own (B, N, 1) bool -> (B,)."""

    @abstractmethod
    def _score(self, x: Tensor, alpha: Tensor, sigma: Tensor, own: Tensor) -> Tensor:
        """Gradient of `_log_prob` in x, (B, N, D); x is 0 on padding."""

    def log_prob(self, x: Tensor, t: Tensor | None = None, sde: SDE | None = None) -> Tensor:
        """Log-density of the whole cloud, in nats, at time t under `sde` or of the data itself.

        Args:
            x: (B, N, D).
            t: (B,) times; None for the law of the data, which has no density where a component has no spread.
            sde: needed with t.

        Returns:
            (B,).

        Raises:
            ValueError: if only one of t and sde is given, or x has another dimension.
        """
        if (t is None) != (sde is None):
            raise ValueError("log_prob takes t and sde together, or neither")
        self._check(x)
        if t is None or sde is None:
            one = torch.ones((1, 1, 1), dtype=x.dtype, device=x.device)
            return self._log_prob(x, one, 0 * one, _own(x, None))
        t = t.to(x)
        return self._log_prob(x, per_cloud(sde.alpha(t), x), per_cloud(sde.sigma(t), x), _own(x, None))

    def score(self, x: Tensor, t: Tensor, sde: SDE, lengths: Tensor | None = None) -> Tensor:
        """Exact score of the N-particle system at time t: gradient of log_prob(x, t, sde) in x.

        Args:
            x: (B, N, D).
            t: (B,) times.
            sde: the forward process.
            lengths: (B,) particles that each cloud owns; the system of cloud b has lengths[b] particles.

        Returns:
            (B, N, D), 0 on padding.

        Raises:
            ValueError: if x has another dimension.
        """
        self._check(x)
        own = _own(x, lengths)
        x = torch.where(own, x, torch.zeros((), dtype=x.dtype, device=x.device))
        t = t.to(x)
        return self._score(x, per_cloud(sde.alpha(t), x), per_cloud(sde.sigma(t), x), own) * own

    def as_score(self, sde: SDE) -> Callable[..., Tensor]:
        """score(x, t, lengths=None) -> (B, N, D) under `sde`, as the samplers take it."""

        def score(x: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
            return self.score(x, t, sde, lengths)

        return score

    def _check(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[2] != self.dim:
            raise ValueError(f"clouds of this law are (B, N, {self.dim}), got {tuple(x.shape)}")


class GaussianMixture(Law):
    """Points i.i.d. from one Gaussian mixture: no interaction.

    p(x) = prod_i sum_k w_k N(x_i; m_k, s_k^2 I).

    Args:
        means: (K, D).
        stds: (K,) or one number, >= 0.
        weights: (K,) > 0, normalised here; default equal.

    Raises:
        ValueError: if the shapes do not fit or a value is out of range.
    """

    def __init__(
        self,
        means: Tensor | Sequence[Sequence[float]],
        stds: Tensor | Sequence[float] | float = 0.1,
        weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        self.means = torch.as_tensor(means, dtype=torch.float64)
        if self.means.ndim != 2:
            raise ValueError(f"means must be (K, D), got {tuple(self.means.shape)}")
        num_components, self.dim = self.means.shape
        self.stds = torch.as_tensor(stds, dtype=torch.float64)
        self.stds = self.stds.expand(num_components) if self.stds.ndim == 0 else self.stds
        weights = torch.ones(num_components) if weights is None else weights
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        if self.stds.shape != (num_components,) or self.weights.shape != (num_components,):
            raise ValueError(
                f"stds and weights must be ({num_components},), "
                f"got {tuple(self.stds.shape)} and {tuple(self.weights.shape)}"
            )
        if not (bool((self.stds >= 0).all()) and bool((self.weights > 0).all())):
            raise ValueError(f"stds >= 0 and weights > 0 are needed, got {self.stds.tolist()}, {self.weights.tolist()}")
        self.weights = self.weights / self.weights.sum()

    def sample(
        self, num_clouds: int, num_particles: int, generator: Generators = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw clouds (B, N, D)."""
        shape = (num_clouds, num_particles)
        k = torch.searchsorted(self.weights.cumsum(0), uniform(shape, generator, dtype=torch.float64))
        k = k.clamp_max(len(self.weights) - 1)  # the sum of the weights may round below a uniform number
        x = self.means[k] + self.stds[k][..., None] * standard_normal(
            (*shape, self.dim), generator, dtype=torch.float64
        )
        return x.to(dtype or torch.get_default_dtype())

    def _components(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log(w_k N(x_i; alpha m_k, v_k I)) (B, N, K), alpha m_k (B, K, D) and v_k (B, 1, K)."""
        means = alpha * self.means.to(x)  # (B, K, D)
        variance = (alpha * self.stds.to(x)) ** 2 + sigma**2  # (B, 1, K)
        square = (x[:, :, None, :] - means[:, None, :, :]).square().sum(dim=-1)  # (B, N, K)
        log_density = -0.5 * square / variance - 0.5 * self.dim * (2 * math.pi * variance).log()
        return self.weights.to(x).log() + log_density, means, variance

    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor, own: Tensor) -> Tensor:
        return (self._components(x, alpha, sigma)[0].logsumexp(dim=-1) * own[..., 0]).sum(dim=1)

    def _score(self, x: Tensor, alpha: Tensor, sigma: Tensor, own: Tensor) -> Tensor:
        log_terms, means, variance = self._components(x, alpha, sigma)
        share = log_terms.softmax(dim=-1) / variance  # (B, N, K)
        return share @ means - share.sum(dim=-1, keepdim=True) * x


class ExchangeableGaussian(Law):
    """Gaussian system with Cov(x_i, x_j) = (a delta_ij + c / N) I and mean 0: the simplest interaction.

    With a_t = alpha^2 a + sigma^2 and c_t = alpha^2 c its score is linear and exactly of the form A + B:
    s_i = -x_i / a_t + c_t / (a_t (a_t + c_t)) mean(x), as the common shift is the only direction of variance a_t + c_t.

    Args:
        a: variance of a particle around the common shift, > 0.
        c: N times the variance of the common shift, > -a.
        dim: D.

    Raises:
        ValueError: if the covariance is not positive.
    """

    def __init__(self, a: float = 1.0, c: float = 1.0, dim: int = 3) -> None:
        if not (a > 0 and a + c > 0 and dim >= 1):
            raise ValueError(f"a > 0, a + c > 0 and dim >= 1 are needed, got a={a}, c={c}, dim={dim}")
        self.a, self.c, self.dim = float(a), float(c), int(dim)

    def sample(
        self, num_clouds: int, num_particles: int, generator: Generators = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw clouds (B, N, D): the mean of white noise is rescaled from variance a / N to (a + c) / N."""
        x = standard_normal((num_clouds, num_particles, self.dim), generator, dtype=torch.float64)
        stretch = math.sqrt(self.a + self.c) - math.sqrt(self.a)
        return (math.sqrt(self.a) * x + stretch * x.mean(dim=1, keepdim=True)).to(dtype or torch.get_default_dtype())

    def coefficients(self, t: Tensor, sde: SDE) -> tuple[Tensor, Tensor]:
        """(A, B) of the score A x_i + B mean(x) at time t, each like t."""
        a_t = sde.alpha(t) ** 2 * self.a + sde.sigma(t) ** 2
        c_t = sde.alpha(t) ** 2 * self.c
        return -1 / a_t, c_t / (a_t * (a_t + c_t))

    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor, own: Tensor) -> Tensor:
        a_t, c_t = alpha**2 * self.a + sigma**2, alpha**2 * self.c  # (B, 1, 1)
        count = own.sum(dim=1, keepdim=True).to(x)  # (B, 1, 1)
        mean = (x * own).sum(dim=1, keepdim=True) / count.clamp_min(1)
        square = ((x - mean).square() * own).sum(dim=1, keepdim=True) / a_t + count * mean.square() / (a_t + c_t)
        log_det = (count - 1) * a_t.log() + (a_t + c_t).log() + count * math.log(2 * math.pi)
        return -0.5 * (square + log_det).sum(dim=(1, 2))

    def _score(self, x: Tensor, alpha: Tensor, sigma: Tensor, own: Tensor) -> Tensor:
        a_t, c_t = alpha**2 * self.a + sigma**2, alpha**2 * self.c
        mean = x.sum(dim=1, keepdim=True) / own.sum(dim=1, keepdim=True).clamp_min(1)  # x is 0 on padding
        return -x / a_t + c_t / (a_t * (a_t + c_t)) * mean


class ShapeMixture(Law):
    """A shape z is drawn, then points i.i.d. from that shape's mixture: an interaction through the measure and N.

    p(x) = sum_z w_z prod_i p_z(x_i),    s_i = sum_z p(z | x) s_z(x_i).

    The posterior p(z | x) reads the whole cloud, and saturates as N alpha^2 grows: many noisy points betray the shape.

    Args:
        shapes: one GaussianMixture a shape, all of one dimension.
        weights: (Z,) > 0, normalised here; default equal.

    Raises:
        ValueError: if there is no shape, or they do not fit together.
    """

    def __init__(self, shapes: Sequence[GaussianMixture], weights: Tensor | Sequence[float] | None = None) -> None:
        self.shapes = tuple(shapes)
        if not self.shapes or len({shape.dim for shape in self.shapes}) != 1:
            raise ValueError(f"shapes of one dimension are needed, got {[shape.dim for shape in self.shapes]}")
        self.dim = self.shapes[0].dim
        weights = torch.ones(len(self.shapes)) if weights is None else weights
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        if self.weights.shape != (len(self.shapes),) or not bool((self.weights > 0).all()):
            raise ValueError(f"weights must be {len(self.shapes)} positive numbers, got {self.weights.tolist()}")
        self.weights = self.weights / self.weights.sum()

    def sample(
        self, num_clouds: int, num_particles: int, generator: Generators = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw clouds (B, N, D)."""
        z = torch.searchsorted(self.weights.cumsum(0), uniform((num_clouds, 1), generator, dtype=torch.float64)[:, 0])
        z = z.clamp_max(len(self.shapes) - 1)
        all_shapes = torch.stack([shape.sample(num_clouds, num_particles, generator, dtype) for shape in self.shapes])
        return all_shapes[z, torch.arange(num_clouds)]

    def log_joint(self, x: Tensor, alpha: Tensor, sigma: Tensor, own: Tensor) -> Tensor:
        """log p(z, x), (B, Z). In float64: the sum over N points exceeds float32's digits."""
        x, alpha, sigma = x.double(), alpha.double(), sigma.double()
        terms = [shape._log_prob(x, alpha, sigma, own) for shape in self.shapes]
        return torch.stack(terms, dim=-1) + self.weights.to(x).log()

    def _log_prob(self, x: Tensor, alpha: Tensor, sigma: Tensor, own: Tensor) -> Tensor:
        return self.log_joint(x, alpha, sigma, own).logsumexp(dim=-1).to(x.dtype)

    def _score(self, x: Tensor, alpha: Tensor, sigma: Tensor, own: Tensor) -> Tensor:
        posterior = self.log_joint(x, alpha, sigma, own).softmax(dim=-1).to(x.dtype)  # (B, Z)
        scores = torch.stack([shape._score(x, alpha, sigma, own) for shape in self.shapes], dim=1)  # (B, Z, N, D)
        return torch.einsum("bz,bznd->bnd", posterior, scores)


def _own(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, N, 1) bool: which rows are particles."""
    row = torch.arange(x.shape[1], device=x.device)[None, :, None]
    if lengths is None:
        return (row >= 0).expand(x.shape[0], -1, -1)
    return row < lengths.to(x.device)[:, None, None]
