"""Batches as a function of (seed, step) alone, so that a resumed run sees what an uninterrupted one would."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mfcdm.datasets.clouds import Clouds
from mfcdm.randomness import cloud_generators
from mfcdm.training.augmentation import NO_CHANGE, Augmentation

# Streams of `cloud_generators` for training: sampling uses stream 0, so a seed may be shared.
NOISE, ORDER, BRANCHING, SUBSET, CHANGE, BRANCHING_ERROR = 1, 2, 6, 7, 8, 9


@dataclass(frozen=True)
class Batches:
    """Random batches of a set of clouds: every epoch is one permutation of the whole set.

    Args:
        clouds: the training set.
        batch_size: clouds a batch.
        seed: of the order, of the noise, and of every cloud's changes.
        max_points: of a larger cloud a random subset of so many points, without replacement, is read; None for all.
        augmentation: of every cloud, from the generator of its place in the run: (seed, step * batch_size + row).
        part: (k, n) for the k-th of n equal parts of every batch alone, from 0 on; of other clouds nothing is read.
    """

    clouds: Clouds
    batch_size: int
    seed: int
    max_points: int | None = None
    augmentation: Augmentation = NO_CHANGE
    part: tuple[int, int] = (0, 1)

    def indices(self, step: int) -> Tensor:
        """Clouds of the whole batch `step`, (batch_size,); an epoch may end inside it, where sizes do not divide."""
        size = len(self.clouds)
        epochs = self._places(step) // size
        orders = {int(epoch): _order(size, self.seed, int(epoch)) for epoch in np.unique(epochs)}
        return torch.tensor([int(orders[int(e)][p % size]) for e, p in zip(epochs, self._places(step), strict=True)])

    def at(self, step: int) -> Clouds:
        """Batch `step`, or its part."""
        return self._read(step)

    def generator(self, step: int) -> torch.Generator:
        """The source of every other draw of training step `step`."""
        return cloud_generators(self.seed, [step], NOISE)[0]

    def _read(self, step: int) -> Clouds:
        chosen = self.indices(step)[self._rows]
        if self.max_points is None or self.clouds.x.shape[1] <= self.max_points:
            batch = self.clouds[chosen]
        else:
            batch = self._thinned(chosen, step, self.max_points)
        # A step in float64 changes torch's default type, beside which the next batch is read.
        batch = replace(batch, x=batch.x.to(self.clouds.x.dtype))
        if self.augmentation.active:
            sizes = [batch.x.shape[1]] * len(batch) if batch.lengths is None else batch.lengths.tolist()
            for x, size, generator in zip(batch.x, sizes, self._generators(step, CHANGE), strict=True):
                x[:size] = self.augmentation(x[:size], generator)
        return batch

    def _thinned(self, chosen: Tensor, step: int, size: int) -> Clouds:
        """Clouds of at most `size` points; no more of them than these are read."""
        num_points, dim = self.clouds.x.shape[1:]
        lengths = torch.full((len(self.clouds),), num_points) if self.clouds.lengths is None else self.clouds.lengths
        x = torch.zeros(len(chosen), size, dim)
        for row, index, generator in zip(x, chosen.tolist(), self._generators(step, SUBSET), strict=True):
            own = int(lengths[index])
            cloud = self.clouds.cloud(index, distinct(own, size, generator) if own > size else None)
            row[: len(cloud)] = cloud
        kept = None if self.clouds.smallest[1] >= size else lengths[chosen].clamp_max(size)
        labels = None if self.clouds.labels is None else self.clouds.labels[chosen]
        return Clouds(x, kept, labels, self.clouds.categories)

    @property
    def _rows(self) -> slice:
        """Those of a batch that are read."""
        (k, n), size = self.part, self.batch_size
        return slice(k * size // n, (k + 1) * size // n)

    def _places(self, step: int) -> np.ndarray:
        """Of the batch's clouds in the whole run, (batch_size,)."""
        return np.arange(step * self.batch_size, (step + 1) * self.batch_size)

    def _generators(self, step: int, stream: int) -> list[torch.Generator]:
        """One for each cloud that is read."""
        return cloud_generators(self.seed, self._places(step)[self._rows].tolist(), stream)


@dataclass(frozen=True)
class BatchesAhead(Batches):
    """The same batches; while a step computes, the next one's batch is read in a thread.

    What fails in the thread is raised by the `at` that asks for the batch. The thread ends with this object, or with
    the program, at most one batch later; there is nothing to be stopped, whatever ends a run.
    """

    _reader: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, "batches"), init=False, repr=False, compare=False
    )
    _ahead: dict[int, "Future[Clouds]"] = field(default_factory=dict, init=False, repr=False, compare=False)

    def at(self, step: int) -> Clouds:
        """Batch `step`."""
        ready = self._ahead.pop(step, None)
        batch = self._read(step) if ready is None else ready.result()
        while self._ahead:  # what was read for a step that did not come
            self._ahead.popitem()[1].cancel()
        self._ahead[step + 1] = self._reader.submit(self._read, step + 1)
        return batch


def distinct(num_points: int, size: int, generator: torch.Generator) -> Tensor:
    """`size` different numbers below `num_points`, any such set equally likely, in ascending order.

    The first `size` different ones of independent draws: work and memory grow with `size` alone.

    Args:
        num_points: at least `size`.
        size: how many.
        generator: of the draws.
    """
    if num_points < 4 * size:
        return torch.randperm(num_points, generator=generator)[:size].sort().values
    found = np.empty(0, dtype=np.int64)
    while len(found) < size:
        drawn = torch.randint(num_points, (2 * size,), generator=generator).numpy()
        every = np.concatenate([found, drawn])
        found = every[np.sort(np.unique(every, return_index=True)[1])]  # in the order in which they came
    return torch.from_numpy(np.sort(found[:size]))


@lru_cache(maxsize=2)  # an epoch's end falls inside a batch
def _order(size: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(size, generator=cloud_generators(seed, [epoch], ORDER)[0])
