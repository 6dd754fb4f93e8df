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
        """Particles (B, num_particles, D) and their time."""
