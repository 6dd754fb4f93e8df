"""Mean and spread of points that are seen cloud by cloud, in double precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Moments:
    """Mean and squared deviations of all points so far, merged cloud by cloud.

    For n points of mean m and m further ones, squares gains those of the latter and |m' - m|^2 n n' / (n + n'): no
    large numbers are subtracted, and the order of the clouds changes nothing but the last digits.

    Args:
        count: points seen.
        mean: (D,) float64.
        squares: sum over points and coordinates of the squared deviation from the mean.

    Source: Chan, Golub & LeVeque, Algorithms for computing the sample variance (1983), equation 2.1.
    """

    count: int = 0
    mean: Tensor | None = None
    squares: float = 0.0

    @classmethod
    def of(cls, clouds: Iterable[Tensor]) -> Moments:
        """Of all points of all clouds (N_i, D)."""
        moments = cls()
        for x in clouds:
            moments.add(x)
        return moments

    def add(self, x: Tensor) -> None:
        """Take in a cloud (N, D)."""
        x = x.double()
        own = x.mean(dim=0)
        self.squares += float((x - own).square().sum())
        if self.mean is None:
            self.count, self.mean = len(x), own
            return
        total, apart = self.count + len(x), own - self.mean
        self.squares += float(apart.square().sum()) * self.count * len(x) / total
        self.mean = self.mean + apart * (len(x) / total)
        self.count = total

    @property
    def std(self) -> float:
        """Root of the mean square deviation of a coordinate, one for all axes."""
        return 0.0 if self.mean is None else (self.squares / (self.count * self.mean.numel())) ** 0.5

    @property
    def known_mean(self) -> Tensor:
        """The mean, (D,) float64.

        Raises:
            ValueError: if no point was seen.
        """
        if self.mean is None:
            raise ValueError("at least one cloud is needed, got none")
        return self.mean
