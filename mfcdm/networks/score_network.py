"""The score network s(t, x_i, nu) = A(t, x_i) + B[nu](t, x_i), and how it becomes a score."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from mfcdm.networks.arguments import Radius, check_sizes, hidden_matrices
from mfcdm.networks.embeddings import FourierFeatures, LabelEmbedding, TimeEmbedding
from mfcdm.networks.layers import Block, MomentInteraction, checked_interactions
from mfcdm.networks.local import LocalGaussian, LocalInteraction
from mfcdm.networks.neighbourhood import Neighbourhood
from mfcdm.networks.parametrization import PREDICTIONS, Prediction, noise_from_output, prediction_of, score_from_noise


class NoiseSchedule(Protocol):
    """What a network needs to know of an SDE: alpha(t) and sigma(t)."""

    def alpha(self, t: Tensor) -> Tensor: ...  # noqa: D102

    def sigma(self, t: Tensor) -> Tensor: ...  # noqa: D102


class ScoreNetwork(nn.Module):
    """A deep mean-field network: each block adds a per-particle part and a functional of the empirical measure.

    The output commutes with permutations of up to `max_sources` particles (of more in law), takes any number of them
    from 1 up, and for fixed particles converges as the others are drawn more and more densely from one law. The radius
    of the local interaction, R(t) = R_data^(1 - t) R_noise^t, depends on time and so on the level, never on N. Its
    Gaussian fits (`local.LocalGaussian`) enter the first states, and lead the output by gates that the last states set.

    Args:
        dim: D, of the particles.
        width: of the particles' states.
        depth: number of blocks.
        num_moments: M, learned moments of the global interaction.
        num_scales: H, bandwidths of the local interaction.
        channels: values a bandwidth of the convolutions.
        num_heads: heads of the global interaction; divides width.
        expansion: hidden width of the per-particle MLP over width.
        radius: (R_data, R_noise), radius of the local interaction at t = 0 and t = 1, in units of the normalised data.
        interactions: any of "local" (Gaussian fits), "convolution" (every second block convolves the states near by)
            and "global" (learned moments); with none, B = 0.
        num_classes: number of labels, 0 for an unconditional network.
        prediction: what the output is, "v" or "noise".
        max_sources: particles of a cloud that the local interaction sums over at most; beyond, a subset stands for all.
        backend: of `mfcdm.interaction.ball_convolution`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        dim: int = 3,
        width: int = 64,
        depth: int = 3,
        num_moments: int = 16,
        num_scales: int = 4,
        channels: int = 16,
        num_heads: int = 4,
        expansion: int = 4,
        radius: Sequence[float] = (0.4, 2.0),
        interactions: Collection[str] = ("local", "convolution", "global"),
        num_classes: int = 0,
        prediction: Prediction = "v",
        max_sources: int = 32768,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, width=width, depth=depth, num_moments=num_moments, num_scales=num_scales)
        check_sizes(channels=channels, num_heads=num_heads, expansion=expansion, max_sources=max_sources)
        self.radius = Radius(radius)
        if num_classes < 0:
            raise ValueError(f"num_classes must be >= 0, got {num_classes}")
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction must be 'v' or 'noise', got {prediction!r}")
        self.dim, self.num_classes, self.max_sources, self.backend = dim, num_classes, max_sources, backend
        self.prediction: Prediction = prediction
        self.interactions = checked_interactions(interactions)
        self.features = FourierFeatures(dim)
        self.embed = nn.Linear(self.features.num_features, width)
        self.embed_time = TimeEmbedding(width)
        self.embed_label = LabelEmbedding(num_classes, width) if num_classes else None
        self.local_gaussian = LocalGaussian(width, dim, num_scales) if "local" in self.interactions else None
        if self.local_gaussian is not None:
            self.embed_local = nn.Linear(self.local_gaussian.num_features, width)
            self.gates = nn.Linear(width, self.local_gaussian.num_vectors)
            nn.init.zeros_(self.gates.weight)
            nn.init.zeros_(self.gates.bias)

        def convolves(block: int) -> bool:  # every second block, counted from the middle one: also at depth 1
            return "convolution" in self.interactions and (block - depth // 2) % 2 == 0

        self.blocks = nn.ModuleList(
            Block(
                width,
                LocalInteraction(width, num_scales, channels) if convolves(block) else None,
                MomentInteraction(width, num_moments, num_heads) if "global" in self.interactions else None,
                expansion,
            )
            for block in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, dim)
        # A network that has learned nothing yet should say little: at full size its output is steep enough to make
        # sampling chaotic, so that the rounding of another batch size would end in another cloud.
        with torch.no_grad():
            self.out.weight.mul_(0.2)

    def hidden_matrices(self) -> Iterator[nn.Parameter]:
        """The matrices from states to states, whose rows and columns are all alike: what an optimizer may rotate."""
        return hidden_matrices(self.blocks)

    def forward(self, x: Tensor, t: Tensor, lengths: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        """Predict v (or noise) for every particle.

        Args:
            x: (B, N, D) particles.
            t: (B,) times in (0, 1].
            lengths: (B,) int64 particles that each cloud owns, None for all; other rows may hold anything.
            label: (B,) int64 classes, -1 for none; None for none at all.

        Returns:
            (B, N, D), 0 on padding.

        Raises:
            ValueError: if shapes do not fit, or labels are given to an unconditional network.
        """
        self._check(x, t, lengths, label)
        own = None  # (B, N) bool
        if lengths is not None:
            lengths = lengths.to(x.device)
            own = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            x = torch.where(own[..., None], x, torch.zeros((), dtype=x.dtype, device=x.device))
        t = t.to(x)
        condition = self.embed_time(t)
        if self.embed_label is not None:
            condition = condition + self.embed_label(label, x.shape[0])
        condition = nn.functional.silu(condition)
        h = self.embed(self.features(x))
        neighbours = vectors = None
        if self.interactions & {"local", "convolution"}:
            scaled = x / self.radius(t)[:, None, None]
            neighbours = Neighbourhood.build(scaled, lengths, self.max_sources, self.backend)
        if self.local_gaussian is not None and neighbours is not None:
            features, vectors = self.local_gaussian(neighbours, condition)
            h = h + self.embed_local(features)
        readable = _readable(own)
        for block in self.blocks:
            h = block(h, condition, neighbours, readable)
        h = self.norm(h)
        output = self.out(h)
        if vectors is not None:
            output = output + torch.einsum("bnk,bnkd->bnd", self.gates(h), vectors.to(h.dtype))
        return output if own is None else output * own[..., None]

    def _check(self, x: Tensor, t: Tensor, lengths: Tensor | None, label: Tensor | None) -> None:
        if x.ndim != 3 or x.shape[2] != self.dim or not x.is_floating_point():
            raise ValueError(f"particles must be floating (B, N, {self.dim}), got {x.dtype} {tuple(x.shape)}")
        own = self.embed.weight.dtype
        if x.dtype != own and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"particles must be {own} as the network is, got {x.dtype}; call x.to() or network.to()")
        if t.shape != x.shape[:1]:
            raise ValueError(f"times must be ({x.shape[0]},), got {tuple(t.shape)}")
        if lengths is not None and lengths.shape != x.shape[:1]:
            raise ValueError(f"lengths must be ({x.shape[0]},), got {tuple(lengths.shape)}")
        if label is not None and self.embed_label is None:
            raise ValueError("labels were given to a network without classes; build it with num_classes > 0")
        if label is not None and (label.shape != x.shape[:1] or label.is_floating_point()):
            raise ValueError(f"labels must be ({x.shape[0]},) whole numbers, got {label.dtype} {tuple(label.shape)}")
        if label is not None and label.device.type == "cpu":
            wrong = label[(label < -1) | (label >= self.num_classes)]
            if len(wrong):
                raise ValueError(f"labels must be from -1 (none) to {self.num_classes - 1}, got {wrong.tolist()[0]}")


def as_score(
    network: nn.Module, sde: NoiseSchedule, label: Tensor | None = None, guidance: float = 1.0
) -> Callable[..., Tensor]:
    """The score -noise / sigma(t) that a network's prediction implies under an SDE, guided towards the clouds' classes.

    s = s_none + guidance (s_label - s_none): the score of p_t(x)^(1 - guidance) p_t(x | label)^guidance. 1 is the
    conditional score, 0 the one without label; any other guidance takes both, in one evaluation of 2 B clouds.

    Args:
        network: network(x, t, lengths=..., label=...) -> v or noise, as its attribute `prediction` says.
        sde: alpha(t) and sigma(t).
        label: (B,) classes of the clouds, -1 for none; None for none at all.
        guidance: >= 0; other than 1 it needs labels, and a network with classes (its attribute `num_classes`).

    Returns:
        score(x, t, lengths=None) -> (B, N, D), 0 on padding.

    Raises:
        ValueError: if the guidance is out of its range, or has nothing to lead to.

    Source: Ho & Salimans, Classifier-free diffusion guidance (2022), equation 6 with 1 + w = guidance.
    """
    prediction = prediction_of(network)
    if not 0.0 <= guidance < math.inf:
        raise ValueError(f"guidance must be >= 0 and finite, got {guidance}")
    if guidance != 1 and label is None:
        raise ValueError(f"guidance={guidance} needs labels to lead to; without labels it must be 1")
    if guidance != 1 and not getattr(network, "num_classes", 0):
        raise ValueError(f"guidance={guidance} needs a network with classes; build it with num_classes > 0")

    def score(x: Tensor, t: Tensor, lengths: Tensor | None = None) -> Tensor:
        alpha, sigma = (coefficient(t.to(x))[:, None, None] for coefficient in (sde.alpha, sde.sigma))
        output = _guided(network, x, t, lengths, label, guidance)
        result = score_from_noise(noise_from_output(prediction, output, x, alpha, sigma), sigma)
        if lengths is None:
            return result
        own = torch.arange(x.shape[1], device=x.device)[None, :, None] < lengths.to(x.device)[:, None, None]
        return torch.where(own, result, torch.zeros((), dtype=x.dtype, device=x.device))

    return score


def _guided(
    network: nn.Module, x: Tensor, t: Tensor, lengths: Tensor | None, label: Tensor | None, guidance: float
) -> Tensor:
    """The network's output under guidance, (B, N, D): the score is affine in it, so both are combined alike."""
    if guidance == 1 or label is None:
        return network(x, t, lengths=lengths, label=label)
    if label.shape != x.shape[:1]:
        raise ValueError(f"labels must be ({x.shape[0]},), got {tuple(label.shape)}")
    none = torch.full_like(label, -1)
    if guidance == 0:
        return network(x, t, lengths=lengths, label=none)
    twice = None if lengths is None else lengths.repeat(2)
    both = network(x.repeat(2, 1, 1), t.repeat(2), lengths=twice, label=torch.cat((none, label)))
    without, given = both.chunk(2)
    return without + guidance * (given - without)


def _readable(own: Tensor | None) -> Tensor | None:
    """Mask of the moments' attention, (B, 1, 1, N); a cloud without particles reads its padding, not NaN."""
    if own is None:
        return None
    empty = ~own.any(dim=1, keepdim=True)
    return (own | empty)[:, None, None, :]
