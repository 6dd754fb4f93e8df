"""What networks whose particles look around them have in common: checked sizes, and a radius that follows time."""

import math
from collections.abc import Iterator, Sequence

from torch import Tensor, nn


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1.

    Raises:
        ValueError: a sentence that names the first of them.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be >= 1, got {size}")


class Radius:
    """R(t) = R_data^(1 - t) R_noise^t, of the local interaction: it depends on time and so on the level, never on N.

    Args:
        ends: (R_data, R_noise), at t = 0 and t = 1, in units of the normalised data.

    Raises:
        ValueError: if they are not two positive numbers.
    """

    def __init__(self, ends: Sequence[float]) -> None:
        if len(ends) != 2 or not all(0 < r < math.inf for r in ends):
            raise ValueError(f"radius must be two positive numbers (R_data, R_noise), got {list(ends)}")
        self._data, self._noise = (math.log(r) for r in ends)

    def __call__(self, t: Tensor) -> Tensor:
        """R(t), like t."""
        return (self._data + t * (self._noise - self._data)).exp()


def hidden_matrices(blocks: nn.ModuleList) -> Iterator[nn.Parameter]:
    """The blocks' matrices from states to states, whose rows and columns are all alike."""
    for name, parameter in blocks.named_parameters():
        if parameter.ndim == 2 and "modulation" not in name:
            yield parameter
