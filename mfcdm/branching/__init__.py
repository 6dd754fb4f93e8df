"""Branching: from N_{k-1} particles to N_k at the time tau_k where a finer level begins."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from mfcdm.branching.learned import Learned
from mfcdm.branching.renoise import Renoise, branched
from mfcdm.randomness import Generators
from mfcdm.sde import SDE

__all__ = ["Branching", "Learned", "Renoise", "branched"]


@runtime_checkable
class Branching(Protocol):
    """A rule that turns few particles into many."""

    def pushed_time(self, t: float, sde: SDE) -> float:
        """The time that `branch` moves particles of time t to."""

    def branch(
        self, x: Tensor, t: float, sde: SDE, num_particles: int, generator: Generators = None
    ) -> tuple[Tensor, float]:
        """Turn the particles at time t into `num_particles` particles at the pushed time.

        Args:
            x: (B, N, D) particles at time t.
            t: their time, in (0, 1].
            sde: the forward process.
            num_particles: cardinality of the result; where more are made, a random subset is kept.
            generator: one for the batch, or one a cloud.

        Returns:
            particles (B, num_particles, D) and their time.

        Raises:
            ValueError: if num_particles < 1 or x holds no particle.
        """
