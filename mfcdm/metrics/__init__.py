"""Distances between clouds, and scores of a generated set against a reference set."""

from mfcdm.metrics.all_pairs import pairwise
from mfcdm.metrics.chamfer import chamfer_distance
from mfcdm.metrics.f_score import f_score
from mfcdm.metrics.intervals import OneNearestNeighbourInterval, one_nearest_neighbour_interval
from mfcdm.metrics.jackknife import Draws, Interval, coverage_interval, divergence_interval, matching_interval
from mfcdm.metrics.nearest import NearestDistances, nearest_earth_movers
from mfcdm.metrics.occupancy import jensen_shannon_divergence
from mfcdm.metrics.pytorch3d_interop import PyTorch3DMissing, from_pointclouds, to_pointclouds
from mfcdm.metrics.sinkhorn import Bracket, sinkhorn_emd
from mfcdm.metrics.sliced import sliced_wasserstein_distance
from mfcdm.metrics.transport import earth_movers_distance
from mfcdm.metrics.two_sample import coverage, minimum_matching_distance, one_nearest_neighbour_accuracy

__all__ = [
    "Bracket",
    "Draws",
    "Interval",
    "NearestDistances",
    "OneNearestNeighbourInterval",
    "PyTorch3DMissing",
    "chamfer_distance",
    "coverage",
    "coverage_interval",
    "divergence_interval",
    "earth_movers_distance",
    "f_score",
    "from_pointclouds",
    "jensen_shannon_divergence",
    "matching_interval",
    "minimum_matching_distance",
    "nearest_earth_movers",
    "one_nearest_neighbour_accuracy",
    "one_nearest_neighbour_interval",
    "pairwise",
    "sinkhorn_emd",
    "sliced_wasserstein_distance",
    "to_pointclouds",
]
