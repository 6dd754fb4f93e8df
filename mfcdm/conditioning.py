"""Clouds that contain given particles: completion of a partial cloud, and densification of a whole one.

Both run any sampler on the unknown particles alone, with the score that `mfcdm.holding` makes of a trained network's
or an exact law's. The given particles are never moved. docs/conditioning.md has the reasons and the measurements.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from mfcdm.branching import Branching, Renoise, branched
from mfcdm.checks import check_whole
from mfcdm.generate import share_steps
from mfcdm.holding import HeldScore, Hold, pushed
from mfcdm.randomness import Generators, random_subset, standard_normal
from mfcdm.samplers import Sampler, Score
from mfcdm.sde import SDE
from mfcdm.subdivision import Subdivision


@torch.no_grad()
def complete(
    score: Score,
    sde: SDE,
    sampler: Sampler,
    subdivision: Subdivision,
    branching: Branching,
    given: Tensor,
    *,
    num_particles: int,
    hold: Hold | None = None,
    generator: Generators = None,
    advance: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw clouds of N particles that contain given ones, from the law of the N - M others given these M.

    Levels and branching are those of `generate`. At level k, of N_k particles, ceil(M N_k / N) of the given ones, a
    random subset that grows from level to level, stand for all M, and leave at least one place; only unknown particles
    branch, into unknown ones. A coarse cloud is then a random part of the whole, as it is in training.

    Args:
        score: score(x, t, lengths=None) of the whole cloud; for a network `mfcdm.networks.as_score(network, sde)`.
        sde: the forward process.
        sampler: runs each level; its num_steps are shared out over the levels, and made hold.resamplings + 1 times.
        subdivision: the levels, adapted by `Subdivision.for_cardinality` to num_particles.
        branching: between levels.
        given: (B, M, D) known particles, M >= 0, in the network's normalised coordinates.
        num_particles: N >= M.
        hold: how the given particles condition; default `Hold()`.
        generator: one for the batch, or one a cloud, with which a cloud does not depend on the batch.
        advance: called with (steps done, steps in all).

    Returns:
        (B, N, D): the M given particles, unmoved and in order, then N - M new ones.

    Raises:
        ValueError: if an argument is out of its range.
        FloatingPointError: if particles become non-finite.
    """
    _check(given, num_particles)
    levels = _Levels(sde, sampler, subdivision.for_cardinality(num_particles), branching, hold or Hold(), advance)
    if num_particles == given.shape[1]:
        return given.clone()
    first = levels.num_unknown(0, given.shape[1], num_particles)
    shape = (given.shape[0], first, given.shape[2])
    x = sde.prior_sample(shape, generator, given.device, given.dtype)
    new = levels.run(score, x, 1.0, given, num_particles, generator)
    return torch.cat((given, new), dim=1)


