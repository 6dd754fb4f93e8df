"""Generation level by level: few particles from noise, branching, more particles to data."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from mfcdm.branching import Branching
from mfcdm.checks import check_whole
from mfcdm.networks import as_score
from mfcdm.randomness import Generators, cloud_generators, random_subset
from mfcdm.samplers import Sampler, Score
from mfcdm.sde import SDE
from mfcdm.subdivision import Subdivision

Progress = Callable[[int, int], None]  # (score evaluations' steps done, steps in all)


def generate(
    network: nn.Module,
    sde: SDE,
    sampler: Sampler,
    subdivision: Subdivision,
    branching: Branching,
    *,
    num_clouds: int,
    num_particles: int,
    label: Tensor | None = None,
    guidance: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
    first_index: int = 0,
    indices: Sequence[int] | None = None,
    stream: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """Draw clouds of any cardinality from a trained network, in its normalised coordinates.

    Cloud b depends on (seed, stream, its index) alone, not on the batch that it is made in, to float tolerance.

    Args:
        network: a `ScoreNetwork`, or any module with its signature and an attribute `dim`.
        sde: the forward process that it was trained with.
        sampler: runs each level; its num_steps are shared out over the levels.
        subdivision: the levels, adapted by `Subdivision.for_cardinality` to num_particles.
        branching: between levels.
        num_clouds: B.
        num_particles: N, any number >= 1.
        label: (B,) int64 classes, -1 for none; None for none at all.
        guidance: towards the classes, 1 for none; see `mfcdm.networks.as_score`.
        seed: >= 0.
        batch_size: clouds made together.
        first_index: index of the first cloud; the others follow.
        indices: (B,) the clouds' indices instead, each >= 0.
        stream: separates uses of the same seed, see `mfcdm.randomness.cloud_generators`.
        progress: called with (steps done, steps in all).

    Returns:
        (B, N, D) on the network's device, in its dtype.

    Raises:
        ValueError: if an argument is out of its range.
        FloatingPointError: if particles become non-finite.
    """
    if label is not None and label.shape != (num_clouds,):
        raise ValueError(f"labels must be ({num_clouds},), one a cloud, got {tuple(label.shape)}")
    # A network that is all formula has no weights: torch's default type and the CPU are its own.
    weight = next(chain(network.parameters(), network.buffers()), torch.empty(0))
    dim = getattr(network, "dim", None)
    if not isinstance(dim, int):
        raise ValueError(f"{type(network).__name__} needs an attribute `dim`, the particles' dimension, got {dim!r}")
    for name, value in (("num_clouds", num_clouds), ("num_particles", num_particles), ("batch_size", batch_size)):
        check_whole(name, value, 1)
    steps_a_batch = sampler.num_steps
    num_batches = -(-num_clouds // batch_size)
    indices = range(first_index, first_index + num_clouds) if indices is None else indices
    if len(indices) != num_clouds:
        raise ValueError(f"{num_clouds} clouds need as many indices, got {len(indices)}")
    done = []
    with _evaluating(network):
        for batch, start in enumerate(range(0, num_clouds, batch_size)):
            stop = min(start + batch_size, num_clouds)
            some = None if label is None else label[start:stop].to(weight.device)

            def advance(step: int, batch: int = batch) -> None:
                if progress is not None:
                    progress(batch * steps_a_batch + step, num_batches * steps_a_batch)

            done.append(
                generate_from_score(
                    as_score(network, sde, some, guidance),
                    sde,
                    sampler,
                    subdivision,
                    branching,
                    dim=dim,
                    num_clouds=stop - start,
                    num_particles=num_particles,
                    generator=cloud_generators(seed, indices[start:stop], stream),
                    dtype=weight.dtype,
                    device=weight.device,
                    advance=advance,
                )
            )
    return torch.cat(done)


@torch.no_grad()
def generate_from_score(
    score: Score,
    sde: SDE,
    sampler: Sampler,
    subdivision: Subdivision,
    branching: Branching,
    *,
    dim: int,
    num_clouds: int,
    num_particles: int,
    generator: Generators = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    advance: Callable[[int], None] | None = None,
) -> Tensor:
    """Draw one batch of clouds from any score, for instance an exact law's; arguments as in `generate`.

    Args:
        score: score(x, t, lengths=None) -> (B, N, D).
        sde: the forward process.
        sampler: runs each level.
        subdivision: the levels.
        branching: between levels.
        dim: D.
        num_clouds: B.
        num_particles: N, any number >= 1.
        generator: one for the batch, or one a cloud.
        dtype: of the particles.
        device: of the particles.
        advance: called with the number of steps done.

    Returns:
        (B, N, D).
    """
    levels = subdivision.for_cardinality(num_particles)
    starts = [1.0, *(branching.pushed_time(t, sde) for t in levels.times[1:])]
    grows = [False, *(b > a for a, b in zip(levels.cardinalities[:-1], levels.cardinalities[1:], strict=True))]
    starts = [start if grown else t for start, grown, t in zip(starts, grows, levels.times, strict=True)]
    ends = [*levels.times[1:], sde.t_min]
    steps = share_steps(sampler.num_steps, starts, ends, sde)
    x, done = sde.prior_sample((num_clouds, levels.cardinalities[0], dim), generator, device, dtype), 0
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if grows[k]:
            x, start = branching.branch(x, levels.times[k], sde, levels.cardinalities[k], generator)

        def callback(step: int, t: float, x: Tensor, done: int = done) -> None:
            if advance is not None:
                advance(done + step)

        last = k + 1 == levels.num_levels
        x = sampler.with_steps(steps[k]).sample(
            score, sde, x, t_start=start, t_end=None if last else end, generator=generator, callback=callback
        )
        done += steps[k]
    if x.shape[1] > num_particles:
        kept = random_subset(num_particles, num_clouds, x.shape[1], generator, device=x.device)
        x = x.gather(1, kept[..., None].expand(-1, -1, dim))
    return x


def share_steps(num_steps: int, starts: list[float], ends: list[float], sde: SDE) -> list[int]:
    """Share the steps out over the levels by the log-SNR that each covers, more to late ones, at least one a level.

    The log-SNR of level k of 0..K is weighted by 1 + k / K: the first levels begin where there is no signal yet, and
    the last one settles the detail. `benchmarks/shares.py` compares this with other rules, also by what a level covers
    of a grid that is even in something else, which is no better.

    Args:
        num_steps: in all.
        starts: time at which each level begins, after its push.
        ends: time at which it ends.
        sde: fixes log-SNR.

    Returns:
        steps a level; their sum is num_steps.

    Raises:
        ValueError: if there are fewer steps than levels.
    """
    if num_steps < len(starts):
        raise ValueError(f"num_steps={num_steps} is too few for {len(starts)} levels; every level needs a step")
    log_snr = sde.log_snr(torch.tensor([starts, ends], dtype=torch.float64))
    last = max(len(starts) - 1, 1)
    spans = [span * (1 + k / last) for k, span in enumerate((log_snr[1] - log_snr[0]).tolist())]
    spare = num_steps - len(spans)
    shares = [spare * span / sum(spans) for span in spans]
    steps = [1 + math.floor(share) for share in shares]
    by_remainder = sorted(range(len(spans)), key=lambda k: math.floor(shares[k]) - shares[k])
    for k in by_remainder[: num_steps - sum(steps)]:
        steps[k] += 1
    return steps


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put the network into evaluation mode for a while."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
