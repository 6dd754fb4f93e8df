"""What moves the weights: Muon for the matrices inside the network, AdamW for everything else.

Muon steps along the momentum's nearest semi-orthogonal matrix, so that all of a matrix's directions learn at one pace;
its steps are scaled to the root mean square of AdamW's, so that one learning rate serves both.
Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024); torch.optim.Muon.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

OptimizerName = Literal["muon", "adamw"]


@runtime_checkable
class HasHiddenMatrices(Protocol):
    """A network that says which of its parameters Muon may have."""

    def hidden_matrices(self) -> Iterator[nn.Parameter]:
        """Matrices from hidden states to hidden states."""


def build_optimizers(
    network: nn.Module, name: OptimizerName, learning_rate: float, weight_decay: float
) -> list[Optimizer]:
    """The optimizers of a network's parameters, each parameter in one of them.

    Args:
        network: without `hidden_matrices()` it is left to AdamW.
        name: "adamw" for AdamW alone.
        learning_rate: of all.
        weight_decay: of all.
    """
    hidden: list[nn.Parameter] = []
    if name == "muon" and isinstance(network, HasHiddenMatrices):
        hidden = list(network.hidden_matrices())
    taken = {id(parameter) for parameter in hidden}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in taken]
    optimizers: list[Optimizer] = [AdamW(rest, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.99))]
    if hidden:
        optimizers.append(Muon(hidden, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def read_moments(network: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """What the optimizers remember, as {"<parameter>.<moment>": tensor}."""
    return {
        f"{name}.{moment}": value
        for name, state in _states(network, optimizers)
        for moment, value in state.items()
        if isinstance(value, Tensor)
    }


def load_moments(network: nn.Module, optimizers: Sequence[Optimizer], moments: dict[str, Tensor]) -> None:
    """Have the optimizers remember what `read_moments` read.

    Raises:
        ValueError: if a moment belongs to no parameter, or does not have its shape.
    """
    parameters = dict(network.named_parameters())
    owners = {id(p): optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for optimizer in optimizers:
        optimizer.state.clear()
    for key, value in moments.items():
        name, _, moment = key.rpartition(".")
        parameter = parameters.get(name)
        if parameter is None or (value.ndim and value.shape != parameter.shape):
            raise ValueError(f"the optimizer's state {key!r} of shape {tuple(value.shape)} fits no parameter")
        # Counts of steps stay on the CPU, where torch keeps them.
        value = value.to(parameter.device, copy=True) if value.ndim else value.clone()
        owners[id(parameter)].state[parameter][moment] = value


def _states(network: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[tuple[str, dict[str, object]]]:
    """(name of the parameter, what its optimizer remembers of it)."""
    for name, parameter in network.named_parameters():
        for optimizer in optimizers:
            if parameter in optimizer.state:
                yield name, optimizer.state[parameter]
