"""How certain minimum matching distance, coverage and Jensen-Shannon divergence are, and their values under equality.

Intervals leave out one cloud at a time (a jackknife), so nothing is drawn with replacement. Its variance is too large
on average and never too small, for any statistic of independent clouds (Efron & Stein, The jackknife estimate of
variance, 1981). Null ranges permute the labels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from mfcdm.metrics.arguments import Array
from mfcdm.metrics.occupancy import divergence, mean_occupancy
from mfcdm.metrics.two_sample import coverage, matrix, minimum_matching_distance

Score = Callable[[Tensor], float]


@dataclass(frozen=True)
class Interval:
    """A score with its uncertainty.

    Args:
        score: over the full sets.
        low: lower end of the interval for the score.
        high: upper end of it.
        null_low: lower end of the scores to expect where both sets are of one law; None where it is not known.
        null_high: upper end of them.
    """

    score: float
    low: float
    high: float
    null_low: float | None
    null_high: float | None


@dataclass(frozen=True)
class Draws:
    """How sure an interval is, and how it is drawn.

    Args:
        confidence: in (0, 1).
        num_permutations: of the labels, for null ranges.
        seed: of the permutations.

    Raises:
        ValueError: if a number is out of range.
    """

    confidence: float = 0.95
    num_permutations: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, but is {self.confidence}")
        if self.num_permutations < 1:
            raise ValueError(f"num_permutations must be >= 1, but is {self.num_permutations}")


def matching_interval(
    d_gr: Tensor,
    d_gg: Tensor | None = None,
    d_rr: Tensor | None = None,
    draws: Draws | None = None,
    *,
    nearest_only: bool = False,
) -> Interval:
    """`minimum_matching_distance` with an interval; reads the two nearest distances of each cloud.

    Args:
        d_gr: (G, R), rows generated, G and R >= 2.
        d_gg: (G, G), for the null range; with infinite distances there is none.
        d_rr: (R, R).
        draws: how sure, and how many permutations.
        nearest_only: the matrices are those of `nearest_earth_movers` with the `labellings` of the same draws, whose
            infinite distances no permutation asks for.

    Raises:
        ValueError: if a set has one cloud, a matrix does not fit, or a number is out of range.
    """
    draws = draws or Draws()
    score = minimum_matching_distance(d_gr)
    num_generated, num_reference = _sizes(d_gr)
    two = d_gr.double().topk(2, dim=0, largest=False)
    nearest, second = two.values  # (R,) each
    loss = torch.zeros(num_generated, dtype=torch.float64, device=d_gr.device)
    loss.index_add_(0, two.indices[0], second - nearest)
    without_g = score + loss / num_reference
    without_r = (num_reference * score - nearest) / (num_reference - 1)
    null = _permuted(minimum_matching_distance, d_gr, d_gg, d_rr, draws, nearest_only)
    return _interval(score, [without_g.cpu().numpy(), without_r.cpu().numpy()], null, np.inf, draws)


def coverage_interval(
    d_gr: Tensor,
    d_gg: Tensor | None = None,
    d_rr: Tensor | None = None,
    draws: Draws | None = None,
    *,
    nearest_only: bool = False,
) -> Interval:
    """`coverage` with an interval; arguments as in `matching_interval`."""
    draws = draws or Draws()
    score = coverage(d_gr)
    _, num_reference = _sizes(d_gr)
    distances = d_gr.double().cpu().numpy()
    nearest = distances == distances.min(axis=1, keepdims=True)  # (G, R)
    behind = np.where(nearest, np.inf, distances)
    second = (behind == behind.min(axis=1, keepdims=True)) & np.isfinite(behind)
    times = nearest.sum(axis=0)  # (R,)
    without_g = ((times > 0).sum() - (nearest & (times == 1)).sum(axis=1)) / num_reference
    alone = nearest.sum(axis=1) == 1
    without_r = np.empty(num_reference)
    for r in range(num_reference):  # those whose only nearest is r go to their second nearest
        gained = second[nearest[:, r] & alone].any(axis=0) & (times == 0)
        without_r[r] = ((times > 0).sum() - (times[r] > 0) + gained.sum()) / (num_reference - 1)
    null = _permuted(coverage, d_gr, d_gg, d_rr, draws, nearest_only)
    return _interval(score, [without_g, without_r], null, 1.0, draws)


def divergence_interval(p: csr_array, q: csr_array, draws: Draws | None = None) -> Interval:
    """`jensen_shannon_divergence` with an interval, from the `occupancies` of both sets.

    Args:
        p: (G, cells) histograms of the generated clouds, G >= 2.
        q: (R, cells) histograms of the reference clouds, R >= 2.
        draws: how sure, and how many permutations.

    Raises:
        ValueError: if a set has one cloud, or a number is out of range.
    """
    if min(p.shape[0], q.shape[0]) < 2:
        raise ValueError(f"an interval needs at least 2 clouds on each side, got {p.shape[0]} and {q.shape[0]}")
    draws = draws or Draws()
    mean_p, mean_q = mean_occupancy(p), mean_occupancy(q)
    score = float(divergence(mean_p, mean_q))
    leave_one_out = [_without_each(p, mean_p, mean_q), _without_each(q, mean_q, mean_p)]
    total = mean_p * p.shape[0] + mean_q * q.shape[0]
    null = []
    for labels in labellings(p.shape[0], q.shape[0], draws):
        z = labels.double().numpy()
        first = p.T @ z[: p.shape[0]] + q.T @ z[p.shape[0] :]
        # what is left of a cell that is all the first set's may round below 0
        null.append(float(divergence(first / p.shape[0], np.maximum(total - first, 0) / q.shape[0])))
    return _interval(score, leave_one_out, null, 1.0, draws)


def _without_each(rows: csr_array, mean: Array, other: Array) -> Array:
    """Divergence between a set without each of its clouds in turn and another set, (S,)."""
    count = rows.shape[0]
    values = np.empty(count)
    for index in range(count):
        rest = mean * count
        cells = slice(rows.indptr[index], rows.indptr[index + 1])
        rest[rows.indices[cells]] -= rows.data[cells]
        values[index] = divergence(np.maximum(rest, 0) / (count - 1), other)
    return values


def _permuted(
    score: Score,
    d_gr: Tensor,
    d_gg: Tensor | None,
    d_rr: Tensor | None,
    draws: Draws,
    nearest_only: bool,
) -> list[float]:
    """Scores under random labels, as many of each as there are; none where distances are missing."""
    if d_gg is None or d_rr is None:
        return []
    num_generated, num_reference = _sizes(d_gr)
    if tuple(d_gg.shape) != (num_generated,) * 2 or tuple(d_rr.shape) != (num_reference,) * 2:
        raise ValueError(f"d_gr {tuple(d_gr.shape)} does not fit {tuple(d_gg.shape)} and {tuple(d_rr.shape)}")
    joint = torch.cat([torch.cat([d_gg, d_gr], dim=1), torch.cat([d_gr.T, d_rr], dim=1)]).double().cpu()
    if not nearest_only and not bool(joint.isfinite().all()):
        return []
    return [score(joint[first][:, ~first]) for first in labellings(num_generated, num_reference, draws)]


def labellings(num_generated: int, num_reference: int, draws: Draws) -> Tensor:
    """The permutations of the labels that null ranges are made of.

    Returns:
        (P, G + R) bool, True for the G clouds that are called generated.
    """
    generator = torch.Generator().manual_seed(draws.seed)
    total = num_generated + num_reference
    labels = torch.zeros(draws.num_permutations, total, dtype=torch.bool)
    for row in labels:
        row[torch.randperm(total, generator=generator)[:num_generated]] = True
    return labels


def _interval(score: float, leave_one_out: list[Array], null: list[float], largest: float, draws: Draws) -> Interval:
    """Normal interval with the jackknife's variance, the sum over both sets of (n-1)/n sum_i (score_-i - mean)^2."""
    confidence = draws.confidence
    variance = sum((len(values) - 1) * float(np.var(values)) for values in leave_one_out)
    z = float(torch.special.ndtri(torch.tensor((1 + confidence) / 2, dtype=torch.float64)))
    half = z * variance**0.5
    tails = np.quantile(null, [(1 - confidence) / 2, (1 + confidence) / 2]) if null else (None, None)
    null_low, null_high = (None if tail is None else float(tail) for tail in tails)
    return Interval(score, max(0.0, score - half), min(largest, score + half), null_low, null_high)


def _sizes(d_gr: Tensor) -> tuple[int, int]:
    num_generated, num_reference = matrix("d_gr", d_gr).shape
    if min(num_generated, num_reference) < 2:
        raise ValueError(f"an interval needs at least 2 clouds on each side, got {num_generated} and {num_reference}")
    return num_generated, num_reference
