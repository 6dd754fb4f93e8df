"""Mean-field score matching on a subdivision of time.

    J(theta; N, t) = E 1/N sum_i || s(t, x_{t,i}, nu_t^N) + noise_i / sigma(t) ||^2 lambda(t),    J = sum_k w_k J_k,

where J_k averages over t in (tau_{k+1}, tau_k], extended to the time that branching pushes back to, with N_k particles,
and lambda makes it the mean square error of the network's own prediction, v or noise. One call draws one level, with
probability w_k, and N_k points of every cloud without replacement: most steps touch few particles.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mfcdm.branching import Renoise
from mfcdm.networks.parametrization import noise_from_output, prediction_of, target
from mfcdm.randomness import Generators, Rows, check_lengths, random_subset, standard_normal, uniform
from mfcdm.sde import SDE, per_cloud
from mfcdm.subdivision import LevelWeights, Subdivision

Network = Callable[..., Tensor]


@dataclass(frozen=True)
class Draw:
    """One training batch: what the network sees and what it should say."""

    level: int
    t: Tensor  # (B,)
    x_0: Tensor  # (B, N_k, D), 0 on padding
    noise: Tensor  # (B, N_k, D), 0 on padding
    x_t: Tensor  # (B, N_k, D), 0 on padding
    alpha: Tensor  # (B, 1, 1)
    sigma: Tensor  # (B, 1, 1)
    lengths: Tensor | None  # (B,)

    def __getitem__(self, rows: slice) -> "Draw":
        """Some of the clouds."""
        some: dict[str, Any] = {name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **some)


@dataclass(frozen=True)
class Loss:
    """The loss of one batch and where it comes from."""

    total: Tensor  # scalar, with gradient
    score_matching: Tensor  # (B,) mean square error a cloud, without gradient
    jacobian: Tensor | None  # (B,), without gradient
    level: int
    t: Tensor  # (B,)


class MeanFieldScoreMatching:
    """The training objective.

    Args:
        sde: the forward process.
        subdivision: cardinalities and times of the levels.
        jacobian_weight: weight of the second-order term (`jacobian_error`); 0 leaves it out.
        level_weights: w_k, "uniform", "cost" or "bound"; see `Subdivision.level_weights`.
        push: how far branching will push back, in nats of log-SNR; a level trains up to the pushed time.
        jacobian_step: step of the central difference, in units of sigma(t).
        label_dropout: probability that a cloud's label is hidden from a network with classes, so that it also learns
            the score without one, which classifier-free guidance needs.
        pushed_share: share of a level's draws with t above tau_k, which only branching's push needs and the level
            before trains too, in [0, 1); None for that of the interval, uniform in t, 58 to 81 % of the default levels.

    Raises:
        ValueError: if a weight or a probability is out of its range, or the subdivision does not fit the SDE's t_min.
    """

    def __init__(
        self,
        sde: SDE,
        subdivision: Subdivision,
        jacobian_weight: float = 0.0,
        *,
        level_weights: LevelWeights = "uniform",
        push: float = Renoise.push,
        jacobian_step: float = 1e-2,
        label_dropout: float = 0.1,
        pushed_share: float | None = None,
    ) -> None:
        if not 0.0 <= jacobian_weight < math.inf:
            raise ValueError(f"jacobian_weight must be >= 0 and finite, got {jacobian_weight}")
        if not 0.0 < jacobian_step < 1.0:
            raise ValueError(f"jacobian_step must lie in (0, 1), got {jacobian_step}")
        if not 0.0 <= label_dropout < 1.0:
            raise ValueError(f"label_dropout must lie in [0, 1), or no class is ever learned, got {label_dropout}")
        if pushed_share is not None and not 0.0 <= pushed_share < 1.0:
            raise ValueError(f"pushed_share must lie in [0, 1), or be None for all alike, got {pushed_share}")
        self.sde, self.subdivision, self.pushed_share = sde, subdivision, pushed_share
        self.jacobian_weight, self.jacobian_step, self.label_dropout = jacobian_weight, jacobian_step, label_dropout
        self.level_weights = torch.tensor(subdivision.level_weights(level_weights), dtype=torch.float64)
        pushed_time = Renoise(push).pushed_time
        ends = [subdivision.interval(k, sde.t_min) for k in range(subdivision.num_levels)]
        self.intervals = [(end, pushed_time(start, sde)) for end, start in ends]

    def __call__(
        self,
        network: Network,
        x_0: Tensor,
        lengths: Tensor | None = None,
        label: Tensor | None = None,
        generator: Generators = None,
    ) -> Tensor:
        """Draw a level, times and noise, and return the loss.

        Args:
            network: network(x, t, lengths=..., label=...) -> v or noise, as its attribute `prediction` says.
            x_0: (B, N, D) normalised data, N at least the largest cardinality of the subdivision.
            lengths: (B,) int64 points that each cloud owns; a cloud with fewer than a level's cardinality gives all.
            label: (B,) int64 classes, -1 for none; None for none at all.
            generator: of all draws.

        Returns:
            scalar.

        Raises:
            ValueError: if shapes do not fit, or clouds without `lengths` hold fewer points than the largest level.
        """
        return self.loss(network, self.draw(x_0, lengths, generator), label, generator).total

    def draw(
        self,
        x_0: Tensor,
        lengths: Tensor | None = None,
        generator: Generators = None,
        *,
        level: int | None = None,
        t: Tensor | None = None,
    ) -> Draw:
        """Draw one batch; `level` and `t` (B,) fix what would otherwise be drawn. Arguments as in `__call__`."""
        if x_0.ndim != 3 or not x_0.is_floating_point() or 0 in x_0.shape:
            raise ValueError(f"clouds must be floating (B, N, D), none of them 0, got {x_0.dtype} {tuple(x_0.shape)}")
        if lengths is not None:
            check_lengths(lengths, *x_0.shape[:2])
        largest = self.subdivision.cardinalities[-1]
        if lengths is None and x_0.shape[1] < largest:
            raise ValueError(
                f"a level of {largest} particles cannot be drawn from clouds of {x_0.shape[1]} points; "
                f"give clouds of at least {largest}, or lower the subdivision's cardinalities"
            )
        if level is not None and level not in range(self.subdivision.num_levels):
            raise ValueError(f"level must be from 0 to {self.subdivision.num_levels - 1}, got {level}")
        if t is not None and t.shape != x_0.shape[:1]:
            raise ValueError(f"times must be ({len(x_0)},), got {tuple(t.shape)}")
        level = self._draw_level(generator) if level is None else level
        x_0, lengths = self._subsample(x_0, lengths, self.subdivision.cardinalities[level], generator)
        t = self._draw_times(level, x_0, generator) if t is None else t.to(x_0)
        noise = standard_normal(x_0.shape, generator, lengths=lengths, dtype=x_0.dtype, device=x_0.device)
        if lengths is not None:
            own = torch.arange(x_0.shape[1], device=x_0.device)[None, :, None] < lengths[:, None, None]
            x_0, noise = torch.where(own, x_0, 0), torch.where(own, noise, 0)
        alpha, sigma = per_cloud(self.sde.alpha(t), x_0), per_cloud(self.sde.sigma(t), x_0)
        return Draw(level, t, x_0, noise, alpha * x_0 + sigma * noise, alpha, sigma, lengths)

    def loss(self, network: Network, draw: Draw, label: Tensor | None = None, generator: Generators = None) -> Loss:
        """The loss of a batch: mean over its clouds of the error a coordinate, plus the weighted Jacobian error."""
        prediction = prediction_of(network)
        label = self._hidden_at_random(network, label, generator)
        output = network(draw.x_t, draw.t, lengths=draw.lengths, label=label)
        error = output - target(prediction, draw.x_0, draw.noise, draw.alpha, draw.sigma)
        score_matching = _mean_square(error, draw.lengths)  # (B,)
        total, jacobian = score_matching.mean(), None
        if self.jacobian_weight > 0:
            jacobian = self.jacobian_error(network, draw, output, label, generator)
            total = total + self.jacobian_weight * jacobian.mean()
            jacobian = jacobian.detach()
        return Loss(total, score_matching.detach(), jacobian, draw.level, draw.t)

    def jacobian_error(
        self, network: Network, draw: Draw, output: Tensor, label: Tensor | None = None, generator: Generators = None
    ) -> Tensor:
        """Second-order denoising error of the score's Jacobian along a random direction u.

        || (grad s) u + s (s . u) - (noise (noise . u) - u) / sigma^2 ||^2 sigma^4, a mean over the coordinates, where
        u is N(0, 1) on a random tenth of the rows (at least one particle) and 0 on the others, and is divided by the
        square root of their number. The expectation of (noise noise^T - I) / sigma^2 given x_t is grad s + s s^T, so
        the true score is its minimiser, unlike that of || grad s + I / sigma^2 ||. s (s . u) carries no gradient, and
        (grad s) u is a central difference, so that no layer needs a second derivative.

        Args:
            network: as in `__call__`.
            draw: the batch.
            output: (B, N, D) the network's prediction at draw.x_t.
            label: (B,) or None.
            generator: draws u.

        Returns:
            (B,).

        Source: Meng et al., Estimating high order gradients of the data distribution by denoising (2021), theorem 1.
        """
        u = self._direction(draw, generator)

        def predicted_noise(x: Tensor, output: Tensor) -> Tensor:
            return noise_from_output(prediction_of(network), output, x, draw.alpha, draw.sigma)

        # Everything in units of 1 / sigma^2: s = -eps / sigma, so sigma^2 (grad s) u = -sigma (grad eps) u.
        shift = self.jacobian_step * draw.sigma * u
        ahead, behind = (
            predicted_noise(x, network(x, draw.t, lengths=draw.lengths, label=label))
            for x in (draw.x_t + shift, draw.x_t - shift)
        )
        jacobian_u = -(ahead - behind) / (2 * self.jacobian_step)
        eps = predicted_noise(draw.x_t, output).detach()
        return _mean_square(jacobian_u + eps * _inner(eps, u) - (draw.noise * _inner(draw.noise, u) - u), draw.lengths)

    def _hidden_at_random(self, network: Network, label: Tensor | None, generator: Generators) -> Tensor | None:
        """Labels (B,), each -1 with probability `label_dropout`; nothing is drawn where there is none to hide.

        Source: Ho & Salimans, Classifier-free diffusion guidance (2022), algorithm 1.
        """
        if label is None or self.label_dropout == 0 or not getattr(network, "num_classes", 0):
            return label
        hidden = uniform(label.shape, generator, dtype=torch.float64, device=label.device) < self.label_dropout
        return label.masked_fill(hidden, -1)

    def _direction(self, draw: Draw, generator: Generators) -> Tensor:
        """u of `jacobian_error`, (B, N, D)."""
        num_clouds, num_particles, _ = draw.x_t.shape
        size = -(-num_particles // 10)
        moved = random_subset(
            size, num_clouds, num_particles, generator, lengths=draw.lengths, device=draw.x_t.device
        )  # (B, size)
        gaussian = standard_normal(
            draw.x_t.shape, generator, lengths=draw.lengths, dtype=draw.x_t.dtype, device=draw.x_t.device
        )
        chosen = torch.zeros_like(gaussian).scatter(1, moved[..., None].expand(-1, -1, gaussian.shape[2]), 1.0)
        if draw.lengths is not None:
            chosen = chosen * (torch.arange(num_particles, device=chosen.device) < draw.lengths[:, None])[..., None]
        return chosen * gaussian / chosen[..., :1].sum(dim=1, keepdim=True).clamp_min(1).sqrt()

    def _draw_level(self, generator: Generators) -> int:
        level = int(torch.searchsorted(self.level_weights.cumsum(0), _one_uniform(generator), right=True))
        return min(level, len(self.level_weights) - 1)  # the sum of the weights may round below the number drawn

    def _draw_times(self, level: int, x_0: Tensor, generator: Generators) -> Tensor:
        """A time for each cloud, uniform in either part of the level's interval.

        They are evenly spread over the batch: less variance, no bias.
        """
        (end, start), tau = self.intervals[level], self.subdivision.times[level]
        count = x_0.shape[0]
        first, size = (generator.first, generator.batch_size) if isinstance(generator, Rows) else (0, count)
        share = (_one_uniform(generator) + torch.arange(first, first + count, dtype=torch.float64) / size) % 1.0
        pushed = (start - tau) / (start - end)
        if self.pushed_share is not None and start > tau:
            pushed = self.pushed_share
        t = np.interp(share, (0.0, pushed, 1.0), (start, tau, end))  # share < 1, so the end itself is never drawn
        return torch.from_numpy(t).to(x_0)

    @staticmethod
    def _subsample(
        x_0: Tensor, lengths: Tensor | None, size: int, generator: Generators
    ) -> tuple[Tensor, Tensor | None]:
        """`size` points of every cloud without replacement, with the new lengths where a cloud has fewer."""
        num_clouds, num_points, dim = x_0.shape
        if lengths is not None:
            lengths = lengths.to(x_0.device)
        elif num_points == size:
            return x_0, None
        kept = random_subset(
            min(size, num_points), num_clouds, num_points, generator, lengths=lengths, device=x_0.device
        )
        x_0 = x_0.gather(1, kept[..., None].expand(-1, -1, dim))
        if lengths is None:
            return x_0, None
        shorter = lengths.clamp_max(x_0.shape[1])
        return x_0, shorter


def _one_uniform(generator: Generators) -> float:
    """One number for the whole batch, from the first generator where there is one a cloud."""
    one = generator if generator is None or isinstance(generator, torch.Generator) else generator[0]
    return float(uniform((1,), one, dtype=torch.float64))


def _inner(x: Tensor, u: Tensor) -> Tensor:
    """x . u over the whole cloud, (B, 1, 1)."""
    return (x * u).sum(dim=(1, 2), keepdim=True)


def _mean_square(error: Tensor, lengths: Tensor | None) -> Tensor:
    """Mean square over a cloud's own particles and coordinates, (B,); error is 0 on padding."""
    if lengths is None:
        return error.square().mean(dim=(1, 2))
    own = torch.arange(error.shape[1], device=error.device) < lengths[:, None]
    error = torch.where(own[..., None], error, 0)
    return error.square().sum(dim=(1, 2)) / (lengths.clamp_min(1) * error.shape[2])
