"""Exponential moving average of the weights."""

from pathlib import Path

import torch
from torch import Tensor, nn


class EMA:
    """Average of a network's weights over the recent past: mean <- mean + (1 - d) (weights - mean).

    d = min(decay, (1 + n) / (10 + n)) after n updates, so that a short run is not dominated by its first weights.

    Args:
        network: whose parameters and buffers are averaged.
        decay: in [0, 1); the memory is about 1 / (1 - decay) steps.

    Raises:
        ValueError: if decay is outside [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"the EMA decay must lie in [0, 1), got {decay}")
        self.decay, self.updates = decay, 0
        self.mean = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take one more set of weights in."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                self.mean[name].lerp_(tensor.detach(), weight)
            else:
                self.mean[name].copy_(tensor)

    def load(self, mean: dict[str, Tensor], updates: int, path: Path) -> None:
        """Go on from a saved average.

        Args:
            mean: the weights by name.
            updates: that have gone into it.
            path: of the file that has them, for a complaint.

        Raises:
            ValueError: if the weights are not those of this network.
        """
        for name, tensor in self.mean.items():
            if name not in mean or mean[name].shape != tensor.shape:
                raise ValueError(f"{path} does not fit the network: it has no {name} of shape {tuple(tensor.shape)}")
        for name, tensor in self.mean.items():
            tensor.copy_(mean[name])
        self.updates = updates
