"""Nearest neighbours by the exact earth mover's distance, without solving most of the assignments."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from mfcdm.metrics.all_pairs import Progress, in_threads, silence
from mfcdm.metrics.arguments import Array, as_array, check_alike, result_dtype, separate
from mfcdm.metrics.duals import rising_bounds
from mfcdm.metrics.transport import WORTH_POTENTIALS, Indices, check_size, transport_cost

# A bound within rounding of the limit proves nothing; a share of the largest coordinate.
SLACK = 1e-9

# Pairs settled between two looks at the limits; fixed, so that the assignments do not depend on the number of threads.
BATCH = 32

NUM_DIRECTIONS, NUM_QUANTILES = 32, 128


@dataclass(frozen=True)
class NearestDistances:
    """Exact distances between near clouds of two sets; infinity for pairs that are proven to be none.

    Args:
        d_gg: (G, G) within the generated set.
        d_rr: (R, R) within the reference set.
        d_gr: (G, R) between the sets, rows generated.
        num_pairs: pairs of different clouds in all.
        num_solved: pairs whose transport was solved.
    """

    d_gg: Tensor
    d_rr: Tensor
    d_gr: Tensor
    num_pairs: int
    num_solved: int

    @property
    def share_saved(self) -> float:
        """Share of the assignments that bounds made unnecessary."""
        return 1 - self.num_solved / self.num_pairs if self.num_pairs else 0.0


@torch.no_grad()
def nearest_earth_movers(
    generated: Tensor,
    reference: Tensor,
    *,
    lengths_generated: Tensor | None = None,
    lengths_reference: Tensor | None = None,
    num_nearest: int = 2,
    labellings: Tensor | None = None,
    progress: Progress | None = None,
) -> NearestDistances:
    """Earth mover's distances of every cloud to its nearest clouds, equal to those of the full matrices.

    Exact and complete for: each cloud's nearest cloud in both sets together, and its `num_nearest` nearest in the other
    set, all ties included. So 1-NNA, minimum matching distance and coverage, and their intervals by label permutation
    and jackknife, are those of the full matrices from `pairwise`; what needs more neighbours has to use these.

    With `labellings`, minimum matching distance and coverage are those of the full matrices under each of them too, and
    so are null ranges. They take each cloud's nearest of the other label, which is among its few nearest.

    A pair is solved only if no lower bound exceeds both clouds' current distances to their nearest: first the centroids
    and the Wasserstein distances of projections, then dual potentials of rising quality (`rising_bounds`), whose last
    ones start the exact solver.

    Args:
        generated: (G, N, D).
        reference: (R, M, D).
        lengths_generated: (G,) rows that each generated cloud owns; padding may be NaN.
        lengths_reference: (R,) rows that each reference cloud owns.
        num_nearest: in the other set, >= 1.
        labellings: (P, G + R) bool, ways to divide all clouds, the generated ones first, into two; none by default.
        progress: called with (pairs settled, all pairs), from this thread, as the work goes on.

    Returns:
        The distances, in float64 if an input is, otherwise float32.

    Raises:
        ValueError: if the shapes do not fit, a set or a cloud is empty or too large, or a coordinate is not finite.
    """
    left = separate("generated", generated, lengths_generated)
    right = separate("reference", reference, lengths_reference)
    check_alike(generated, reference)
    if not left or not right:
        raise ValueError(f"both sets need at least one cloud, got {len(left)} and {len(right)}")
    if num_nearest < 1:
        raise ValueError(f"num_nearest must be >= 1, but is {num_nearest}")
    clouds = [as_array(cloud) for cloud in left + right]
    sizes = {len(cloud) for cloud in clouds}
    for size in sizes:
        for other in sizes:
            check_size(size, other)
    if labellings is not None and (labellings.dtype != torch.bool or labellings.shape[1:] != (len(clouds),)):
        raise ValueError(
            f"labellings must be (P, {len(clouds)}) bool, one for each cloud of both sets, "
            f"but are {tuple(labellings.shape)} {labellings.dtype}"
        )
    search = _Search(clouds, len(left), num_nearest, labellings)
    search.run(progress if progress is not None else silence)
    known = torch.from_numpy(search.distance).to(device=generated.device, dtype=result_dtype(generated, reference))
    num_pairs = len(clouds) * (len(clouds) - 1) // 2
    g, r = slice(0, len(left)), slice(len(left), None)
    return NearestDistances(known[g, g], known[r, r], known[g, r], num_pairs, search.num_solved)


class _Search:
    """Distances that are known, lower bounds of those that are not, and which pairs may still matter."""

    def __init__(
        self, clouds: Sequence[Array], num_generated: int, num_nearest: int, labellings: Tensor | None
    ) -> None:
        self.clouds, self.num_nearest, self.num_solved = clouds, num_nearest, 0
        count = len(clouds)
        own = np.arange(count) < num_generated
        self.other = own[:, None] != own  # (T, T)
        self.bound, self.guess = _sketched(clouds)
        self.slack = SLACK * max(float(np.abs(cloud).max()) for cloud in clouds)
        self.distance = np.full((count, count), np.inf)
        np.fill_diagonal(self.distance, 0)
        self.open = np.triu(np.ones((count, count), dtype=bool), 1)
        self.labels = np.zeros((0, count), dtype=bool) if labellings is None else labellings.cpu().numpy()  # (P, T)
        self.opposite = np.full(self.labels.shape, np.inf)  # distance to the nearest known cloud of the other label
        both = self.labels.any(axis=1) & ~self.labels.all(axis=1)
        self.opposite[~both] = 0  # nobody has a cloud of the other label

    def run(self, progress: Progress) -> None:
        """Settle all pairs."""
        num_pairs = int(self.open.sum())
        self._settle(self._first())
        while True:
            limits = self._limits()
            farthest = self.opposite.max(axis=0, initial=0) + self.slack  # (T,)
            self.open &= self.bound <= np.maximum(limits, np.maximum(farthest[:, None], farthest))
            progress(num_pairs - int(self.open.sum()), num_pairs)
            i, j = np.nonzero(self.open)
            if not len(i):
                return
            nearest = np.argsort(self.guess[i, j], kind="stable")[:BATCH]
            i, j = i[nearest], j[nearest]
            limit = np.maximum(limits[i, j], self._labelled_limits(i, j))
            needed = self.bound[i, j] <= limit
            self.open[i[~needed], j[~needed]] = False
            tasks = zip(i[needed].tolist(), j[needed].tolist(), limit[needed].tolist(), strict=True)
            self._settle(list(tasks))

    def _first(self) -> list[tuple[int, int, float]]:
        """The pairs that look nearest between the sets: they give every cloud a limit."""
        guess = np.where(self.other, self.guess, np.inf)
        nearest = np.argsort(guess, axis=1, kind="stable")[:, : self.num_nearest]
        pairs = {(min(i, int(j)), max(i, int(j))) for i, row in enumerate(nearest) for j in row if self.other[i, j]}
        return [(i, j, np.inf) for i, j in sorted(pairs)]

    def _limits(self) -> Array:
        """Beyond which distance a pair matters to neither of its clouds, (T, T)."""
        among_others = np.where(self.other, self.distance, np.inf)
        rank = min(self.num_nearest, len(self.clouds)) - 1
        to_other = np.partition(among_others, rank, axis=1)[:, rank]  # infinite while fewer are known
        nearest = np.where(np.eye(len(self.clouds), dtype=bool), np.inf, self.distance).min(axis=1)
        limit = np.where(self.other, to_other[:, None], nearest[:, None])
        return np.maximum(limit, limit.T) + self.slack

    def _labelled_limits(self, i: Indices, j: Indices) -> Array:
        """Beyond which distance pairs matter under no labelling that parts them, (K,)."""
        apart = self.labels[:, i] != self.labels[:, j]  # (P, K)
        farther = np.maximum(self.opposite[:, i], self.opposite[:, j])
        return np.where(apart, farther, 0.0).max(axis=0, initial=0.0) + self.slack

    def _settle(self, tasks: Sequence[tuple[int, int, float]]) -> None:
        for (i, j, _), (value, exact) in in_threads(self._measure, tasks, silence):
            self.open[i, j] = False
            if exact:
                self.num_solved += 1
                self.distance[i, j] = self.distance[j, i] = value
                apart = self.labels[:, i] != self.labels[:, j]
                for one in (i, j):
                    self.opposite[apart, one] = np.minimum(self.opposite[apart, one], value)

    def _measure(self, task: tuple[int, int, float]) -> tuple[float, bool]:
        """The exact distance of a pair, or a lower bound that exceeds its limit."""
        x, y, limit = self.clouds[task[0]], self.clouds[task[1]], task[2]
        cost = cdist(x, y)
        u = None
        for bound, start, _ in rising_bounds(cost):
            if bound > limit:
                return bound, False
            if max(cost.shape) < WORTH_POTENTIALS:  # solving is as fast as bounding
                break
            u = start
        return transport_cost(x, y, cost, u), True


def _sketched(clouds: Sequence[Array]) -> tuple[Array, Array]:
    """Lower bounds of all distances, and guesses to sort them by, (T, T) each.

    A projection on a direction and a mean over quantiles both bring points nearer: for bins of the quantile function
    F^-1, mean_k |mean of F^-1 - G^-1 over bin k| <= W_1 of the projections <= W_1. So does the mean of all points.
    """
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(NUM_DIRECTIONS, clouds[0].shape[1], generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(theta).numpy()
    sketches = np.stack([_quantiles(cloud @ directions.T) for cloud in clouds])  # (T, P, K)
    centers = np.stack([cloud.mean(axis=0) for cloud in clouds])
    bound = cdist(centers, centers)
    guess: NDArray[np.float64] = np.zeros_like(bound)
    for direction in range(NUM_DIRECTIONS):
        gap = cdist(sketches[:, direction], sketches[:, direction], "cityblock") / NUM_QUANTILES
        bound = np.maximum(bound, gap)
        guess += gap
    return bound, guess


def _quantiles(projected: Array) -> Array:
    """Means of the quantile function over equal bins, (N, P) -> (P, K): its integral is linear between the points."""
    num_points, num_directions = projected.shape
    integral = np.zeros((num_points + 1, num_directions))
    np.cumsum(np.sort(projected, axis=0) / num_points, axis=0, out=integral[1:])
    ends = np.linspace(0, num_points, NUM_QUANTILES + 1)
    at = np.minimum(ends.astype(np.int64), num_points - 1)
    edges = integral[at] + (ends - at)[:, None] * (integral[at + 1] - integral[at])  # (K + 1, P)
    return np.diff(edges, axis=0).T * NUM_QUANTILES
