"""Dual potentials of optimal transport: each feasible pair proves a lower bound, and the last ones start a solver."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfcdm.metrics.arguments import Array

Single = NDArray[Any]  # float32: half the memory to pass through

# Blurs, as shares of the mean reduced cost, each with the rounds of Sinkhorn's algorithm that it gets.
BLURS = (0.3, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005)
ROUNDS = (10, 10, 10, 20, 20, 30, 30)

# Potentials are feasible to float32's rounding: a bound is lowered by this share of the largest number that went in.
ROUNDING = 1e-6

# In place of an empty sum; its inverse is finite in float32.
TINY = 1e-30


def rising_bounds(cost: Array) -> Iterator[tuple[float, Single, Single]]:
    """Lower bounds of the transport cost between uniform measures, each tighter and dearer than the one before.

    For u_i + v_j <= cost_ij, mean(u) + mean(v) <= min over plans. The first pair is v_j = min_i cost_ij and
    u_i = min_j (cost_ij - v_j) >= 0, whose bound is at least the one-sided chamfer mean_j min_i |x_i - y_j|. Each
    following pair comes from Sinkhorn's algorithm with less blur, made feasible by the same two minima.

    Args:
        cost: (N, M) >= 0.

    Yields:
        Bound, u (N,) and v (M,). Every bound holds; between real shapes the last is 1 or 2 % off, rarely 5.
    """
    cost_ij = cost.astype(np.float32)
    longest = float(cost_ij.max())
    u, v = _feasible(cost_ij, np.zeros(len(cost_ij), dtype=np.float32))
    best = _bound(u, v, longest)
    yield best, u, v
    scale = float(np.mean(cost_ij - u[:, None] - v))
    if scale <= ROUNDING * longest:  # nothing is left between the bound and the cost
        return
    for blur, rounds in zip(BLURS, ROUNDS, strict=True):
        _, a, _ = _scaled(cost_ij, u, v, blur * scale, rounds)
        u, v = _feasible(cost_ij, u + np.float32(blur * scale) * np.log(a))
        best = max(best, _bound(u, v, longest))
        yield best, u, v


def tightest(cost: Array, u: Single | None = None) -> tuple[Array, Array]:
    """Feasible potentials in float64: cost_ij - u_i - v_j >= 0, with most of an optimal plan where it is nearly 0.

    Args:
        cost: (N, M) >= 0.
        u: (N,) of the last of the `rising_bounds`, where they were computed before.
    """
    if u is None:
        *_, (_, u, _) = rising_bounds(cost)
    v = (cost - u[:, None]).min(axis=0)
    return (cost - v).min(axis=1), v


def sinkhorn_bracket(cost: Array) -> tuple[float, float]:
    """Lower and upper bound of the transport cost: of feasible potentials, and of a feasible plan.

    The plan is that of the least blur, scaled down to the masses wherever it exceeds them; the rest is spread in
    proportion to what is missing.

    Source: Altschuler, Weed & Rigollet, Near-linear time approximation algorithms for optimal transport (2017).
    """
    cost_ij = cost.astype(np.float32)
    *_, (lower, u, v) = rising_bounds(cost)
    num_x, num_y = cost.shape
    scale = float(np.mean(cost_ij - u[:, None] - v))
    if scale <= ROUNDING * float(cost.max()):  # all plans cost the same
        return max(0.0, lower), float(cost.mean())
    gibbs, a, b = _scaled(cost_ij, u, v, BLURS[-1] * scale, ROUNDS[-1])
    plan = gibbs.astype(np.float64) * a[:, None] * b
    plan *= np.minimum(1, 1 / (num_x * np.maximum(plan.sum(axis=1), TINY)))[:, None]
    plan *= np.minimum(1, 1 / (num_y * np.maximum(plan.sum(axis=0), TINY)))
    lacks_x, lacks_y = 1 / num_x - plan.sum(axis=1), 1 / num_y - plan.sum(axis=0)
    spread = float(lacks_x @ cost @ lacks_y) / max(float(lacks_x.sum()), TINY)
    return max(0.0, lower), float((plan * cost).sum()) + max(0.0, spread)


def _scaled(cost_ij: Single, u: Single, v: Single, blur: float, rounds: int) -> tuple[Single, Single, Single]:
    """Kernel and scalings a, b after some rounds from feasible (u, v): the kernel is at most 1, nothing overflows."""
    gibbs = cost_ij - u[:, None]
    gibbs -= v
    gibbs *= np.float32(-1 / blur)
    np.exp(gibbs, out=gibbs)
    num_x, num_y = gibbs.shape
    a = np.ones(num_x, dtype=np.float32)
    for _ in range(rounds):
        b = np.float32(1 / num_y) / np.maximum(a @ gibbs, np.float32(TINY))
        a = np.float32(1 / num_x) / np.maximum(gibbs @ b, np.float32(TINY))
    return gibbs, a, b


def _feasible(cost_ij: Single, u: Single) -> tuple[Single, Single]:
    """The largest v that u allows, and then the largest u that v allows."""
    v = (cost_ij - u[:, None]).min(axis=0)
    return (cost_ij - v).min(axis=1), v


def _bound(u: Single, v: Single, longest: float) -> float:
    """What potentials prove, less the rounding of the numbers that they were made of."""
    value = float(u.mean(dtype=np.float64) + v.mean(dtype=np.float64))
    return value - ROUNDING * (longest + float(np.abs(v).max()))
