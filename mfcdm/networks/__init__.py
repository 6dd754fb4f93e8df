"""Score networks and the conversions between v, noise, x_0 and score."""

from mfcdm.networks.compiled import compiled
from mfcdm.networks.score_network import ScoreNetwork, as_score

__all__ = ["ScoreNetwork", "as_score", "compiled"]
