"""A network that torch has compiled."""

import logging
from typing import Any

import torch
from torch import nn

from mfcdm.interaction.native import leave_out_of_graphs


def compiled(network: nn.Module) -> Any:
    """A network that computes the same and shares its weights, compiled by torch at its first call.

    It has the attributes of `network`, and compiles again for another number of particles, until it takes any. The
    interaction looks at numbers, where a graph ends; torch would print every such place.
    """
    torch._logging.set_logs(dynamo=logging.ERROR)
    leave_out_of_graphs()
    return torch.compile(network)
