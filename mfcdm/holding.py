"""The score of unknown particles beside given ones: conditioning of a trained model, without retraining.

Of a cloud x_0 the particles x_0^K are given and the others, x_0^U, are wanted. The forward process is free of
interaction, so x_t^K = alpha x_0^K + sigma noise is independent of x_t^U once x_0^K is known, and by Bayes

    grad_U log p(x_t^U | x_0^K) = s_U(x_t) + grad_U log p(x_0^K | x_t)            for every draw of x_t^K.

s_U alone is the replacement method: it knows the given particles only as well as x_t^K shows them. What it lacks is
taken from the Gaussian with the mean and the covariance of p(x_0^K | x_t), which Tweedie's formulas read off the score:

    mean x_hat = (x_t + sigma^2 s) / alpha,   covariance sigma^2 / alpha^2 V,   V = I + sigma^2 H,   H = ds/dx,
    grad_U log p(x_0^K | x_t) = alpha H_UK V_KK^(-1) (x_0^K - x_hat_K).

This is exact for Gaussian laws, and where particles do not interact it is 0. V_KK^(-1) is applied by conjugate
gradients, one vector-Jacobian product a direction; a few are enough, as V has one eigenvalue, or a narrow band, for
what every particle does on its own, and few others for what they do together.

Source of replacement: Lugmayr et al., RePaint (2022); of Tweedie's covariance: Boys et al., Tweedie moment projected
diffusions (2024).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mfcdm.checks import check_whole
from mfcdm.networks.parametrization import x_0_from_score
from mfcdm.randomness import Generators, standard_normal
from mfcdm.samplers import Score
from mfcdm.sde import SDE, per_cloud


@dataclass(frozen=True)
class Hold:
    """How given particles condition the others.

    Args:
        directions: conjugate directions of the correction, one vector-Jacobian product each; 0 leaves it out.
        floor: added to V as floor alpha^2 I, alpha^2 being V of independent data of variance 1: how far a network's
            covariance is trusted where it is almost singular.
        trust: bound of the correction: where (x_0^K - x_hat_K)^T Cov^(-1) (x_0^K - x_hat_K), M D on average, exceeds
            trust M D, the covariance is too small for what is given and grows to fit; infinite for no bound.
        resamplings: how often each stretch of `jump` nats is pushed back and run again, with fresh noise on the given
            particles; 0 runs through once.
        jump: length of a stretch in nats of log-SNR.
        until: log-SNR beyond which the correction is left out, as the noisy copies show the given particles themselves.
        share: given particles at a coarse level, over their share in proportion, >= 1.
        noise: of the given particles: "fresh" in every evaluation, or "kept" through a run of the sampler.

    Raises:
        ValueError: if a value is out of its range.
    """

    directions: int = 3
    floor: float = 0.02
    trust: float = 2.0
    resamplings: int = 0
    jump: float = 2.0
    until: float = math.inf
    share: float = 1.0
    noise: Literal["fresh", "kept"] = "fresh"

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        for name, count in (("directions", self.directions), ("resamplings", self.resamplings)):
            check_whole(name, count, 0)
        if not 0.0 <= self.floor < math.inf:
            raise ValueError(f"floor must be >= 0 and finite, got {self.floor}")
        if not self.trust > 0.0:
            raise ValueError(f"trust must be > 0, got {self.trust}")
        if not 0.0 < self.jump < math.inf:
            raise ValueError(f"jump must be > 0 nats and finite, got {self.jump}")
        if math.isnan(self.until):
            raise ValueError(f"until must be a log-SNR in nats, got {self.until}")
        if not 1.0 <= self.share < math.inf:
            raise ValueError(f"share must be >= 1 and finite, got {self.share}")
        if self.noise not in ("fresh", "kept"):
            raise ValueError(f"noise must be 'fresh' or 'kept', got {self.noise!r}")


class HeldScore:
    """score(x^U, t) of the unknown particles given the known ones, for any sampler.

    A correct score may be conditioned on any draw of x_t^K; as the correction is not exact for every law, fresh draws,
    whose errors average out along the path, come out better. A kept one makes x_t^K a smooth path, on which
    deterministic samplers are deterministic and of their order.

    Args:
        score: of the whole cloud; differentiable in x unless hold.directions is 0.
        sde: the forward process.
        given: (B, M, D) known particles x_0^K.
        hold: how they condition.
        generator: one for the batch, or one a cloud; for the noise of the known particles.
    """

    def __init__(self, score: Score, sde: SDE, given: Tensor, hold: Hold, generator: Generators = None) -> None:
        self.score, self.sde, self.given, self.hold, self.generator = score, sde, given, hold, generator
        self.noise: Tensor | None = None

    def __call__(self, x: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        """grad_U log p(x_t^U | x_0^K), (B, N - M, D).

        Args:
            x: (B, N - M, D) unknown particles at time t.
            t: (B,) times.
            lengths: None; all unknown particles are particles.

        Raises:
            ValueError: if lengths are given, or the score keeps no gradient where one is needed.
        """
        if lengths is not None:
            raise ValueError("a cloud with given particles takes no lengths: all its other rows are wanted")
        num_given = self.given.shape[1]
        if num_given == 0:
            return self.score(x, t)
        alpha, sigma = (per_cloud(coefficient(t.to(x)), x) for coefficient in (self.sde.alpha, self.sde.sigma))
        known = alpha * self.given + sigma * self._noise()
        cloud = torch.cat((known, x), dim=1).detach()
        # With the default `until` nothing is compared: a comparison would stall a GPU once an evaluation.
        over = self.hold.until < math.inf and bool((self.sde.log_snr(t) > self.hold.until).all())
        if self.hold.directions == 0 or over:
            return self.score(cloud, t)[:, num_given:]
        with torch.enable_grad():
            cloud.requires_grad_()
            s = self.score(cloud, t)
            s_known = s[:, :num_given]
        if not s.requires_grad:
            raise self._not_differentiable()
        return s[:, num_given:].detach() + self._correction(s_known, cloud, alpha, sigma)

    def _not_differentiable(self) -> ValueError:
        how = f"conditioning with directions={self.hold.directions}"
        return ValueError(f"{how} needs a score that is differentiable in x; directions=0 does without")

    def _noise(self) -> Tensor:
        """The noise of the known particles in this evaluation, (B, M, D)."""
        if self.noise is None or self.hold.noise == "fresh":
            given = self.given
            self.noise = standard_normal(given.shape, self.generator, dtype=given.dtype, device=given.device)
        return self.noise

    def _correction(self, s_known: Tensor, cloud: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """alpha H_UK V_KK^(-1) (x_0^K - x_hat_K), (B, N - M, D), by conjugate gradients in each cloud."""
        num_given = self.given.shape[1]
        residual = self.given - x_0_from_score(s_known, cloud[:, :num_given], alpha, sigma).detach()
        total = torch.zeros_like(cloud[:, num_given:])
        direction, square = residual, _dot(residual, residual)
        fit = torch.zeros_like(square)  # residual^T V^(-1) residual, from below
        for _ in range(self.hold.directions):
            # H is symmetric for a true score: the product with its transpose, which autograd has, is the one wanted.
            (product,) = torch.autograd.grad(s_known, cloud, direction, retain_graph=True, allow_unused=True)
            if product is None:
                raise self._not_differentiable()
            v = (1 + self.hold.floor * alpha**2) * direction + sigma**2 * product[:, :num_given]
            curvature = _dot(direction, v)
            # A cloud has arrived where nothing is left, and stops where a network's V is not a covariance.
            step = torch.where((curvature > 0) & (square > 0), square / curvature, 0.0)
            total, fit = total + step * product[:, num_given:], fit + step * square
            residual = residual - step * v
            before, square = square, _dot(residual, residual)
            direction = residual + torch.where(step > 0, square / before, 0.0) * direction
        evidence = alpha**2 / sigma**2 * fit / residual[0].numel()  # 1 on average, for a true score
        return alpha * total / (evidence / self.hold.trust).clamp_min(1)


def pushed(x: Tensor, s: float, t: float, sde: SDE, generator: Generators = None) -> Tensor:
    """Particles (B, N, D) moved from time s to a later time t by the forward kernel, with independent noise."""
    times = (torch.full((x.shape[0],), value, dtype=x.dtype, device=x.device) for value in (s, t))
    mean, std = sde.transition(x, *times)
    return mean + std[:, None, None] * standard_normal(x.shape, generator, dtype=x.dtype, device=x.device)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product a cloud, (B, 1, 1)."""
    return (x * y).sum(dim=(1, 2), keepdim=True)
