"""Between two clouds, through the noise that the probability flow leads them to."""

from itertools import pairwise
from typing import Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mfcdm.samplers import ProbabilityFlow, Score, time_grid
from mfcdm.samplers.base import Point, System
from mfcdm.samplers.grids import Grid
from mfcdm.sde import SDE
from mfcdm.wording import counted

Matching = Literal["noise", "data", "none"]
MATCHINGS: tuple[Matching, ...] = ("noise", "data", "none")


@torch.no_grad()
def encode(score: Score, sde: SDE, x: Tensor, *, num_steps: int = 50, grid: Grid = "log_snr") -> Tensor:
    """Follow the probability flow from sde.t_min to t = 1 by Heun's rule: the noise that `decode` turns into x.

    Args:
        score: score(x, t, lengths=None) -> (B, N, D).
        sde: the forward process.
        x: (B, N, D) clouds at sde.t_min; data are taken as such.
        num_steps: >= 1, two score evaluations each.
        grid: spacing of the time grid.

    Returns:
        (B, N, D) at t = 1.

    Raises:
        ValueError: if the particles are not floating (B, N, D).
        FloatingPointError: if particles become non-finite.
    """
    if x.ndim != 3 or not x.is_floating_point():
        raise ValueError(f"particles must be floating (B, N, D), got {x.dtype} {tuple(x.shape)}")
    flow, system = ProbabilityFlow(num_steps=num_steps, grid=grid), System(score, None, None, None)
    times = time_grid(sde, 1.0, sde.t_min, num_steps, grid).flip(0).tolist()
    for before, after in pairwise([Point.at(sde, t) for t in times]):
        x, _ = flow.step(x, before, after, system, None)
    if not bool(x.isfinite().all()):
        steps = counted(num_steps, "step")
        raise FloatingPointError(f"the probability flow of {steps} led to non-finite noise; take more steps")
    return x


def decode(score: Score, sde: SDE, x_1: Tensor, *, num_steps: int = 50, grid: Grid = "log_snr") -> Tensor:
    """Follow the probability flow from t = 1 back to sde.t_min: the inverse of `encode`, arguments alike; (B, N, D)."""
    return ProbabilityFlow(num_steps=num_steps, grid=grid).sample(score, sde, x_1, t_end=sde.t_min)


def interpolate(
    score: Score,
    sde: SDE,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    *,
    matching: Matching = "noise",
    num_steps: int = 50,
    grid: Grid = "log_snr",
) -> Tensor:
    """Clouds on the way from x (weight 0) to y (weight 1), as the probability flow has it.

    Both are encoded, y's particles are put into the order in which the two are nearest (an exact assignment of least
    mean square, in each cloud), every particle's noise is turned from one direction to the other, its length linearly
    along (`turned`), and the result is decoded. The end points come back, y with its particles in x's order, up to an
    error of order 3 in 1 / num_steps: Heun's rule is of order 2, and the leading errors there and back cancel.

    Args:
        score: score(x, t, lengths=None) -> (B, N, D).
        sde: the forward process.
        x: (B, N, D) clouds at sde.t_min; data are taken as such.
        y: (B, N, D).
        weights: (W,) numbers from 0 to 1.
        matching: of the particles: "noise": nearest at t = 1; "data": nearest as given; "none": row to row.
        num_steps: of each direction, two score evaluations each.
        grid: spacing of the time grid.

    Returns:
        (W, B, N, D).

    Raises:
        ValueError: if shapes do not fit or a value is out of its range.
        FloatingPointError: if particles become non-finite.
    """
    if x.shape != y.shape:
        raise ValueError(f"both clouds need one shape (B, N, D), got {tuple(x.shape)} and {tuple(y.shape)}")
    if weights.ndim != 1 or not bool(((weights >= 0) & (weights <= 1)).all()):
        raise ValueError(f"weights must be numbers from 0 to 1 in one row, got {weights.tolist()}")
    if matching not in MATCHINGS:
        raise ValueError(f"matching must be one of {', '.join(MATCHINGS)}, got {matching!r}")
    x_1, y_1 = (encode(score, sde, cloud, num_steps=num_steps, grid=grid) for cloud in (x, y))
    if matching != "none":
        order = assignment(x_1, y_1) if matching == "noise" else assignment(x, y)
        y_1 = y_1.gather(1, order[..., None].expand_as(y_1))
    between = [turned(x_1, y_1, float(weight)) for weight in weights]
    decoded = [decode(score, sde, noise, num_steps=num_steps, grid=grid) for noise in between]
    return torch.stack(decoded) if decoded else x.new_empty(0, *x.shape)


def assignment(x: Tensor, y: Tensor) -> Tensor:
    """The order of y's particles that minimises sum_i |x_i - y_order(i)|^2: (B, N, D) twice -> (B, N) int64.

    Exact; time grows as N^3, seconds at 4,096 particles.
    """
    orders = [torch.empty(0, x.shape[1], dtype=torch.int64)]  # of no cloud
    for x_b, y_b in zip(x.double().cpu(), y.double().cpu(), strict=True):
        _, order = linear_sum_assignment(torch.cdist(x_b, y_b, compute_mode="donot_use_mm_for_euclid_dist").square())
        orders.append(torch.from_numpy(order)[None])
    return torch.cat(orders).to(x.device)


def turned(x: Tensor, y: Tensor, weight: float) -> Tensor:
    """Spherical interpolation of every particle: the direction turns at constant speed, the length grows linearly.

    With unit vectors a, b of x_i, y_i and the angle W between them:
    ((1 - w) |x_i| + w |y_i|) (sin((1 - w) W) a + sin(w W) b) / sin W. Where the two are parallel or opposite,
    or one is 0, no plane of rotation is singled out, and the particle goes along the straight line.

    Args:
        x: (B, N, D).
        y: (B, N, D).
        weight: w, 0 for x and 1 for y.

    Returns:
        (B, N, D).
    """
    lengths = [z.norm(dim=-1, keepdim=True) for z in (x, y)]
    tiny = torch.finfo(x.dtype).tiny
    a, b = (z / length.clamp_min(tiny) for z, length in zip((x, y), lengths, strict=True))
    # 2 arctan2(|a - b|, |a + b|) keeps its digits where arccos(a . b) loses half of them: at small angles and near pi.
    angle = 2 * torch.atan2((a - b).norm(dim=-1, keepdim=True), (a + b).norm(dim=-1, keepdim=True))
    sine = angle.sin()
    arc = (((1 - weight) * angle).sin() * a + (weight * angle).sin() * b) / sine.clamp_min(tiny)
    length = (1 - weight) * lengths[0] + weight * lengths[1]
    planar = (sine > torch.finfo(x.dtype).eps ** 0.5) & (lengths[0] > 0) & (lengths[1] > 0)
    return torch.where(planar, length * arc, (1 - weight) * x + weight * y)
