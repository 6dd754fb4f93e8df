"""Chaos diagnostics: does a system of N particles behave as N independent particles of its limit do?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mfcdm.randomness import check_lengths, standard_normal
from mfcdm.samplers.base import Score
from mfcdm.samplers.grids import time_grid
from mfcdm.sde import SDE


@dataclass(frozen=True)
class Gap:
    """How far a system of N particles is from the same particles among `ratio` N.

    Args:
        num_particles: N.
        gap: root mean square distance of a particle to itself in the larger system, at the end.
        spread: root mean square distance of two particles of the larger system, over sqrt(2): a scale for the gap.
    """

    num_particles: int
    gap: float
    spread: float


@torch.no_grad()
def coupled_gaps(
    score: Score,
    sde: SDE,
    x_0: Tensor,
    num_particles: Sequence[int],
    *,
    ratio: int = 64,
    t_start: float = 1.0,
    t_end: float | None = None,
    num_steps: int = 50,
    noise: float = 1.0,
    generator: torch.Generator | None = None,
) -> list[Gap]:
    """Propagation of chaos: N particles against the same N among ratio N, with shared noise, by N.

    Both systems start from the same forward noise of the same points and take the same Brownian increments in
    x <- x + (beta x / 2 + (1 + noise^2) beta s / 2) h + noise sqrt(beta h) xi, so their difference is the interaction's
    alone. If chaos propagates, the gap falls as N^(-1/2). Give clouds of one shape each and a t_start from which that
    shape is still known; from t = 1 two systems may become different shapes, which is no failure of chaos.

    Args:
        score: of an exact law (`law.as_score(sde)`) or a network (`as_score`).
        sde: the forward process.
        x_0: (B, M, D) clouds, M >= ratio * max(num_particles); the first N points are the small system's.
        num_particles: the Ns.
        ratio: of the two systems' sizes, >= 2.
        t_start: where the systems begin.
        t_end: where they are compared; None for sde.t_min.
        num_steps: equal in log-SNR.
        noise: 1 for the reverse SDE, 0 for the probability flow.
        generator: draws all noise.

    Returns:
        One gap for each N.

    Raises:
        ValueError: if there are too few points, or a number is out of range.
    """
    if ratio < 2 or num_steps < 1 or not num_particles or min(num_particles) < 1:
        raise ValueError(f"ratio >= 2, num_steps >= 1 and N >= 1 are needed, got {ratio}, {num_steps}, {num_particles}")
    if x_0.ndim != 3 or x_0.shape[1] < ratio * max(num_particles):
        raise ValueError(
            f"x_0 must be (B, M, D) with M >= {ratio * max(num_particles)}, {ratio} times the largest N, "
            f"but has shape {tuple(x_0.shape)}"
        )
    times = time_grid(sde, t_start, sde.t_min if t_end is None else t_end, num_steps)
    gaps = []
    for count in num_particles:
        start = x_0[:, : ratio * count]
        mean, std = sde.marginal(start, times[:1].to(start).expand(len(start)))
        large = mean + std[:, None, None] * standard_normal(start.shape, generator, dtype=x_0.dtype, device=x_0.device)
        small = large[:, :count]
        for t, t_next in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
            xi = standard_normal(start.shape, generator, dtype=x_0.dtype, device=x_0.device)
            large = _reverse_step(score, sde, large, t, t - t_next, noise, xi)
            small = _reverse_step(score, sde, small, t, t - t_next, noise, xi[:, :count])
        gap = (small - large[:, :count]).square().sum(dim=-1).mean().sqrt()
        spread = large.var(dim=1).sum(dim=-1).mean().sqrt()
        gaps.append(Gap(count, float(gap), float(spread)))
    return gaps


def _reverse_step(score: Score, sde: SDE, x: Tensor, t: float, h: float, noise: float, xi: Tensor) -> Tensor:
    time = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
    beta = sde.beta(time)[:, None, None]
    drift = beta * x / 2 + (1 + noise**2) * beta * score(x, time) / 2
    return x + drift * h + noise * (beta * h).sqrt() * xi


@torch.no_grad()
def pair_correlation(x: Tensor, shape: Tensor | None = None, lengths: Tensor | None = None) -> float:
    """Correlation of two different particles of a cloud, given the cloud's shape (0 where chaos is perfect).

    rho = Cov(x_i, x_j | shape) / Var(x_i | shape), summed over coordinates, by the analysis of variance over clouds of
    one shape: rho = (M_b - M_w) / (M_b + (N - 1) M_w) with mean squares between and within clouds. Without the
    shape all particles of a cloud are correlated by what they form together, chaos or not.

    Args:
        x: (B, N, D) clouds.
        shape: (B,) whole numbers, the shape that each cloud is of; None where all are of one.
        lengths: (B,) particles that each cloud owns, all of one number: padding may be NaN.

    Returns:
        A number in [-1 / (N - 1), 1]; sampling alone scatters it by sqrt(2 / (D (B - 1))) / N or so.

    Raises:
        ValueError: if no shape has two clouds, clouds have fewer than two particles or different numbers of them, or
            they all coincide.
    """
    if lengths is not None:
        check_lengths(lengths, len(x), x.shape[1])
        if len(set(lengths.tolist())) > 1:
            raise ValueError(f"clouds of one cardinality are needed, got {sorted(set(lengths.tolist()))}")
        x = x[:, : int(lengths[0])]
    num_particles = x.shape[1]
    if num_particles < 2:
        raise ValueError(f"a pair needs two particles, got clouds of {num_particles}")
    shape = torch.zeros(len(x), dtype=torch.int64, device=x.device) if shape is None else shape
    groups = [x[shape == one].double() for one in shape.unique()]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        raise ValueError("at least two clouds of one shape are needed")
    between = within = 0.0
    for group in groups:
        centers = group.mean(dim=1)
        between += num_particles * float((centers - centers.mean(dim=0)).square().sum())
        within += float((group - centers[:, None]).square().sum())
    clouds = sum(len(group) for group in groups)
    between /= clouds - len(groups)
    within /= clouds * (num_particles - 1)
    if between + within == 0:
        raise ValueError("all particles coincide, so their correlation is not defined")
    return (between - within) / (between + (num_particles - 1) * within)


@dataclass(frozen=True)
class ScoreError:
    """Error of a score at one cardinality and noise.

    Args:
        num_particles: N.
        log_snr: log(alpha^2 / sigma^2) in nats.
        relative: E |s - s*|^2 / E |s*|^2.
        noise_error: E sigma^2 |s - s*|^2 / D, the mean square error of the noise prediction.
    """

    num_particles: int
    log_snr: float
    relative: float
    noise_error: float


class ExactLaw(Protocol):
    """A law of `mfcdm.analytic`."""

    def sample(self, num_clouds: int, num_particles: int, generator: torch.Generator | None = None) -> Tensor: ...  # noqa: D102

    def score(self, x: Tensor, t: Tensor, sde: SDE, lengths: Tensor | None = None) -> Tensor: ...  # noqa: D102


@torch.no_grad()
def score_errors(
    score: Score,
    law: ExactLaw,
    sde: SDE,
    num_particles: Sequence[int],
    log_snrs: Sequence[float],
    *,
    num_clouds: int = 16,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> list[ScoreError]:
    """Mean square error of a score against the exact N-particle score, by cardinality and noise.

    Args:
        score: as the samplers take it.
        law: one of `mfcdm.analytic`, whose data the score was learned from.
        sde: the forward process.
        num_particles: the Ns.
        log_snrs: in nats; 0 is where data and noise are equally large.
        num_clouds: clouds a row.
        generator: draws clouds and noise.
        device: of the score.

    Returns:
        One row for each N and noise, cardinality first.

    Raises:
        ValueError: if a log-SNR is not reached by the process, or a number is out of range.
    """
    if num_clouds < 1 or not num_particles or min(num_particles) < 1:
        raise ValueError(f"at least one cloud and one particle are needed, got {num_clouds} and {list(num_particles)}")
    rows = []
    for count in num_particles:
        x_0 = law.sample(num_clouds, count, generator).to(device)
        for log_snr in log_snrs:
            t = sde.time_of_log_snr(torch.tensor([log_snr], dtype=torch.float64)).to(x_0).expand(num_clouds)
            if not math.isclose(float(sde.log_snr(t)[0]), log_snr, rel_tol=1e-3, abs_tol=1e-3):
                raise ValueError(f"the process does not reach a log-SNR of {log_snr}")
            mean, std = sde.marginal(x_0, t)
            x = mean + std[:, None, None] * standard_normal(x_0.shape, generator, dtype=x_0.dtype, device=device)
            exact = law.score(x, t, sde)
            square = (score(x, t) - exact).square().sum(dim=-1).mean()
            noise_error = float(square * std[0] ** 2) / x.shape[2]
            rows.append(ScoreError(count, log_snr, float(square / exact.square().sum(dim=-1).mean()), noise_error))
    return rows
