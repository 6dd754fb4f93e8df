"""The pairwise term: a convolution of an empirical measure, truncated to a ball.

    B[nu](x_i) = int_{|y - x_i| < R} w_h(|y - x_i|) V_h(y) nu(dy)
    w_h(r)     = exp(-r^2 / (2 bandwidth_h^2)) (1 - r^2 / R^2)^2

`reference` is the definition. `geometry` finds the pairs of tiles that can interact; `tiled` sums over those only, in
torch, and `native` likewise, in C. `dispatch` validates the arguments and chooses.
"""

from mfcdm.interaction.dispatch import BackendUnavailable, available_backends, ball_convolution, uses_geometry
from mfcdm.interaction.geometry import BallGeometry

__all__ = ["BackendUnavailable", "BallGeometry", "available_backends", "ball_convolution", "uses_geometry"]
