"""Random changes of training clouds, each from a generator of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

AXES = ("x", "y", "z")
Axis = Literal["x", "y", "z"]


@dataclass(frozen=True)
class Augmentation:
    """x -> s R M x + jitter * noise for each cloud, in normalised coordinates, whose origin is the data's mean.

    R turns about an axis by an angle uniform in +-rotation, s is uniform in `scale`, M turns the sign of one coordinate
    with probability 1/2. R and M leave the data's mean at the origin and its spread at 1, so normalisation still fits.
    The network learns the law of the changed clouds, and draws such ones.

    Args:
        rotation: largest angle in degrees, 0 to 180; 0 for none, 180 for any heading.
        axis: that stays as it is; clouds in the plane turn in it.
        scale: least and largest factor.
        jitter: standard deviation of the noise, in units of the data's own.
        mirror: coordinate whose sign may turn; None for none.

    Raises:
        ValueError: if an option is out of its range.
    """

    rotation: float = 0.0
    axis: Axis = "y"
    scale: Sequence[float] = (1.0, 1.0)
    jitter: float = 0.0
    mirror: Axis | None = None

    def __post_init__(self) -> None:
        """Refuse what does not fit."""
        if not 0.0 <= self.rotation <= 180.0:
            raise ValueError(f"augmentation.rotation must be from 0 to 180 degrees, got {self.rotation}")
        if len(self.scale) != 2 or not 0.0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ValueError(f"augmentation.scale must be two factors, 0 < low <= high, got {list(self.scale)}")
        if not 0.0 <= self.jitter < math.inf:
            raise ValueError(f"augmentation.jitter must be >= 0 and finite, got {self.jitter}")
        for name, axis in (("axis", self.axis), ("mirror", self.mirror)):
            if axis not in (*AXES, None) or (name, axis) == ("axis", None):
                raise ValueError(f"augmentation.{name} must be one of {', '.join(AXES)}, got {axis!r}")

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return self.rotation > 0 or tuple(self.scale) != (1.0, 1.0) or self.jitter > 0 or self.mirror is not None

    def check_dim(self, dim: int) -> None:
        """Refuse clouds that cannot be changed so.

        Raises:
            ValueError: if they cannot.
        """
        if self.mirror is not None and AXES.index(self.mirror) >= dim:
            raise ValueError(f"augmentation.mirror={self.mirror}, but the clouds have dimension {dim}")
        if self.rotation > 0 and dim not in (2, 3):
            raise ValueError(f"augmentation.rotation turns clouds of dimension 2 or 3, not {dim}")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Change a cloud.

        Args:
            x: (N, D).
            generator: of all draws; the first three are the same whatever is switched on.

        Returns:
            (N, D), a new tensor.
        """
        turn, factor, coin = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        x = x.clone()
        if self.mirror is not None and coin < 0.5:
            x[:, AXES.index(self.mirror)] *= -1
        if self.rotation > 0:
            x = self._turned(x, math.radians((2 * turn - 1) * self.rotation))
        low, high = self.scale
        if (low, high) != (1.0, 1.0):
            x *= low + factor * (high - low)
        if self.jitter > 0:
            x += self.jitter * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return x

    def _turned(self, x: Tensor, angle: float) -> Tensor:
        """Right-handed about the axis: y -> z -> x -> y for an axis of x, y, z, by the quarter."""
        first = AXES.index(self.axis)
        i, j = (0, 1) if x.shape[1] == 2 else ((first + 1) % 3, (first + 2) % 3)
        cos, sin = math.cos(angle), math.sin(angle)
        turned = x.clone()
        turned[:, i] = cos * x[:, i] - sin * x[:, j]
        turned[:, j] = sin * x[:, i] + cos * x[:, j]
        return turned


NO_CHANGE = Augmentation()