@torch.no_grad()
def densify(
    score: Score,
    sde: SDE,
    sampler: Sampler,
    given: Tensor,
    *,
    num_particles: int,
    push: float = 3.5,
    keep: bool = True,
    hold: Hold | None = None,
    generator: Generators = None,
    advance: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw clouds of N particles that have the shape of given clouds of M < N.

    Copies of the given particles follow the forward kernel to the time of log-SNR log M - push and are denoised from
    there. M points on a surface resolve detail of about M^(-1/2), which is where log-SNR = log M; `push` nats below,
    copies of one parent have forgotten which of its neighbours it was, while the shape stands. The law of one particle
    is kept whatever the push, as in `branching.Renoise`. There are no levels: N particles hold on to a shape at a noise
    at which few would lose it.

    Args:
        score: score(x, t, lengths=None) of the whole cloud.
        sde: the forward process.
        sampler: as in `complete`.
        given: (B, M, D) clouds, M >= 1, in the network's normalised coordinates.
        num_particles: N >= M.
        push: nats of log-SNR, >= 0; the starting time is at most 1, and above sde.t_min.
        keep: True: the given particles stay in the result, unmoved, and the new ones are drawn beside them; False: all
            N are drawn, which also refines noisy clouds.
        hold: how kept particles condition; default `Hold(directions=0)`: at the starting time they show the shape.
        generator: one for the batch, or one a cloud.
        advance: called with (steps done, steps in all).

    Returns:
        (B, N, D); with `keep` the given particles come first, in order.

    Raises:
        ValueError: if an argument is out of its range.
        FloatingPointError: if particles become non-finite.
    """
    _check(given, num_particles)
    if given.shape[1] == 0:
        raise ValueError("densification needs given particles, got clouds of none; complete() takes them")
    if not 0.0 <= push < math.inf:
        raise ValueError(f"push must be >= 0 nats and finite, got {push}")
    if keep and num_particles == given.shape[1]:
        return given.clone()
    start = _time_of(math.log(given.shape[1]) - push, sde)
    if start <= sde.t_min:
        raise ValueError(f"{given.shape[1]} points show more than t_min = {sde.t_min} does; push={push} must be larger")
    held = given if keep else given[:, :0]
    copies = branched(given, num_particles - held.shape[1], generator)
    mean, std = sde.marginal(copies, torch.full((len(given),), start, dtype=given.dtype, device=given.device))
    noise = standard_normal(copies.shape, generator, dtype=given.dtype, device=given.device)
    hold = Hold(directions=0) if hold is None else hold
    levels = _Levels(sde, sampler, Subdivision([num_particles], [1.0]), Renoise(), hold, advance)
    new = levels.run(score, mean + std[:, None, None] * noise, start, held, num_particles, generator)
    return torch.cat((held, new), dim=1)


class _Levels:
    """The levels of `generate`, run on the unknown particles beside given ones."""

    def __init__(
        self,
        sde: SDE,
        sampler: Sampler,
        subdivision: Subdivision,
        branching: Branching,
        hold: Hold,
        advance: Callable[[int, int], None] | None,
    ) -> None:
        self.sde, self.sampler, self.subdivision, self.branching = sde, sampler, subdivision, branching
        self.hold, self.advance = hold, advance

    def num_held(self, level: int, num_given: int, num_particles: int) -> int:
        """Given particles at a level: a share in proportion, rounded up, that leaves a place for an unknown one."""
        count = self.subdivision.cardinalities[level]
        in_proportion = math.ceil(self.hold.share * num_given * count / num_particles)
        return min(num_given, in_proportion, count - 1)

    def num_unknown(self, level: int, num_given: int, num_particles: int) -> int:
        """Unknown particles at a level, >= 1."""
        return self.subdivision.cardinalities[level] - self.num_held(level, num_given, num_particles)

    def run(
        self, score: Score, x: Tensor, start: float, given: Tensor, num_particles: int, generator: Generators
    ) -> Tensor:
        """Take the unknown particles x of the first level from `start` to data: (B, N - M, D)."""
        num_clouds, num_given, dim = given.shape
        order = random_subset(num_given, num_clouds, num_given, generator, device=given.device)
        shuffled = given.gather(1, order[..., None].expand(-1, -1, dim))
        stretches = self._stretches(start, num_given, num_particles)
        starts, ends = ([stretch[i] for stretch in stretches] for i in (1, 2))
        steps, done = share_steps(self.sampler.num_steps, starts, ends, self.sde), 0
        for n, ((level, begin, end), num_steps) in enumerate(zip(stretches, steps, strict=True)):
            wanted = self.num_unknown(level, num_given, num_particles)
            if wanted != x.shape[1]:
                x, _ = self.branching.branch(x, self.subdivision.times[level], self.sde, wanted, generator)
            held, last = shuffled[:, : self.num_held(level, num_given, num_particles)], n + 1 == len(stretches)
            for i in range(self.hold.resamplings + 1):
                if i > 0:
                    x = pushed(x, end, begin, self.sde, generator)
                finish = last and i == self.hold.resamplings
                x = self._sample(score, x, begin, None if finish else end, num_steps, held, generator, done)
                done += num_steps
        wanted = num_particles - num_given
        if x.shape[1] == wanted:
            return x
        kept = random_subset(wanted, num_clouds, x.shape[1], generator, device=x.device)
        return x.gather(1, kept[..., None].expand(-1, -1, dim))

    def _sample(
        self,
        score: Score,
        x: Tensor,
        begin: float,
        end: float | None,
        num_steps: int,
        held: Tensor,
        generator: Generators,
        done: int,
    ) -> Tensor:
        """One run of the sampler on the unknown particles beside the held ones, whose noise is fresh."""

        def callback(step: int, t: float, x: Tensor) -> None:
            if self.advance is not None:
                self.advance(done + step, (self.hold.resamplings + 1) * self.sampler.num_steps)

        beside = HeldScore(score, self.sde, held, self.hold, generator)
        sampler = self.sampler.with_steps(num_steps)
        return sampler.sample(beside, self.sde, x, t_start=begin, t_end=end, generator=generator, callback=callback)

    def _stretches(self, start: float, num_given: int, num_particles: int) -> list[tuple[int, float, float]]:
        """(level, begin, end) of every run of the sampler: the levels, cut to stretches where they are resampled."""
        stretches: list[tuple[int, float, float]] = []
        for k in range(self.subdivision.num_levels):
            end, begin = self.subdivision.interval(k, self.sde.t_min)
            if k == 0:
                begin = start
            elif self.num_unknown(k, num_given, num_particles) > self.num_unknown(k - 1, num_given, num_particles):
                begin = self.branching.pushed_time(begin, self.sde)
            top, bottom = self.sde.log_snr(torch.tensor([begin, end], dtype=torch.float64)).tolist()
            parts = math.ceil((bottom - top) / self.hold.jump) if self.hold.resamplings else 1
            inner = [_time_of(top + (bottom - top) * i / parts, self.sde) for i in range(1, parts)]
            stretches += [(k, a, b) for a, b in pairwise([begin, *inner, end])]
        if len(stretches) > self.sampler.num_steps:
            raise ValueError(
                f"num_steps={self.sampler.num_steps} is too few for {len(stretches)} stretches of the way; "
                "take more steps, or a longer jump"
            )
        return stretches


def _time_of(log_snr: float, sde: SDE) -> float:
    """The time of a log-SNR, at most 1."""
    floor = float(sde.log_snr(torch.tensor(1.0, dtype=torch.float64)))
    if log_snr <= floor:
        return 1.0
    return min(1.0, float(sde.time_of_log_snr(torch.tensor(log_snr, dtype=torch.float64))))


def _check(given: Tensor, num_particles: int) -> None:
    if given.ndim != 3 or not given.is_floating_point():
        raise ValueError(f"given particles must be floating (B, M, D), got {given.dtype} {tuple(given.shape)}")
    check_whole("num_particles", num_particles, 1)
    if num_particles < given.shape[1]:
        raise ValueError(f"num_particles must be at least the {given.shape[1]} given particles, got {num_particles}")
    wrong = given[~given.isfinite()]
    if len(wrong):
        raise ValueError(f"given particles must be finite, got a coordinate {wrong[0].item()}")
