"""Branching by a learned map: (Id, Psi_theta) pushes the empirical measure forward."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mfcdm.branching.renoise import Renoise, kept, num_copies
from mfcdm.networks.arguments import Radius, check_sizes, hidden_matrices
from mfcdm.networks.embeddings import FourierFeatures, TimeEmbedding
from mfcdm.networks.layers import Block, MomentInteraction
from mfcdm.networks.local import LocalGaussian
from mfcdm.networks.neighbourhood import Neighbourhood
from mfcdm.randomness import Generators, standard_normal
from mfcdm.sde import SDE, per_cloud


class Learned(nn.Module):
    """Keep every particle, and let a network make b - 1 children of it: x_i -> (x_i, Psi(t, x_i, nu, z_i), ...).

        Psi(t, x_i, nu, z_i) = alpha^2 x_i + sigma (sqrt(1 + alpha^2) (1 + g_i) z_i + o_i),

    where z_i is N(0, I), one for each child, and the network's outputs g_i (each coordinate's) and o_i commute with
    permutations of the particles, take any number of them, and read nu through moments and through Gaussian fits near
    each particle, as `ScoreNetwork` does. With g = o = 0, about where training begins, Psi is what is right for data of
    the law N(0, I): x_0 is drawn given x_i, and noised afresh. At t = 1 that is independent of x_i.

    Training (`mfcdm.training.branching`) brings the branched set near to the law of its cloud, by energy distance
    (`mfcdm.branching.energy`). For b = 2 this is the paper's (Id^(x (b - 1)), Psi). For larger b its formula, read
    literally, leaves b - 1 particles in one place; here one stays, and its b - 1 children each have their own z.

    Args:
        dim: D, of the particles; that of the score network.
        width: of the children's states.
        depth: number of blocks.
        num_moments: learned moments of the measure in each block.
        num_scales: bandwidths of the Gaussian fits.
        num_heads: heads of the moments; divides width.
        expansion: hidden width of the per-particle MLP over width.
        radius: of the Gaussian fits at t = 0 and t = 1, as of `ScoreNetwork`.
        push: log-SNR given up after Psi, in nats, >= 0, as by `Renoise`; 0 for the paper's branching, without a push.
        noise: whether children have z. Without it they are x_i + sigma o_i, functions of their parents, and children of
            one parent coincide; for comparison only.
        max_sources: particles of a cloud that the Gaussian fits sum over at most.
        backend: of `mfcdm.interaction.ball_convolution`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        dim: int = 3,
        width: int = 32,
        depth: int = 2,
        num_moments: int = 8,
        num_scales: int = 3,
        num_heads: int = 4,
        expansion: int = 2,
        radius: Sequence[float] = (0.4, 2.0),
        push: float = Renoise.push,
        noise: bool = True,
        max_sources: int = 32768,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, width=width, depth=depth, num_moments=num_moments, num_scales=num_scales)
        check_sizes(num_heads=num_heads, expansion=expansion, max_sources=max_sources)
        self.radius = Radius(radius)
        self.renoise = Renoise(push)
        self.dim, self.noise, self.max_sources, self.backend = dim, noise, max_sources, backend
        self.features = FourierFeatures(dim)
        self.embed = nn.Linear(self.features.num_features, width)
        self.embed_noise = nn.Linear(dim, width, bias=False) if noise else None
        self.embed_time = TimeEmbedding(width)
        self.local_gaussian = LocalGaussian(width, dim, num_scales)
        self.embed_local = nn.Linear(self.local_gaussian.num_features, width)
        self.blocks = nn.ModuleList(
            Block(width, None, MomentInteraction(width, num_moments, num_heads), expansion) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 2 * dim + self.local_gaussian.num_vectors)
        with torch.no_grad():  # a network that has learned nothing yet should say little
            self.out.weight.mul_(0.2)
            self.out.bias.zero_()

    def hidden_matrices(self) -> Iterator[nn.Parameter]:
        """The matrices from states to states, whose rows and columns are all alike: what an optimizer may rotate."""
        return hidden_matrices(self.blocks)

    def forward(self, x: Tensor, t: float, sde: SDE, num_particles: int, generator: Generators = None) -> Tensor:
        """The branched set at the same time, without a push and with gradient; arguments as of `branch`.

        Returns:
            (B, num_particles, D); where num_particles is a multiple of N, the parents come first.
        """
        num_children = (num_copies(x, num_particles) - 1) * x.shape[1]
        if num_children:
            shape = (x.shape[0], num_children, x.shape[2])
            z = standard_normal(shape, generator, dtype=x.dtype, device=x.device)
            x = torch.cat((x, self.psi(x, x.new_full(x.shape[:1], t), sde, z)), dim=1)
        return kept(x, num_particles, generator)

    def psi(self, x: Tensor, t: Tensor, sde: SDE, z: Tensor) -> Tensor:
        """The children of particles.

        Args:
            x: (B, N, D) parents at time t.
            t: (B,) times in (0, 1].
            sde: gives alpha(t) and sigma(t).
            z: (B, c N, D) standard normal: child j is one of parent j mod N.

        Returns:
            (B, c N, D) children at time t.

        Raises:
            ValueError: if shapes do not fit.
        """
        if x.ndim != 3 or x.shape[2] != self.dim:
            raise ValueError(f"particles must be (B, N, {self.dim}), got {tuple(x.shape)}")
        copies, rest = divmod(z.shape[1], x.shape[1])
        if rest or z.shape[::2] != x.shape[::2]:
            raise ValueError(f"the noise of children of {tuple(x.shape)} particles cannot be {tuple(z.shape)}")
        condition = nn.functional.silu(self.embed_time(t))
        neighbours = Neighbourhood.build(x / per_cloud(self.radius(t), x), None, self.max_sources, self.backend)
        features, vectors = self.local_gaussian(neighbours, condition)
        h = (self.embed(self.features(x)) + self.embed_local(features)).repeat(1, copies, 1)
        if self.embed_noise is not None:
            h = h + self.embed_noise(z)
        for block in self.blocks:
            h = block(h, condition, None, None)
        shift, gain, gates = self.out(self.norm(h)).split((self.dim, self.dim, vectors.shape[2]), dim=-1)
        shift = shift + torch.einsum("bnk,bnkd->bnd", gates, vectors.repeat(1, copies, 1, 1))
        alpha, sigma = per_cloud(sde.alpha(t), x), per_cloud(sde.sigma(t), x)
        if not self.noise:
            return x.repeat(1, copies, 1) + sigma * shift
        return alpha**2 * x.repeat(1, copies, 1) + sigma * (shift + (1 + alpha**2).sqrt() * (1 + gain) * z)

    def pushed_time(self, t: float, sde: SDE) -> float:
        """The time whose log-SNR is lower than that of t by `push`, at most 1."""
        return self.renoise.pushed_time(t, sde)

    @torch.no_grad()
    def branch(
        self, x: Tensor, t: float, sde: SDE, num_particles: int, generator: Generators = None
    ) -> tuple[Tensor, float]:
        """As `Branching.branch`: every particle gets ceil(num_particles / N) - 1 children."""
        x = self(x, t, sde, num_particles, generator)
        return self.renoise.pushed(x, t, sde, generator) if self.renoise.push > 0 else (x, t)
