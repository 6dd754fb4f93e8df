"""Branching: from N_{k-1} particles to N_k at the time tau_k where a finer level begins."""

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
        """Turn the particles at time t into `num_particles` particles at the pushed time.

        Args:
            x: (B, N, D) particles at time t.
            t: their time, in (0, 1].
            sde: the forward process.
            num_particles: cardinality of the result; ceil(num_particles / N) copies are made and a random subset kept.
            generator: one for the batch, or one a cloud.

        Returns:
            particles (B, num_particles, D) and their time.

        Raises:
            ValueError: if num_particles < 1 or x holds no particle.
        """
        copies = branched(x, num_particles, generator)
        pushed = self.pushed_time(t, sde)
        s, time = (torch.full((x.shape[0],), value, dtype=x.dtype, device=x.device) for value in (t, pushed))
        mean, std = sde.transition(copies, s, time)
        noise = standard_normal(copies.shape, generator, dtype=x.dtype, device=x.device)
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
    num_clouds, num_parents, dim = x.shape
    if num_particles < 1 or num_parents < 1:
        raise ValueError(f"branching needs particles on both sides, got {num_parents} -> {num_particles}")
    copies = x.repeat(1, -(-num_particles // num_parents), 1)  # (B, b N, D)
    if copies.shape[1] == num_particles:
        return copies
    kept = random_subset(num_particles, num_clouds, copies.shape[1], generator, device=x.device)
    return copies.gather(1, kept[..., None].expand(-1, -1, dim))
