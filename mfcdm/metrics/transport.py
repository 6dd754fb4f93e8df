"""Earth mover's distance: exact optimal transport between the empirical measures of two clouds."""

import math
import threading

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from torch import Tensor

from mfcdm.metrics.arguments import Array, as_array, paired, result_dtype
from mfcdm.metrics.duals import Single, tightest

Indices = NDArray[np.int64]

# An assignment holds all N^2 costs and takes O(N^3): at this size 1 GiB and minutes.
MAX_ASSIGNED = 11_585

# Clouds of N and M points are one assignment of lcm(N, M) copies; up to this many that is faster than the program.
MAX_COPIES = 4_096

# The linear program of clouds with fewer common divisors: at this many pairs about half a minute.
MAX_PROGRAM_PAIRS = 2**22

# From this size on an assignment is found several times faster from potentials that nearly solve it.
WORTH_POTENTIALS = 512

# A program has found the optimum when no pair lowers the cost by more than this share of the longest distance.
REDUCED_COST_TOLERANCE = 1e-9

# HiGHS starts threads of its own.
_ONE_PROGRAM = threading.Lock()


def earth_movers_distance(
    x: Tensor, y: Tensor, lengths_x: Tensor | None = None, lengths_y: Tensor | None = None
) -> Tensor:
    """Exact earth mover's distance between clouds: mean Euclidean distance under the best plan.

    EMD = min_w sum_ij w_ij |x_i - y_j| over w >= 0 with sum_j w_ij = 1/N and sum_i w_ij = 1/M; for N = M this is
    the best assignment, 1/N sum_i |x_i - y_pi(i)|. No approximation: an assignment where N = M or lcm(N, M) is small,
    otherwise a linear program whose optimality is checked against every pair (to 1e-9 of the longest distance).
    Plans are found on the CPU in float64. Differentiable: the gradient holds the plan fixed.

    Args:
        x: (B, N, D).
        y: (B, M, D).
        lengths_x: (B,) rows that each cloud of x owns; padding may be NaN.
        lengths_y: (B,) rows that each cloud of y owns.

    Returns:
        (B,), in the units of the coordinates; float64 if an input is, otherwise float32.

    Raises:
        ValueError: if the shapes do not fit, a cloud is empty or too large, or a coordinate is not finite.

    Source: Rubner, Tomasi & Guibas, The earth mover's distance as a metric for image retrieval (2000).
    """
    distances = []
    for x_b, y_b in paired(x, y, lengths_x, lengths_y):
        i, j, w = optimal_plan(as_array(x_b), as_array(y_b))
        moved = x_b[torch.from_numpy(i).to(x.device)] - y_b[torch.from_numpy(j).to(x.device)]
        distances.append((torch.linalg.vector_norm(moved, dim=-1) * torch.from_numpy(w).to(moved)).sum())
    return torch.stack(distances) if distances else torch.zeros(0, dtype=result_dtype(x, y), device=x.device)


def transport_cost(x: Array, y: Array, cost: Array | None = None, u: Single | None = None) -> float:
    """Earth mover's distance of one pair of clouds (N, D) and (M, D); `cost` and `u` as in `optimal_plan`."""
    i, j, w = optimal_plan(x, y, cost, u)
    return float((np.linalg.norm(x[i] - y[j], axis=1) * w).sum())


def check_size(num_x: int, num_y: int, exact: bool = True) -> None:
    """Refuse clouds whose distance would take too long or too much memory; an inexact one holds the costs only.

    Raises:
        ValueError: with one sentence that names the sizes.
    """
    copies = math.lcm(num_x, num_y)
    if not exact:
        if num_x * num_y > MAX_ASSIGNED**2:
            raise ValueError(
                f"this distance holds all pairs of points, at most {MAX_ASSIGNED**2:,}, got {num_x:,} times {num_y:,}: "
                "draw fewer points of each cloud"
            )
    elif copies <= max(num_x, num_y, MAX_COPIES):
        if copies > MAX_ASSIGNED:
            raise ValueError(
                f"the exact earth mover's distance takes clouds of at most {MAX_ASSIGNED:,} points, "
                f"got {num_x:,} and {num_y:,}: draw fewer points of each cloud"
            )
    elif num_x * num_y > MAX_PROGRAM_PAIRS:
        raise ValueError(
            f"the exact earth mover's distance between {num_x:,} and {num_y:,} points is a linear program of "
            f"{num_x * num_y:,} pairs, more than {MAX_PROGRAM_PAIRS:,}: draw equally many points of both clouds"
        )


