"""The local form of mean-field interaction: what the measure looks like near a particle.

Everything here is a ratio of averages int w_h f dnu over a ball, w_h(r) = exp(-r^2 / (2 b_h^2)) max(0, 1 - r^2)^2 in
units of the radius R(t). It commutes with permutations and has a limit as N grows.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mfcdm.networks.neighbourhood import Neighbourhood

Pair = tuple[int, int]  # row and column of a matrix

# Added to the local density, itself at most 1: where nobody but the particle itself is near, its own weight 1/N would
# otherwise be all of the average, for every N, and an average that one particle makes has no mean-field limit.
DENSITY_FLOOR = 4e-3


LARGEST_FACTOR = 12.0  # learned lengths and variances stay within exp(12) of where they begin


def bounded_exp(logarithm: Tensor, start: Tensor) -> Tensor:
    """exp(start + L tanh((logarithm - start) / L)), L = 12: the exponential near its start, never 0 or infinite."""
    return (start + LARGEST_FACTOR * ((logarithm - start) / LARGEST_FACTOR).tanh()).exp()


def log_bandwidths(num_scales: int) -> Tensor:
    """log b_h from 1/8 to 3/4 of the radius, (H,)."""
    return torch.linspace(math.log(1 / 8), math.log(3 / 4), num_scales)


class LocalGaussian(nn.Module):
    """The Gaussian that fits the measure near a particle, and the way to it.

    With rho = int w dnu, d = int w (y - x_i) dnu / rho and C = int w (y - x_i)(y - x_i)^T dnu / rho - d d^T,

        p = sqrt(c) (C + c I)^-1 d,     c = c_h(t) > 0 learned.

    C^-1 d is the score at x_i of the Gaussian that the measure is near x_i, for every bandwidth: weighting a Gaussian
    by exp(-r^2 / (2 b^2)) narrows C and draws the mean nearer, and leaves C^-1 d as it is. On a noisy surface p keeps
    of d what points across the surface, where C is small, and drops what lies along it, which says nothing of the
    noise. c stands for the variance of the noise; p is at most half of d in standard deviations of C.

    Args:
        width: of the embedding of time.
        dim: D.
        num_scales: H, number of bandwidths.
    """

    def __init__(self, width: int, dim: int, num_scales: int) -> None:
        super().__init__()
        self.num_features = num_scales * (1 + 2 * dim)
        self.num_vectors = 2 * num_scales
        # Not learned: while x needs no gradient, the moments then need none, which saves half of what the layer costs.
        self.bandwidth: Tensor
        self.register_buffer("bandwidth", log_bandwidths(num_scales).exp(), persistent=False)
        self.log_noise = nn.Linear(width, num_scales)
        nn.init.zeros_(self.log_noise.weight)
        with torch.no_grad():
            self.log_noise.bias.copy_(self._start())

    def _start(self) -> Tensor:
        """log c as it begins, (H,): sqrt(c) = b / 4."""
        return 2 * (self.bandwidth / 4).log()

    def noise(self, condition: Tensor) -> Tensor:
        """c at the embeddings of time (B, width), (B, H)."""
        return bounded_exp(self.log_noise(condition), self._start().to(condition.dtype))

    def forward(self, neighbours: Neighbourhood, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Fit at every particle.

        Args:
            neighbours: particles (B, N, D) in units of the radius.
            condition: (B, width) embedding of time.

        Returns:
            log rho, d / b and p as features (B, N, num_features), and d / b and p as vectors (B, N, num_vectors, D), in
            the particles' dtype.
        """
        bandwidth = self.bandwidth
        density, offset, covariance = self._moments(neighbours, bandwidth)
        noise = self.noise(condition).to(offset.dtype)[..., None]  # (B, H, 1)
        across = solve_positive(covariance, offset.unbind(-1), noise) * noise.sqrt()[..., None]
        offset = offset / bandwidth[:, None, None].to(offset.dtype)
        features = torch.cat((density.log(), offset, across), dim=-1).movedim(1, 2).flatten(start_dim=2)
        vectors = torch.stack((offset, across), dim=-2).movedim(1, 2).flatten(2, 3)
        return features.to(neighbours.x.dtype), vectors.to(neighbours.x.dtype)

    def _moments(self, neighbours: Neighbourhood, bandwidth: Tensor) -> tuple[Tensor, Tensor, dict[Pair, Tensor]]:
        """rho (B, H, N, 1), d (B, H, N, D) and the upper triangle of C, each (B, H, N)."""
        # Of half-precision particles too in float32: rounded squares, subtracted from each other, leave nothing.
        x = neighbours.x.to(torch.promote_types(neighbours.x.dtype, torch.float32))
        dim = x.shape[-1]
        pairs = list(itertools.combinations_with_replacement(range(dim), 2))
        products = [x[..., i] * x[..., j] for i, j in pairs]
        monomials = torch.cat((torch.ones_like(x[..., :1]), x, torch.stack(products, dim=-1)), dim=-1)
        values = monomials[:, None].expand(-1, len(bandwidth), -1, -1)
        mass, first, second = neighbours.average(values, bandwidth).split((1, dim, len(pairs)), dim=-1)
        density, x = mass + DENSITY_FLOOR, x[:, None]
        offset = (first - mass * x) / density
        covariance = {}
        for k, (i, j) in enumerate(pairs):
            about_x = second[..., k] - x[..., i] * first[..., j] - x[..., j] * first[..., i]
            about_x = about_x + mass[..., 0] * x[..., i] * x[..., j]
            covariance[i, j] = about_x / density[..., 0] - offset[..., i] * offset[..., j]
        return density, offset, covariance


