"""Batches as a function of (seed, step) alone, so that a resumed run sees what an uninterrupted one would."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mfcdm.datasets.clouds import Clouds
from mfcdm.randomness import cloud_generators

# Streams of `cloud_generators` for training: sampling uses stream 0, so a seed may be shared.
NOISE, ORDER = 1, 2


@dataclass(frozen=True)
class Batches:
    """Random batches of a set of clouds: every epoch is one permutation of the whole set.

    Args:
        clouds: the training set.
        batch_size: clouds a batch.
        seed: of the order and of the noise.
    """

    clouds: Clouds
    batch_size: int
    seed: int

    def indices(self, step: int) -> Tensor:
        """Clouds of batch `step`, (batch_size,); an epoch's end falls inside a batch where the sizes do not divide."""
        first, size = step * self.batch_size, len(self.clouds)
        positions = np.arange(first, first + self.batch_size)
        epochs = positions // size
        orders = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        return torch.tensor([int(orders[int(e)][p % size]) for e, p in zip(epochs, positions, strict=True)])

    def at(self, step: int) -> Clouds:
        """Batch `step`."""
        return self.clouds[self.indices(step)]

    def generator(self, step: int) -> torch.Generator:
        """The source of every other draw of training step `step`."""
        return cloud_generators(self.seed, [step], NOISE)[0]

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(len(self.clouds), generator=cloud_generators(self.seed, [epoch], ORDER)[0])