def optimal_plan(
    x: Array, y: Array, cost: Array | None = None, u: Single | None = None
) -> tuple[Indices, Indices, Array]:
    """An optimal plan between the empirical measures of two clouds.

    Args:
        x: (N, D).
        y: (M, D).
        cost: (N, M) distances, where they are known already.
        u: (N,) last of `rising_bounds(cost)`, where it is known already.

    Returns:
        Sources i, targets j and weights w of the moves, (K,) each; the weights sum to 1.

    Raises:
        ValueError: if the clouds are too large.
    """
    check_size(len(x), len(y))
    cost = cdist(x, y) if cost is None else cost  # (N, M)
    copies = math.lcm(len(x), len(y))
    if copies > max(len(x), len(y), MAX_COPIES):
        return _program(cost)
    # Every point as many times as makes both sides equally many, all of mass 1 / copies: an assignment is optimal.
    copies_x, copies_y = copies // len(x), copies // len(y)
    if copies >= WORTH_POTENTIALS:  # what is taken off a row or a column changes no optimal plan
        u_i, v_j = tightest(cost, u)
        cost = cost - u_i[:, None] - v_j
    i, j = linear_sum_assignment(cost.repeat(copies_x, axis=0).repeat(copies_y, axis=1))
    return i // copies_x, j // copies_y, np.full(copies, 1 / copies)


def _program(cost: Array) -> tuple[Indices, Indices, Array]:
    """Optimal transport by column generation: solve over few pairs, then let in every pair that would lower the cost.

    Duals (u, v) of the small program with cost_ij >= u_i + v_j for *all* pairs prove that its plan is optimal.
    """
    num_x, num_y = cost.shape
    scale = float(cost.max()) or 1.0
    cost = cost / scale
    unit = math.gcd(num_x, num_y)
    # Masses in whole numbers, N M / gcd in all: the solver's tolerances are absolute.
    mass = np.repeat([num_y / unit, num_x / unit], [num_x, num_y])
    pairs = _likely_pairs(cost) | _some_plan(num_x, num_y)
    while True:
        i, j = np.nonzero(pairs)
        edge = np.arange(len(i))
        ends = csr_array((np.ones(2 * len(i)), (np.concatenate([i, num_x + j]), np.concatenate([edge, edge]))))
        tolerances = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
        with _ONE_PROGRAM:
            solved = linprog(cost[i, j], A_eq=ends, b_eq=mass, method="highs-ds", options=tolerances)
        if solved.status != 0:
            raise RuntimeError(f"the transport program between {num_x} and {num_y} points failed: {solved.message}")
        dual = solved.eqlin.marginals
        reduced = cost - dual[:num_x, None] - dual[num_x:]  # (N, M)
        if reduced.min() >= -REDUCED_COST_TOLERANCE:
            used = solved.x > 0
            return i[used], j[used], solved.x[used] / (num_x * num_y / unit)
        pairs |= _smallest(reduced, 4) & (reduced < -REDUCED_COST_TOLERANCE)


def _smallest(cost: Array, count: int) -> NDArray[np.bool_]:
    """Mark the `count` smallest entries of each row."""
    marked = np.zeros(cost.shape, dtype=bool)
    np.put_along_axis(marked, np.argpartition(cost, min(count, cost.shape[1] - 1), axis=1)[:, :count], True, axis=1)
    return marked


def _likely_pairs(cost: Array, count: int = 8) -> NDArray[np.bool_]:
    """Pairs that are cheap under the potentials of a blurred plan (Sinkhorn): a start, of no weight in the result."""
    rest = cost - cost.min(axis=0)
    rest -= rest.min(axis=1, keepdims=True)
    blur = 0.02 * rest.mean() or 1.0
    gibbs = np.exp(-rest / blur)
    tiny = np.finfo(np.float64).tiny
    u = np.ones(len(rest))
    for _ in range(60):
        v = 1 / (u @ gibbs * rest.shape[1] + tiny)
        u = 1 / (gibbs @ v * rest.shape[0] + tiny)
    rest -= blur * (np.log(u + tiny)[:, None] + np.log(v + tiny))
    return _smallest(rest, count) | _smallest(rest.T, count).T


def _some_plan(num_x: int, num_y: int) -> NDArray[np.bool_]:
    """Pairs that can carry all mass (the staircase of the two orders), so that the first program has a solution."""
    marked = np.zeros((num_x, num_y), dtype=bool)
    unit = math.gcd(num_x, num_y)
    steps = np.unique(np.concatenate([np.arange(num_x) * (num_y // unit), np.arange(num_y) * (num_x // unit)]))
    marked[steps // (num_y // unit), steps // (num_x // unit)] = True
    return marked
