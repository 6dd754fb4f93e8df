"""What all samplers share: the loop over time, padding, the final denoising evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from mfcdm.checks import check_whole
from mfcdm.networks.parametrization import x_0_from_score
from mfcdm.randomness import Generators, check_lengths, standard_normal
from mfcdm.samplers.grids import GRIDS, Grid, time_grid
from mfcdm.sde import SDE


class Score(Protocol):
    """The score of N particles: (x (B, N, D), t (B,), lengths (B,) or None) -> (B, N, D), 0 on padding."""

    def __call__(self, x: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor: ...  # noqa: D102


Callback = Callable[[int, float, Tensor], None]  # (steps done, time reached, particles (B, N, D))
Carried = Any  # what a sampler's step hands on to its next one: a Prediction, velocities, or None
MAX_REACH = 0.5 + 1e-6  # of an extrapolation; on a grid even in log-SNR it is 1/2 to rounding, and stays as it is
MAX_NOISE = 1e6  # far beyond any use; its square times a clock is still a number


@dataclass(frozen=True)
class Point:
    """A time of the grid with the SDE's coefficients there, as float64 scalars.

    The clock of the noise grows by int g^2 / sigma^2 dt on the way back, for a sampler of noise 1.
    """

    t: float
    alpha: float
    sigma: float
    log_snr: float
    clock: float

    @classmethod
    def at(cls, sde: SDE, t: float) -> Self:
        """Evaluate the SDE's coefficients once for the whole batch; with g^2 = beta the clock is the log-SNR."""
        time = torch.tensor(t, dtype=torch.float64)
        log_snr = float(sde.log_snr(time))
        return cls(t, float(sde.alpha(time)), float(sde.sigma(time)), log_snr, log_snr)


