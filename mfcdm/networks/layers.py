"""The global form of mean-field interaction, and the block that joins both forms to the per-particle part.

Each particle i has a state h_i, (B, N, width). An interaction is a functional of the empirical measure
nu = 1/N sum_j delta_(y_j, h_j), read at particle i: it commutes with permutations and has a limit as N grows.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mfcdm.networks.local import LocalInteraction
from mfcdm.networks.neighbourhood import Neighbourhood


class MomentInteraction(nn.Module):
    """Read the measure into M learned moments, let them mix, write them back to every particle: cost O(N M).

    m_k = int exp(q_k . K h) V h dnu / int exp(q_k . K h) dnu, a ratio of two means over the particles.

    Args:
        width: of the states.
        num_moments: M.
        num_heads: heads of both attentions; divides width.
    """

    def __init__(self, width: int, num_moments: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"num_heads must divide width, got num_heads={num_heads} and width={width}")
        self.num_heads = num_heads
        self.queries = nn.Parameter(torch.randn(num_moments, width))
        self.read = nn.Linear(width, 2 * width, bias=False)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )
        self.ask = nn.Linear(width, width, bias=False)
        self.write = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, readable: Tensor | None) -> Tensor:
        """States h (B, N, width), readable (B, 1, 1, N) bool or None for all -> (B, N, width)."""
        queries = self._heads(self.queries[None].expand(h.shape[0], -1, -1))  # (B, heads, M, width / heads)
        key, value = (self._heads(part) for part in self.read(h).chunk(2, dim=-1))
        moments = scaled_dot_product_attention(queries, key, value, attn_mask=readable).transpose(1, 2).flatten(2)
        moments = moments + self.mix(moments)  # (B, M, width)
        key, value = (self._heads(part) for part in self.write(moments).chunk(2, dim=-1))
        return self.out(scaled_dot_product_attention(self._heads(self.ask(h)), key, value).transpose(1, 2).flatten(2))

    def _heads(self, z: Tensor) -> Tensor:
        """(B, n, width) -> (B, heads, n, width / heads)."""
        return z.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """One layer: h_i <- h_i + gate(t) * MLP(u_i + B_local[nu](u_i) + B_global[nu](u_i)), u = scale(t) LN(h) + shift(t).

    Without interactions it acts on each particle alone.

    Args:
        width: of the states.
        local: the local interaction, or None.
        moments: the global interaction, or None.
        expansion: hidden width of the MLP over width.
    """

    def __init__(
        self, width: int, local: LocalInteraction | None, moments: MomentInteraction | None, expansion: int
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.local, self.moments = local, moments
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.SiLU(), nn.Linear(expansion * width, width))

    def forward(
        self, h: Tensor, condition: Tensor, neighbours: Neighbourhood | None, readable: Tensor | None
    ) -> Tensor:
        """h (B, N, width), condition (B, width), readable (B, 1, 1, N) bool or None for all -> (B, N, width)."""
        scale, shift, gate = self.modulation(condition)[:, None].chunk(3, dim=-1)  # each (B, 1, width)
        u = self.norm(h) * (1 + scale) + shift
        z = u
        if self.local is not None and neighbours is not None:
            z = z + self.local(u, neighbours)
        if self.moments is not None:
            z = z + self.moments(u, readable)
        return h + (1 + gate) * self.mlp(z)


INTERACTIONS = ("local", "convolution", "global")


def checked_interactions(interactions: Collection[str]) -> frozenset[str]:
    """Refuse names that are not an interaction.

    Raises:
        ValueError: if one is none of `INTERACTIONS`.
    """
    unknown = sorted(set(interactions) - set(INTERACTIONS))
    if unknown:
        raise ValueError(f"interactions are {', '.join(map(repr, INTERACTIONS))}, got {unknown[0]!r}")
    return frozenset(interactions)
