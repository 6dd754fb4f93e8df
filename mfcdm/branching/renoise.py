"""Branching by copying and renoising."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mfcdm.randomness import Generators, random_subset, standard_normal
from mfcdm.sde import SDE


@dataclass(frozen=True)
class Renoise:
    """Copy every particle, then push the copies back towards noise independently.

    b copies a parent follow the forward kernel from tau to the time whose log-SNR is lower by `push` nats (at most
    t = 1), and are denoised again from there. The law of one particle is kept exactly; copies of one parent stay
    correlated, less and less as the push grows: `benchmarks/branching.py` measures how much, and chose the default.

    Args:
        push: log-SNR given up, in nats, >= 0.

    Raises:
        ValueError: if push is negative or not finite.
    """

    push: float = 2.1

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        if not 0.0 <= self.push < math.inf:
            raise ValueError(f"push must be >= 0 nats and finite, got {self.push}")

    def pushed_time(self, t: float, sde: SDE) -> float:
        """The time whose log-SNR is lower than that of t by `push`, at most 1."""
        ends = sde.log_snr(torch.tensor([t, 1.0], dtype=torch.float64))
        return min(1.0, float(sde.time_of_log_snr(torch.maximum(ends[0] - self.push, ends[1]))))

    def branch(
        self, x: Tensor, t: float, sde: SDE, num_particles: int, generator: Generators = None
    ) -> tuple[Tensor, float]:
        """As `Branching.branch`: ceil(num_particles / N) copies are made of every particle, and pushed."""
        return self.pushed(branched(x, num_particles, generator), t, sde, generator)

    def pushed(self, x: Tensor, t: float, sde: SDE, generator: Generators = None) -> tuple[Tensor, float]:
        """Particles (B, N, D) of time t pushed by the forward kernel with independent noise, and their new time."""
        pushed = self.pushed_time(t, sde)
        s, time = (torch.full((x.shape[0],), value, dtype=x.dtype, device=x.device) for value in (t, pushed))
        mean, std = sde.transition(x, s, time)
        noise = standard_normal(x.shape, generator, dtype=x.dtype, device=x.device)
        return mean + std[:, None, None] * noise, pushed


def branched(x: Tensor, num_particles: int, generator: Generators = None) -> Tensor:
    """ceil(num_particles / N) copies of every particle, of which a random subset of `num_particles` is kept.

    Args:
        x: (B, N, D).
        num_particles: cardinality of the result.
        generator: one for the batch, or one a cloud.

    Returns:
        (B, num_particles, D).

    Raises:
        ValueError: if num_particles < 1 or x holds no particle.
    """
    return kept(x.repeat(1, num_copies(x, num_particles), 1), num_particles, generator)


def num_copies(x: Tensor, num_particles: int) -> int:
    """b = ceil(num_particles / N) for particles (B, N, D).

    Raises:
        ValueError: if num_particles < 1 or x holds no particle.
    """
    num_parents = x.shape[1]
    if num_particles < 1 or num_parents < 1:
        raise ValueError(f"branching needs particles on both sides, got {num_parents} -> {num_particles}")
    return -(-num_particles // num_parents)


def kept(x: Tensor, num_particles: int, generator: Generators = None) -> Tensor:
    """A random subset of `num_particles` of the particles (B, N, D); nothing is drawn where that is all of them."""
    num_clouds, num_made, dim = x.shape
    if num_made == num_particles:
        return x
    rows = random_subset(num_particles, num_clouds, num_made, generator, device=x.device)
    return x.gather(1, rows[..., None].expand(-1, -1, dim))
