"""Scores of a generated set against a reference set, from matrices of distances between clouds.

d_gr is (G, R): rows are generated clouds, columns reference clouds. d_gg is (G, G) and d_rr (R, R); their diagonals
are not read. All three come from `pairwise` with one metric.
"""

import math

import torch
from torch import Tensor


def minimum_matching_distance(d_gr: Tensor) -> float:
    """Mean over the reference clouds of the distance to the nearest generated cloud (0 is best).

    1/R sum_r min_g d_gr. It falls as more clouds are generated, so compare it at equal sizes only.

    Args:
        d_gr: (G, R), rows generated.

    Returns:
        A number in the units of the distance.

    Raises:
        ValueError: if the matrix is empty, no matrix, or holds NaN.

    Source: Achlioptas et al., Learning representations and generative models for 3D point clouds (2018).
    """
    return float(matrix("d_gr", d_gr).amin(dim=0).mean())


def coverage(d_gr: Tensor) -> float:
    """Fraction of the reference clouds that are the nearest of at least one generated cloud (1 is best).

    A generated cloud with several nearest references, at exactly equal distance, covers all of them. Two samples of
    one law of equal size reach about 0.5 to 0.6 and not 1; it grows as more clouds are generated.

    Args:
        d_gr: (G, R), rows generated.

    Returns:
        A fraction in (0, 1].

    Raises:
        ValueError: if the matrix is empty, no matrix, or holds NaN.

    Source: Achlioptas et al., Learning representations and generative models for 3D point clouds (2018).
    """
    d_gr = matrix("d_gr", d_gr)
    covered = (d_gr == d_gr.amin(dim=1, keepdim=True)).any(dim=0)
    return float(covered.double().mean())


def one_nearest_neighbour_accuracy(d_gg: Tensor, d_rr: Tensor, d_gr: Tensor) -> float:
    """Fraction of the 2n clouds whose nearest other cloud is of their own set (0.5 is best, 1 is worst).

    1-NNA = 1/(2n) sum_i [nearest other cloud of i is of i's set]. For two samples of one law the mean is exactly
    (n - 1) / (2n - 1), a little below 1/2, because only n - 1 of the 2n - 1 others are of one's own set.

    Ties: where k clouds are nearest at exactly equal distance, each counts 1/k, which is the mean over random
    choices and keeps that null mean exact. Identical sets of distinct clouds give 0: each cloud's copy is nearest.

    Args:
        d_gg: (n, n) distances within the generated set.
        d_rr: (n, n) distances within the reference set.
        d_gr: (n, n) distances between the sets, rows generated.

    Returns:
        A fraction in [0, 1], over the full sets: no batches, whose mean flatters.

    Raises:
        ValueError: if the sets differ in size, the matrices do not fit, or one holds NaN.

    Source: Lopez-Paz & Oquab, Revisiting classifier two-sample tests (2017); Yang et al., PointFlow (2019).
    """
    return float(own_set_fraction(joint_distances(d_gg, d_rr, d_gr)))


def joint_distances(d_gg: Tensor, d_rr: Tensor, d_gr: Tensor) -> Tensor:
    """Distances between all 2n clouds, generated first, infinite on the diagonal: nobody is its own neighbour.

    Returns:
        (2n, 2n) float64.

    Raises:
        ValueError: if the sets differ in size, the matrices do not fit, or one holds NaN.
    """
    d_gg, d_rr, d_gr = matrix("d_gg", d_gg), matrix("d_rr", d_rr), matrix("d_gr", d_gr)
    num_generated, num_reference = d_gr.shape
    if num_generated != num_reference:
        raise ValueError(
            f"1-NNA needs equally many generated and reference clouds, got {num_generated} and {num_reference}: "
            "sets of unequal size are told apart by their size alone"
        )
    for name, distances in (("d_gg", d_gg), ("d_rr", d_rr)):
        if distances.shape != d_gr.shape:
            raise ValueError(f"{name} must be {tuple(d_gr.shape)} like d_gr, but has shape {tuple(distances.shape)}")
    joint = torch.cat([torch.cat([d_gg, d_gr], dim=1), torch.cat([d_gr.T, d_rr], dim=1)])
    return joint.fill_diagonal_(math.inf)


def nearest_shares(joint: Tensor) -> Tensor:
    """Share of each cloud's nearest neighbours that each other cloud has; ties are shared equally, rows sum to 1.

    Args:
        joint: (..., 2n, 2n), infinite on the diagonal.

    Returns:
        (..., 2n, 2n) float64.
    """
    nearest = (joint == joint.amin(dim=-1, keepdim=True)).double()
    return nearest / nearest.sum(dim=-1, keepdim=True)


def own_set_fraction(joint: Tensor) -> Tensor:
    """1-NNA of (..., 2n, 2n) distances whose first n clouds are one set and whose last n are the other, (...)."""
    n = joint.shape[-1] // 2
    shares = nearest_shares(joint)
    own = shares[..., :n, :n].sum(dim=(-2, -1)) + shares[..., n:, n:].sum(dim=(-2, -1))
    return own / (2 * n)


def matrix(name: str, distances: Tensor) -> Tensor:
    """A matrix of distances in float64.

    Raises:
        ValueError: if it is empty, no matrix, or holds NaN.
    """
    if distances.ndim != 2 or 0 in distances.shape:
        raise ValueError(f"{name} must be a matrix of distances, but has shape {tuple(distances.shape)}")
    if bool(distances.isnan().any()):
        raise ValueError(f"{name} holds {int(distances.isnan().sum())} distances that are NaN")
    return distances.double()
