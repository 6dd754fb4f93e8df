"""How certain a 1-NNA is: its law under equality by label permutation, and its own interval by subsampling.

Nothing here draws clouds with replacement: a duplicate would be its own nearest neighbour.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mfcdm.metrics.two_sample import joint_distances, nearest_shares, own_set_fraction

# A subsample keeps n^(3/4) clouds of each set: enough that neighbours are nearly as close as in the full sets.
SUBSAMPLE_EXPONENT = 0.75

# Distances gathered at once, 2^23 float64 numbers.
MAX_GATHERED = 2**23


@dataclass(frozen=True)
class OneNearestNeighbourInterval:
    """A 1-NNA with its uncertainty; all numbers are fractions.

    Args:
        score: 1-NNA over the full sets.
        low: lower end of the interval for the score.
        high: upper end of it.
        confidence: of both intervals.
        null_mean: (n - 1) / (2n - 1), the mean of the score where both sets are of one law.
        null_low: lower end of the scores to expect where both sets are of one law.
        null_high: upper end of them.
        p_value: share of label permutations whose score is at least as far from `null_mean`.
    """

    score: float
    low: float
    high: float
    confidence: float
    null_mean: float
    null_low: float
    null_high: float
    p_value: float


def one_nearest_neighbour_interval(
    d_gg: Tensor,
    d_rr: Tensor,
    d_gr: Tensor,
    *,
    num_permutations: int = 1000,
    num_subsamples: int = 1000,
    confidence: float = 0.95,
    generator: torch.Generator | None = None,
    design: Literal["subsampling", "permutation"] = "subsampling",
) -> OneNearestNeighbourInterval:
    """1-NNA with an interval, and with the scores that two samples of one law would give.

    The null: labels are permuted over the 2n clouds, S_pi = 1/2 + 1/(4n) sum_ij z_i W_ij z_j with z = +-1 and W_ij the
    share of j among the nearest neighbours of i. It says whether the score differs from that of equal laws, exactly
    at this n and for these clouds.

    The interval: neighbours are mutual and some clouds are hubs, so the score scatters more than 2n independent
    answers would, deff times more in variance. Subsamples say by how much: two disjoint ones S, S' of m = n^(3/4)
    clouds of each set, drawn without replacement, are two independent experiments, so E (S - S')^2 / 2 = Var(S) with no
    correction for overlap, and deff = Var(S) / (E S (1 - E S) / (2m)). The interval is Wilson's for 2n / deff answers,
    deff >= 1, with a continuity correction; it has a width also at a score of 0 or 1. It takes deff, not the score, to
    be the same for m as for n clouds.

    With design="permutation" deff is that of the permuted labels, Var(S_pi) / (1 / (8n)), which reads nothing but the
    nearest neighbours: for matrices from `nearest_earth_movers`, where other distances are infinite. It takes the
    neighbours' dependence to be that of equal laws.

    Args:
        d_gg: (n, n) distances within the generated set, n >= 4.
        d_rr: (n, n) distances within the reference set.
        d_gr: (n, n) distances between the sets, rows generated.
        num_permutations: of the labels, >= 1; the smallest p-value is 1 / (num_permutations + 1).
        num_subsamples: >= 2, drawn as disjoint pairs.
        confidence: in (0, 1).
        generator: draws permutations and subsamples; default a fixed one, so that two calls agree.
        design: where the interval's deff comes from.

    Returns:
        Score, interval, null interval and p-value.

    Raises:
        ValueError: if the sets differ in size or have fewer than 4 clouds, the matrices do not fit, one holds NaN, a
            number is out of range, or subsampling meets infinite distances.

    Source: Politis, Romano & Wolf, Subsampling (1999); Wilson, Probable inference (1927); Korn & Graubard (1998) for
    the effective number of answers; Schilling, Multivariate two-sample tests based on nearest neighbors (1986).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, but is {confidence}")
    if num_permutations < 1 or num_subsamples < 2:
        raise ValueError(
            "at least 1 permutation and 2 subsamples are needed, "
            f"got num_permutations={num_permutations} and num_subsamples={num_subsamples}"
        )
    joint = joint_distances(d_gg, d_rr, d_gr).cpu()
    n = len(joint) // 2
    if n < 4:
        raise ValueError(f"an interval for 1-NNA needs at least 4 clouds on each side, got {n}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator

    score = float(own_set_fraction(joint))
    null = _permuted_scores(joint, num_permutations, generator)
    if design == "permutation":
        deff = max(1.0, float(null.var(correction=0)) * 8 * n)
    elif int(joint.isinf().sum()) > 2 * n:
        raise ValueError('infinite distances: subsampling needs all neighbours, design="permutation" the nearest only')
    else:
        deff = _design_effect(joint, num_subsamples, generator)
    effective = 2 * n / deff
    low, high = _wilson(score, effective, confidence)
    step = 1 / (2 * n)  # of the grid that the score lives on; a continuity correction widens by half of it
    low, high = max(0.0, low - step / 2), min(1.0, high + step / 2)

    null_mean = (n - 1) / (2 * n - 1)
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    null_low, null_high = null.quantile(tails).tolist()
    # The observed labels are one of the permutations, hence the 1; rounding must not part scores that are equal.
    as_far = (null - null_mean).abs() >= abs(score - null_mean) - 1e-12
    p_value = (1 + int(as_far.sum())) / (1 + num_permutations)
    return OneNearestNeighbourInterval(score, low, high, confidence, null_mean, null_low, null_high, p_value)


def _permuted_scores(joint: Tensor, num_permutations: int, generator: torch.Generator) -> Tensor:
    """1-NNA under random labels, n of each kind, (P,)."""
    n = len(joint) // 2
    shares = nearest_shares(joint)  # (2n, 2n)
    scores = []
    for size in _portions(num_permutations, MAX_GATHERED // (2 * n)):
        z = torch.ones(size, 2 * n, dtype=torch.float64)
        z.scatter_(1, _distinct(size, 2 * n, n, generator), -1.0)
        scores.append(0.5 + ((z @ shares) * z).sum(dim=1) / (4 * n))
    return torch.cat(scores)


def _design_effect(joint: Tensor, num_subsamples: int, generator: torch.Generator) -> float:
    """How many times the score's variance is that of 2n independent answers, at least 1."""
    n = len(joint) // 2
    m = min(round(n**SUBSAMPLE_EXPONENT), n // 2)
    pairs = []
    for size in _portions(num_subsamples // 2, MAX_GATHERED // (2 * (2 * m) ** 2)):
        generated, reference = (_distinct(size, n, 2 * m, generator).view(size, 2, m) for _ in range(2))
        kept = torch.cat([generated, n + reference], dim=2)  # (size, 2, 2m): the two of a pair are disjoint
        pairs.append(own_set_fraction(joint[kept[..., :, None], kept[..., None, :]]))
    subsampled = torch.cat(pairs)  # (P, 2)
    mean = float(subsampled.mean())
    independent = mean * (1 - mean) / (2 * m)
    if independent <= 0:  # all subsamples agree: nothing says that answers depend on each other
        return 1.0
    variance = float((subsampled[:, 0] - subsampled[:, 1]).square().mean()) / 2
    return max(1.0, variance / independent)


def _wilson(score: float, effective: float, confidence: float) -> tuple[float, float]:
    """Wilson's interval for a fraction seen in an effective number of independent answers."""
    z = float(torch.special.ndtri(torch.tensor((1 + confidence) / 2, dtype=torch.float64)))
    middle = (score + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * math.sqrt(score * (1 - score) / effective + (z / (2 * effective)) ** 2)
    # it holds the score, and lies in [0, 1], but for rounding
    return max(0.0, min(score, middle - half)), min(1.0, max(score, middle + half))


def _distinct(size: int, population: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` distinct numbers below `population`, drawn `size` times, (size, count)."""
    keys = torch.rand(size, population, generator=generator, dtype=torch.float64, device=generator.device)
    return keys.argsort(dim=1)[:, :count].cpu()


def _portions(total: int, limit: int) -> list[int]:
    """Sizes that sum to `total`, each at most `limit` (and at least 1)."""
    limit = max(1, limit)
    return [min(limit, total - start) for start in range(0, total, limit)]
