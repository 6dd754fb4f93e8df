"""Likelihood of a cloud under the probability flow, and the relative entropy per particle of two laws of N particles.

Along dx/dt = v(x, t) = -1/2 beta (x + s) the density of N particles obeys d log p / dt = -div v. With the log-SNR l in
place of time, dl = -beta / sigma^2 dt, both sides are of the size of the data at every noise:

    dx/dl = 1/2 sigma^2 (x + s),    log p_t(x_t) = log N(x_1; 0, I) + int_{l(t)}^{l(1)} 1/2 sigma^2 (N D + div s) dl.

N(0, I) differs from the law of x_1 by alpha(1) of signal: nats per point are off by 1/2 alpha(1)^2 |x_0|^2 on average
and scatter by alpha(1) |x_0| / sqrt(N), both about 0.0002 at 1,024 points with alpha(1) = 1/148.
Source: Song et al., Score-based generative modeling through stochastic differential equations (2021), section 4.3.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from mfcdm.checks import check_whole
from mfcdm.randomness import Generators, check_lengths
from mfcdm.samplers import Score
from mfcdm.sde import SDE

Divergence = Literal["rademacher", "axes", "exact"]
Method = Literal["RK45", "DOP853"]


@dataclass(frozen=True)
class Likelihood:
    """Log-densities of clouds, in nats.

    Args:
        log_likelihood: (B,) log p_t of each whole cloud.
        per_point: (B,) the same over the cloud's number of particles.
        standard_error: (B,) of per_point, over the probes; 0 for the exact divergence, infinite for a single probe.
        evaluations: (B,) int64 evaluations of the score.
        x_1: (B, N, D) the noise that the flow leads to, 0 on padding.
    """

    log_likelihood: Tensor
    per_point: Tensor
    standard_error: Tensor
    evaluations: Tensor
    x_1: Tensor


class Estimate(NamedTuple):
    """A mean over clouds and its standard error."""

    value: float
    standard_error: float


def log_likelihood(
    score: Score,
    sde: SDE,
    x: Tensor,
    *,
    t: float | None = None,
    lengths: Tensor | None = None,
    generator: Generators = None,
    divergence: Divergence = "rademacher",
    num_probes: int = 4,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: Method = "RK45",
) -> Likelihood:
    """Log-density of clouds at time t under the law that the score's probability flow makes of N(0, I).

    div s = tr ds/dx is estimated by Hutchinson's e^T (ds/dx) e, with probes e that are held fixed along the path, so
    that the integrand is smooth. Every cloud is integrated on its own, with steps of its own and random numbers of its
    own generator, so its likelihood does not depend on the batch.

    Args:
        score: score(x, t, lengths=None), differentiable in x; called with one cloud (1, N_b, D) at a time.
        sde: the forward process.
        x: (B, N, D) clouds at time t. Data are first brought there, by `sde.marginal(x_0, t)`.
        t: their time, in (0, 1); None for sde.t_min.
        lengths: (B,) int64 particles that each cloud owns, None for all.
        generator: one for the batch, or one a cloud; for the probes.
        divergence: "rademacher": random signs, one vector-Jacobian product a probe; "axes": one sign a particle and
            axis, D products a probe, which leaves no variance from within a particle's D x D block; "exact": N D
            products, for small clouds.
        num_probes: >= 1; their spread gives the standard error.
        rtol: relative tolerance of a step, for the root mean square of all coordinates and for the nats per point.
        atol: absolute tolerance, alike. In float32, tolerances below 1e-6 only cost evaluations.
        method: "RK45" or "DOP853", explicit Runge-Kutta rules of order 5 and 8 of `scipy.integrate.solve_ivp`.

    Returns:
        a `Likelihood`, on x's device, in x's dtype.

    Raises:
        ValueError: if an argument is out of its range, a cloud is empty, or the score is not differentiable in x.
        FloatingPointError: if the score is not finite on the path, or the tolerance cannot be met.
    """
    t = sde.t_min if t is None else t
    _check_options(t, divergence, num_probes, rtol, atol, method)
    _check_clouds(x, lengths, generator)
    counts = [x.shape[1]] * len(x) if lengths is None else lengths.tolist()
    nats, errors, evaluations, x_1 = [], [], [], torch.zeros_like(x)
    for b, count in enumerate(counts):
        own = generator if generator is None or isinstance(generator, torch.Generator) else generator[b]
        x_b = x[b, :count].detach()
        flow = _Flow(score, sde, x_b, _probes(x_b, divergence, num_probes, own))
        sums, evaluated, x_1[b, :count] = flow.integrate(t, rtol, atol, method)
        nats.append(float(sums.mean()))
        errors.append(_standard_error(sums, divergence))
        evaluations.append(evaluated)
    per_point = x.new_tensor(nats)
    total = (torch.tensor(nats, dtype=torch.float64) * torch.tensor(counts)).to(x)
    return Likelihood(total, per_point, x.new_tensor(errors), torch.tensor(evaluations, device=x.device), x_1)


def chaotic_entropy(log_p: Tensor, log_q: Tensor, num_particles: int | Tensor) -> Estimate:
    """Relative entropy per particle, (1/N) KL(p || q), of two laws of N particles, from clouds of p.

    (1/N) KL = E_{x ~ p} (log p(x) - log q(x)) / N. With q the product of p's one-particle law this measures chaos: p is
    entropically chaotic where it vanishes as N -> infinity. With q a model's law it is what the model lacks.

    Args:
        log_p: (B,) log-densities, in nats, of B clouds drawn from p, under p.
        log_q: (B,) of the same clouds under q: a law's `log_prob`, or `log_likelihood`, whose error counts too.
        num_particles: N, or (B,) where clouds differ.

    Returns:
        the estimate and its standard error over the clouds, in nats per particle.

    Raises:
        ValueError: if the shapes do not fit, there are fewer than two clouds, or a density is not finite.
    """
    count = torch.as_tensor(num_particles, dtype=torch.float64, device=log_p.device)
    if log_p.ndim != 1 or log_p.shape != log_q.shape or count.shape not in ((), log_p.shape):
        raise ValueError(
            f"one log-density a cloud is needed, got {tuple(log_p.shape)} and {tuple(log_q.shape)} "
            f"for num_particles of shape {tuple(count.shape)}"
        )
    if len(log_p) < 2 or not bool((count >= 1).all()):
        raise ValueError(f"at least two clouds, none empty, are needed, got {len(log_p)} of {count.tolist()} particles")
    excess = (log_p.double() - log_q.double()) / count
    if not bool(excess.isfinite().all()):
        raise ValueError(f"log-densities must be finite, got log p - log q = {excess[~excess.isfinite()][0].item()}")
    return Estimate(float(excess.mean()), float(excess.std()) / math.sqrt(len(excess)))


@dataclass(frozen=True)
class _Flow:
    """The probability flow of one cloud x (N, D) and the nats per point that its P probes (P, K, N, D) collect.

    scipy sees one float64 vector: the N D coordinates, then P sums; of one probe, or exact without any.
    """

    score: Score
    sde: SDE
    x: Tensor
    probes: Tensor | None

    def integrate(self, t: float, rtol: float, atol: float, method: Method) -> tuple[NDArray[Any], int, Tensor]:
        """Log-density per point at t by each probe (P,), the evaluations made, and x_1 (N, D)."""
        span = self.sde.log_snr(torch.tensor([t, 1.0], dtype=torch.float64)).tolist()
        size, num_sums = self.x.numel(), 1 if self.probes is None else len(self.probes)
        start = np.concatenate((self.x.flatten().double().cpu().numpy(), np.zeros(num_sums)))
        # scipy bounds the root mean square over the whole vector, in which a sum would drown among the coordinates.
        weight = np.concatenate((np.ones(size), np.full(num_sums, 1 / math.sqrt(len(start)))))
        # scipy takes rtol >= 2.3e-14 only
        rtols = np.maximum(rtol * weight, 100 * np.finfo(float).eps)
        done = solve_ivp(self.velocity, span, start, method, rtol=rtols, atol=atol * weight)
        end = done.y[:, -1]
        if not done.success or not np.isfinite(end).all():
            raise FloatingPointError(f"the probability flow cannot be integrated from t = {t}: {done.message}")
        x_1 = end[:size]
        prior = -0.5 * float(np.square(x_1).sum()) - 0.5 * size * math.log(2 * math.pi)
        return prior / len(self.x) + end[size:], int(done.nfev), torch.from_numpy(x_1).to(self.x).view_as(self.x)

    def velocity(self, log_snr: float, state: NDArray[Any]) -> NDArray[Any]:
        """dx/dl = 1/2 sigma^2 (x + s), and 1/2 sigma^2 (N D + div s) / N by each probe."""
        time = self.sde.time_of_log_snr(torch.tensor(log_snr, dtype=torch.float64))
        half = 0.5 * float(self.sde.sigma(time)) ** 2
        x = torch.from_numpy(state[: self.x.numel()]).to(self.x).reshape(1, *self.x.shape).requires_grad_()
        with torch.enable_grad():
            s = self.score(x, time.to(x)[None])
        if not bool(s.isfinite().all()):
            raise FloatingPointError(f"the score is not finite at t = {float(time)}")
        moved = (x + s).detach().flatten().double()
        collected = (x.numel() + self.divergences(s, x)) / len(self.x)
        return (half * torch.cat((moved, collected))).cpu().numpy()

    def divergences(self, s: Tensor, x: Tensor) -> Tensor:
        """sum_k e_k^T (ds/dx) e_k for each probe, (P,), or div s itself, (1,); float64."""
        if self.probes is None:
            diagonal = [gradient(s_i, x).flatten()[i] for i, s_i in enumerate(s.flatten())]
            return torch.stack(diagonal).double().sum()[None]
        quadratic = [(gradient(s, x, e[None])[0] * e).double().sum() for e in self.probes.flatten(0, 1)]
        return torch.stack(quadratic).reshape(self.probes.shape[:2]).sum(dim=1)


def gradient(s: Tensor, x: Tensor, direction: Tensor | None = None) -> Tensor:
    """direction^T (ds/dx), like x; without a direction that of a single number s.

    Raises:
        ValueError: if s does not depend on x as far as autograd knows.
    """
    if s.requires_grad:
        (found,) = torch.autograd.grad(s, x, direction, retain_graph=True, allow_unused=True)
        if found is not None:
            return found
    raise ValueError("the divergence needs a score that is differentiable in x; this one keeps no gradient")


def _probes(x: Tensor, kind: Divergence, num_probes: int, generator: torch.Generator | None) -> Tensor | None:
    """(P, K, N, D) directions e_k of each probe, sum_k E e_k e_k^T = I; None where the divergence is exact."""
    if kind == "exact":
        return None
    device = x.device if generator is None else generator.device
    signs = 2 * torch.randint(2, (num_probes, *x.shape), generator=generator, device=device).to(x) - 1
    if kind == "rademacher":
        return signs[:, None]
    axes = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)  # (K = D, D)
    return signs[:, None] * axes[:, None, :]


def _standard_error(sums: NDArray[Any], divergence: Divergence) -> float:
    if divergence == "exact":
        return 0.0
    return float(sums.std(ddof=1)) / math.sqrt(len(sums)) if len(sums) > 1 else math.inf


def _check_options(t: float, divergence: str, num_probes: int, rtol: float, atol: float, method: str) -> None:
    if not 0.0 < t < 1.0:
        raise ValueError(f"t must lie in (0, 1), got {t}")
    if divergence not in ("rademacher", "axes", "exact"):
        raise ValueError(f"divergence must be 'rademacher', 'axes' or 'exact', got {divergence!r}")
    if method not in ("RK45", "DOP853"):
        raise ValueError(f"method must be 'RK45' or 'DOP853', got {method!r}")
    check_whole("num_probes", num_probes, 1)
    if not (0.0 < rtol < math.inf and 0.0 < atol < math.inf):
        raise ValueError(f"rtol and atol must be > 0 and finite, got {rtol} and {atol}")


def _check_clouds(x: Tensor, lengths: Tensor | None, generator: Generators) -> None:
    if x.ndim != 3 or not x.is_floating_point() or 0 in x.shape:
        raise ValueError(f"clouds must be floating (B, N, D), none empty, got {x.dtype} {tuple(x.shape)}")
    if generator is not None and not isinstance(generator, torch.Generator) and len(generator) != len(x):
        raise ValueError(
            f"{len(generator)} generators were given for {len(x)} clouds; give one a cloud, or one for all"
        )
    own = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    if lengths is not None:
        check_lengths(lengths, *x.shape[:2])
        if bool((lengths < 1).any()):
            raise ValueError(f"every cloud needs a particle, got lengths {lengths.tolist()}")
        own = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device)[:, None]
    wrong = x[own][~x[own].isfinite()]
    if len(wrong):
        raise ValueError(f"clouds must be finite, got a coordinate {wrong[0].item()}")
