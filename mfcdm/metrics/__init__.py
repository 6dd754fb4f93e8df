"""Distances between clouds."""

from mfcdm.metrics.sliced import sliced_wasserstein_distance

__all__ = ["sliced_wasserstein_distance"]