@dataclass(frozen=True)
class System:
    """What a step may use besides the particles: the score, the randomness and the mask of true particles."""

    score: Score
    generator: Generators
    lengths: Tensor | None
    own: Tensor | None  # (B, N, 1) bool, None where every row is a particle
    on_cpu: Tensor | None = None  # the lengths once more: asking a GPU for them at every draw would stall it
    last: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # the last evaluation, x, t and x_0

    def data_prediction(self, x: Tensor, at: Point) -> Tensor:
        """E[x_0 | x_t] by Tweedie's formula, (B, N, D): one evaluation of the score, none where it repeats the last."""
        if self.last.get("x") is not x or self.last["t"] != at.t:
            t = torch.full((x.shape[0],), at.t, dtype=x.dtype, device=x.device)
            x_0 = x_0_from_score(self.score(x, t, lengths=self.lengths), x, at.alpha, at.sigma)
            self.last.update(x=x, t=at.t, x_0=x_0)
        return self.last["x_0"]

    def noise_like(self, x: Tensor) -> Tensor:
        """Independent N(0, 1) numbers, (B, N, D), drawn so that they do not depend on the batch."""
        return standard_normal(x.shape, self.generator, lengths=self.on_cpu, dtype=x.dtype, device=x.device)

    def mean(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over each cloud's own particles, (B, 1, D), and their number, (B, 1, 1)."""
        if self.lengths is None:
            return x.mean(dim=1, keepdim=True), x.new_full((x.shape[0], 1, 1), x.shape[1])
        count = self.lengths.to(x).clamp_min(1)[:, None, None]
        return self.mask(x).sum(dim=1, keepdim=True) / count, count

    def mask(self, x: Tensor) -> Tensor:
        """Put 0 on padding, also where it holds NaN."""
        return x if self.own is None else torch.where(self.own, x, torch.zeros((), dtype=x.dtype, device=x.device))


@dataclass(frozen=True)
class Prediction:
    """The data E[x_0 | x_t], (B, N, D), predicted at a point of the grid."""

    at: Point
    x_0: Tensor

    def extrapolated(self, previous: Prediction | None, after: Point) -> Tensor:
        """The prediction at the middle of the step to `after`, (B, N, D), on the line through the previous one.

        x_0 + min(1/2, (l' - l) / (2 (l - l_previous))) (x_0 - x_0_previous), l = log-SNR. This makes a step that holds
        x_0 fixed second order, for no further evaluation; the first step of a grid has no previous prediction and is
        first order. Where steps grow, the line is followed no farther than for even steps: on a smooth grid that keeps
        the order, and the last steps of an uneven grid, which may be twice as long as those before, stay sound.

        Source: Lu et al., DPM-Solver++ (2022), algorithm 2; the bound is ours.
        """
        if previous is None:
            return self.x_0
        reach = 0.5 * (after.log_snr - self.at.log_snr) / (self.at.log_snr - previous.at.log_snr)
        return self.x_0 + min(reach, MAX_REACH) * (self.x_0 - previous.x_0)


@dataclass(frozen=True)
class Sampler(ABC):
    """A way from noise at t_start back to data.

    Args:
        num_steps: steps of the time grid, one or more score evaluations each.
        noise: strength of the noise relative to the forward process, g(t) = noise sqrt(beta(t)), >= 0.
        center: the fixed point c of multiplicative noise, "origin" or "mean" (of the cloud).
        grid: spacing of the time grid, "log_snr", "time" or "power".
    """

    num_steps: int = 100
    noise: float = 1.0
    center: Literal["origin", "mean"] = "origin"
    grid: Grid = "log_snr"

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        check_whole("num_steps", self.num_steps, 1)
        if not 0.0 <= self.noise <= MAX_NOISE:
            raise ValueError(f"noise must lie in [0, {MAX_NOISE:g}], got {self.noise}")
        if self.center not in ("origin", "mean"):
            raise ValueError(f"center must be 'origin' or 'mean', got {self.center!r}")
        if self.grid not in GRIDS:
            raise ValueError(f"grid must be one of {', '.join(GRIDS)}, got {self.grid!r}")

    @abstractmethod
    def step(self, x: Tensor, before: Point, after: Point, system: System, previous: Carried) -> tuple[Tensor, Carried]:
        """Move the particles x (B, N, D) from before.t back to after.t; what the next step needs is handed on."""

    def point(self, sde: SDE, t: float) -> Point:
        """A time of the grid as this sampler sees it."""
        return Point.at(sde, t)

    def with_steps(self, num_steps: int) -> Self:
        """The same sampler with another number of steps."""
        return replace(self, num_steps=num_steps)

    @torch.no_grad()
    def sample(
        self,
        score: Score,
        sde: SDE,
        x_T: Tensor,
        *,
        t_start: float = 1.0,
        t_end: float | None = None,
        lengths: Tensor | None = None,
        generator: Generators = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Run the particles from t_start back to t_end.

        Args:
            score: score(x, t, lengths=lengths) -> (B, N, D).
            sde: the forward process.
            x_T: (B, N, D) particles at t_start.
            t_start: in (t_end, 1].
            t_end: time of the result; None goes down to sde.t_min and then takes one denoising evaluation: x_0.
            lengths: (B,) int64 particles that each cloud owns, None for all.
            generator: one for the batch, or one a cloud.
            callback: called after each step with (steps done, time reached, particles).

        Returns:
            (B, N, D), 0 on padding.

        Raises:
            ValueError: if times or shapes are out of range.
            FloatingPointError: if particles become non-finite.
        """
        system = _system(score, generator, lengths, x_T)
        grid = time_grid(sde, t_start, sde.t_min if t_end is None else t_end, self.num_steps, self.grid)
        points = [self.point(sde, t) for t in grid.tolist()]
        x = system.mask(x_T)
        previous: Carried = None
        for n, (before, after) in enumerate(pairwise(points)):
            x, previous = self.step(x, before, after, system, previous)
            if callback is not None:
                callback(n + 1, after.t, x)
        if t_end is None:
            x = system.data_prediction(x, points[-1])
        x = system.mask(x)
        # Checked once, at the end: a non-finite particle stays non-finite, and a check a step would stall a GPU.
        if not bool(x.isfinite().all()):
            raise FloatingPointError(f"{self} produced non-finite particles; take more steps or less noise")
        return x


def _system(score: Score, generator: Generators, lengths: Tensor | None, x_T: Tensor) -> System:
    if x_T.ndim != 3 or not x_T.is_floating_point():
        raise ValueError(f"particles must be floating (B, N, D), got {x_T.dtype} {tuple(x_T.shape)}")
    if generator is not None and not isinstance(generator, torch.Generator) and len(generator) != len(x_T):
        raise ValueError(
            f"{len(generator)} generators were given for {len(x_T)} clouds; give one a cloud, or one for all"
        )
    if lengths is None:
        return System(score, generator, None, None)
    check_lengths(lengths, *x_T.shape[:2])
    on_cpu, lengths = lengths.cpu(), lengths.to(x_T.device)
    own = torch.arange(x_T.shape[1], device=x_T.device)[None, :, None] < lengths[:, None, None]  # (B, N, 1)
    return System(score, generator, lengths, own, on_cpu)
