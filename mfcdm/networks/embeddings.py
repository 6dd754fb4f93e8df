"""Embeddings of coordinates, time and class."""

import math

import torch
from torch import Tensor, nn


class FourierFeatures(nn.Module):
    """Coordinates and their sines and cosines: x -> (x, sin(w_k x), cos(w_k x)), w_k geometric.

    Args:
        dim: D.
        num_frequencies: K.
        lowest: w_1, in radians per unit of the data.
        highest: w_K; detail finer than about 1 / w_K is left to the interaction.
    """

    def __init__(self, dim: int, num_frequencies: int = 7, lowest: float = 0.5, highest: float = 32.0) -> None:
        super().__init__()
        spacing = torch.linspace(math.log(lowest), math.log(highest), num_frequencies, dtype=torch.float64)
        self.frequencies: Tensor
        self.register_buffer("frequencies", spacing.exp().to(torch.get_default_dtype()), persistent=False)
        self.num_features = dim * (1 + 2 * num_frequencies)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D (1 + 2 K))."""
        phase = (x[..., None] * self.frequencies).flatten(start_dim=-2)  # (..., D K)
        return torch.cat((x, phase.sin(), phase.cos()), dim=-1)


class TimeEmbedding(nn.Module):
    """Time as sines and cosines of t and of log t, through a two-layer perceptron.

    log t resolves the small times, where the noise level changes by its own size.

    Args:
        width: of the embedding.
        num_frequencies: sines of each of t and log t.
    """

    def __init__(self, width: int, num_frequencies: int = 8) -> None:
        super().__init__()
        self.of_time = FourierFeatures(1, num_frequencies, lowest=1.0, highest=64.0)
        self.of_log_time = FourierFeatures(1, num_frequencies, lowest=0.25, highest=8.0)
        num_features = self.of_time.num_features + self.of_log_time.num_features
        self.mlp = nn.Sequential(nn.Linear(num_features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """(B,) times in (0, 1] -> (B, width)."""
        t = t[:, None]
        return self.mlp(torch.cat((self.of_time(t), self.of_log_time(t.log())), dim=-1))


class LabelEmbedding(nn.Module):
    """One learned vector a class, and one more for "no label"; -1 means no label.

    Args:
        num_classes: labels are 0 .. num_classes - 1.
        width: of the embedding.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, width)

    def forward(self, label: Tensor | None, num_clouds: int) -> Tensor:
        """(B,) int64 labels, or None for none -> (B, width)."""
        if label is None:
            label = torch.full((num_clouds,), -1, device=self.table.weight.device)
        label = label.to(self.table.weight.device, torch.int64)
        return self.table(torch.where(label == -1, self.num_classes, label))  # any other label that is none fails there
