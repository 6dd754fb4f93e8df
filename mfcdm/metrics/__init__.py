"""Distances between clouds, and scores of a generated set against a reference set."""

from mfcdm.metrics.all_pairs import pairwise
from mfcdm.metrics.chamfer import chamfer_distance
from mfcdm.metrics.intervals import OneNearestNeighbourInterval, one_nearest_neighbour_interval
from mfcdm.metrics.occupancy import jensen_shannon_divergence
from mfcdm.metrics.sliced import sliced_wasserstein_distance
from mfcdm.metrics.transport import earth_movers_distance
from mfcdm.metrics.two_sample import coverage, minimum_matching_distance, one_nearest_neighbour_accuracy

__all__ = [
    "OneNearestNeighbourInterval",
    "chamfer_distance",
    "coverage",
    "earth_movers_distance",
    "jensen_shannon_divergence",
    "minimum_matching_distance",
    "one_nearest_neighbour_accuracy",
    "one_nearest_neighbour_interval",
    "pairwise",
    "sliced_wasserstein_distance",
]