class LocalInteraction(nn.Module):
    """Ball-truncated convolution of the states with the measure: W [ int w_h V_h h dnu / int w_h dnu ]_h, b_h learned.

    Args:
        width: of the states.
        num_scales: H, number of bandwidths.
        channels: values a bandwidth.
    """

    def __init__(self, width: int, num_scales: int, channels: int) -> None:
        super().__init__()
        self.num_scales, self.channels = num_scales, channels
        self.value = nn.Linear(width, num_scales * channels, bias=False)
        self.out = nn.Linear(num_scales * channels, width)
        self.log_bandwidth = nn.Parameter(log_bandwidths(num_scales))

    def bandwidth(self) -> Tensor:
        """b_h in units of the radius, (H,)."""
        return bounded_exp(self.log_bandwidth, log_bandwidths(self.num_scales).to(self.log_bandwidth))

    def forward(self, h: Tensor, neighbours: Neighbourhood) -> Tensor:
        """States h (B, N, width) -> (B, N, width)."""
        v = self.value(h).unflatten(-1, (self.num_scales, self.channels)).movedim(2, 1)  # (B, H, N, C)
        v = torch.cat((torch.ones_like(v[..., :1]), v), dim=-1)
        average = neighbours.average(v, self.bandwidth())
        average = average[..., 1:] / (average[..., :1] + DENSITY_FLOOR)
        return self.out(average.movedim(1, 2).flatten(start_dim=2))


def solve_positive(matrix: Mapping[Pair, Tensor], vector: Sequence[Tensor], shift: Tensor) -> Tensor:
    """(A + c I)^-1 b for many small matrices at once, by a Cholesky decomposition written out over their entries.

    torch's batched solvers take a microsecond a matrix on a CPU, which is more than all else a particle costs. As A is
    positive semi-definite, every pivot is at least c, every L_ij^2 at most what row i has left above c, and the
    solution at most |b| / c. All three are enforced, so that the rounding of A cannot blow up the solution.

    Args:
        matrix: entries (i, j), i <= j < D, of A, each (...).
        vector: the D entries of b, each (...).
        shift: c (...), above 0.

    Returns:
        (..., D).
    """
    size = len(vector)
    left = [matrix[i, i] + shift for i in range(size)]  # A_ii + c - sum_k L_ik^2
    lower: dict[Pair, Tensor] = {}
    for j in range(size):
        lower[j, j] = torch.maximum(left[j], shift).sqrt()
        for i in range(j + 1, size):
            entry = (matrix[j, i] - sum(lower[i, k] * lower[j, k] for k in range(j))) / lower[j, j]
            bound = (left[i] - shift).detach().clamp_min(0).sqrt()  # detached: a square root of 0 has no gradient
            lower[i, j] = torch.maximum(torch.minimum(entry, bound), -bound)
            left[i] = left[i] - lower[i, j].square()
    half: list[Tensor] = []
    for i in range(size):
        half.append((vector[i] - sum(lower[i, k] * half[k] for k in range(i))) / lower[i, i])
    solution: dict[int, Tensor] = {}
    for i in reversed(range(size)):
        solution[i] = (half[i] - sum(lower[k, i] * solution[k] for k in range(i + 1, size))) / lower[i, i]
    found = torch.stack([solution[i] for i in range(size)], dim=-1)
    largest = torch.stack(list(vector), dim=-1).norm(dim=-1) / shift
    excess = found.norm(dim=-1).detach() / largest.detach().clamp_min(torch.finfo(found.dtype).tiny)
    return found / excess.clamp_min(1)[..., None]
