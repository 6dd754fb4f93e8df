"""How far a branched set of particles is from the law of its cloud, compared with a fresh set of the same size.

The energy distance of the measure mu = 1/n sum_i delta_{u_i} to a law p, of which y_1..y_m are independent draws, is

    D^2(mu, p) = 2 E|u - y| - E|u - u'| - E|y - y'|  ~  2/(nm) sum_ij |u_i - y_j| - 1/n^2 sum_ij |u_i - u_j| - U,
    U = 1/(m (m - 1)) sum_{j != l} |y_j - y_l|,

an unbiased estimate. D^2 is the energy score of the forecast mu, which is a proper scoring rule: no law but p itself
has a smaller D^2 to p. n independent draws of p have E D^2 = E|y - y'| / n, so that D^2 - U / n has mean 0 for a fresh
set, and mean (b - 1) E|y - y'| / n for b copies of n / b independent draws.

|v| is the mean of |<theta, v>| / kappa over all directions theta, kappa = E|theta_1|, and on a line, with the
distribution functions F of the u and G of the y,  2/(nm) sum |.| - 1/n^2 sum |.| - 1/m^2 sum |.| = 2 int (F - G)^2.
So a few random directions give an unbiased estimate with all particles at the cost of a sort, O((n + m) log(n + m)).
Source: Gneiting & Raftery, Strictly proper scoring rules (2007); Szekely & Rizzo, Energy statistics (2013).
"""

import math

import torch
from torch import Tensor

from mfcdm.randomness import Generators, standard_normal


def random_directions(dim: int, num_directions: int, generator: Generators = None) -> Tensor:
    """Directions (D, L), uniform on the sphere: orthonormal frames, whose estimates scatter less than free ones'.

    Args:
        dim: D.
        num_directions: L; the last frame is cut where D does not divide it.
        generator: one generator; of several, the first is used.
    """
    one = generator if generator is None or isinstance(generator, torch.Generator) else generator[0]
    num_frames = -(-num_directions // dim)
    frames = torch.linalg.qr(standard_normal((num_frames, dim, dim), one, dtype=torch.float64)).Q
    return frames.movedim(0, 1).flatten(1)[:, :num_directions]


def energy_excess(u: Tensor, y: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """D^2 - U / n of every cloud, and the D^2 = U / n that a fresh set has on average.

    Args:
        u: (B, n, D) particles, with gradient.
        y: (B, m, D) independent draws of each cloud's law, m >= 2, independent of u.
        directions: (D, L) unit vectors.

    Returns:
        (B,) and (B,), the latter without gradient; unbiased over uniform directions.

    Raises:
        ValueError: if there are fewer than two fresh draws, or no particle.
    """
    (_, n, dim), m = u.shape, y.shape[1]
    if n < 1 or m < 2:
        raise ValueError(f"an energy distance needs particles and at least two fresh draws, got {n} and {m}")
    values, order = (directions.to(u).T @ torch.cat((u, y), dim=1).mT).sort(dim=-1)  # (B, L, n + m)
    gap = values.diff(dim=-1)
    below = (order < n).cumsum(dim=-1)[..., :-1].to(u)  # how many of u lie left of each gap
    f, g = below / n, (torch.arange(1, n + m).to(u) - below) / m
    scale = 2 / (projection_mean(dim) * directions.shape[1])
    cramer = scale * ((f - g).square() * gap).sum(dim=(1, 2))
    within = scale * (g * (1 - g) * gap.detach()).sum(dim=(1, 2))  # 1/m^2 sum |y - y'|
    of_fresh = within * m / (m - 1) / n
    return cramer - within / (m - 1) - of_fresh, of_fresh


def projection_mean(dim: int) -> float:
    """kappa = E|theta_1| for theta uniform on the sphere in R^D: 1, 2 / pi, 1 / 2, ..."""
    return math.exp(math.lgamma(dim / 2) - math.lgamma((dim + 1) / 2)) / math.sqrt(math.pi)
