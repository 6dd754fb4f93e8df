"""Subdivision of time: few particles where there is much noise, more where there is little.

    cardinalities  N_0 < N_1 = b N_0 < ... < N_K          times  1 = tau_0 > tau_1 > ... > tau_K > tau_{K+1} = t_min

Level k trains and samples t in (tau_{k+1}, tau_k] with N_k particles; branching at tau_k turns N_{k-1} into N_k.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mfcdm.checks import check_whole
from mfcdm.sde import SDE, CosineVPSDE

Spacing = Literal["snr", "time"]
MAX_LEVELS = 64

LevelWeights = Literal["uniform", "cost", "bound"]

# A cloud of N points on a surface resolves detail of about N^(-1/2), so the last level, which holds all N, starts where
# noise and signal leave that detail visible: SNR(tau_k) = 10 N_k / N_K.
SNR_AT_LAST_LEVEL = 10.0


@dataclass(frozen=True)
class Subdivision:
    """Cardinalities and the times at which their levels begin.

    Args:
        cardinalities: N_0 <= N_1 <= ... <= N_K, each >= 1.
        times: tau_0 = 1.0 > tau_1 > ... > tau_K > 0, as many; the last level ends at the SDE's t_min.

    Raises:
        ValueError: if the two do not fit together or are out of range.
    """

    cardinalities: tuple[int, ...]
    times: tuple[float, ...]

    def __init__(self, cardinalities: Sequence[int], times: Sequence[float]) -> None:
        counts, starts = tuple(cardinalities), tuple(float(t) for t in times)
        if not counts or len(counts) != len(starts):
            raise ValueError(
                f"as many times as cardinalities are needed, at least one: got {len(starts)} and {len(counts)}"
            )
        if any(int(n) != n or n < 1 for n in counts) or any(a > b for a, b in itertools.pairwise(counts)):
            raise ValueError(f"cardinalities must be whole numbers >= 1 that never fall, got {list(counts)}")
        if starts[0] != 1.0 or not all(a > b for a, b in zip(starts, (*starts[1:], 0.0), strict=True)):
            raise ValueError(f"times must begin at 1.0 and decrease, all above 0, got {list(starts)}")
        object.__setattr__(self, "cardinalities", tuple(int(n) for n in counts))
        object.__setattr__(self, "times", starts)

    @classmethod
    def dyadic(
        cls,
        num_particles: int,
        num_levels: int,
        ratio: int = 2,
        spacing: Spacing = "snr",
        sde: SDE | None = None,
    ) -> Subdivision:
        """Levels whose cardinality grows by `ratio`: N_k = num_particles / ratio^(K - k), rounded up.

        Spacing "time": tau_k uniform between 1 and t_min. Spacing "snr": SNR(tau_k) = 10 N_k / N_K for k >= 1.

        Args:
            num_particles: N_K, the cardinality of the last level.
            num_levels: K + 1.
            ratio: b >= 2.
            spacing: "snr" or "time".
            sde: fixes log-SNR and t_min; default CosineVPSDE().

        Raises:
            ValueError: if an argument is out of range, or the first branching would lie beyond t = 1.
        """
        sde = CosineVPSDE() if sde is None else sde
        for name, value, least in (
            ("num_particles", num_particles, 1),
            ("num_levels", num_levels, 1),
            ("ratio", ratio, 2),
        ):
            check_whole(name, value, least)
        if num_levels > MAX_LEVELS:  # before anything is raised to its power
            raise ValueError(f"num_levels must be at most {MAX_LEVELS}, got {num_levels}")
        if ratio ** (num_levels - 1) > num_particles:
            raise ValueError(
                f"{num_levels} levels of ratio {ratio} need at least {ratio ** (num_levels - 1)} particles, "
                f"got num_particles={num_particles}"
            )
        last = num_levels - 1
        counts = [-(-num_particles // ratio ** (last - k)) for k in range(num_levels)]
        if spacing == "time":
            return cls(counts, [1.0 - (1.0 - sde.t_min) * k / num_levels for k in range(num_levels)])
        if spacing != "snr":
            raise ValueError(f"spacing must be 'snr' or 'time', got {spacing!r}")
        log_snrs = [math.log(SNR_AT_LAST_LEVEL) - (last - k) * math.log(ratio) for k in range(1, num_levels)]
        if log_snrs and log_snrs[0] <= float(sde.log_snr(torch.tensor(1.0, dtype=torch.float64))):
            raise ValueError(
                f"{num_levels} levels are too many for spacing 'snr': the first branching, at log-SNR "
                f"{log_snrs[0]:.2f}, would lie beyond t = 1 of {sde}"
            )
        return cls(counts, [1.0, *(float(sde.time_of_log_snr(torch.tensor(s, dtype=torch.float64))) for s in log_snrs)])

    @property
    def num_levels(self) -> int:
        """K + 1."""
        return len(self.cardinalities)

    def interval(self, level: int, t_min: float) -> tuple[float, float]:
        """(tau_{k+1}, tau_k): where level k ends and where it begins.

        Raises:
            ValueError: if the last level would begin at or below t_min.
        """
        ends = (*self.times[1:], t_min)
        if self.times[-1] <= t_min:
            raise ValueError(f"the last level begins at t = {self.times[-1]}, not above t_min = {t_min}")
        return ends[level], self.times[level]

    def level_of(self, t: float) -> int:
        """The level k with tau_{k+1} < t <= tau_k.

        Raises:
            ValueError: if t is outside (0, 1].
        """
        if not 0.0 < t <= 1.0:
            raise ValueError(f"t must lie in (0, 1], got {t}")
        return max(k for k, tau in enumerate(self.times) if t <= tau)

    def level_weights(self, kind: LevelWeights = "uniform") -> tuple[float, ...]:
        """Weights w_k of the levels in the objective, summing to 1.

        "uniform": 1 / (K + 1). "cost": w_k proportional to N_k^(-1/2). Where a level's error falls as 1 / n_k over its
        n_k steps, and a step costs N_k, these shares have the least sum of errors at a given cost sum_k n_k N_k.
        "bound": the shape of the paper's bound, w_k proportional to (b sqrt(N_{k+1}))^(-k) with b = N_{k+1} / N_k;
        known to us at second hand, and it all but silences the fine levels.

        Raises:
            ValueError: if `kind` is none of them.
        """
        if kind == "uniform":
            return (1.0 / self.num_levels,) * self.num_levels
        if kind == "cost":
            shares = [n_k**-0.5 for n_k in self.cardinalities]
            return tuple(share / sum(shares) for share in shares)
        if kind != "bound":
            raise ValueError(f"level weights must be 'uniform', 'cost' or 'bound', got {kind!r}")
        n_last = self.cardinalities[-1]
        following = (*self.cardinalities[1:], n_last * (n_last // self.cardinalities[-2] if self.num_levels > 1 else 2))
        raw = [
            (n_1 / n_0 * math.sqrt(n_1)) ** -k
            for k, (n_0, n_1) in enumerate(zip(self.cardinalities, following, strict=True))
        ]
        return tuple(w / sum(raw) for w in raw)

    def for_cardinality(self, num_particles: int) -> Subdivision:
        """The levels that generate `num_particles` particles, any number >= 1, at the same times.

        Up to N_K, a level takes min(N_k, num_particles): the last growth keeps a part of its copies. Below N_0 the
        levels stay at N_0, and the caller keeps a random subset: a subset of an exchangeable cloud is a smaller cloud
        of the same law. Above N_K, every level grows by num_particles / N_K, rounded up: the network is a functional
        of the empirical measure and takes more particles at any time, and the copies of a particle part from each
        other where they did in training. Growing only after the last level would be cheaper, but copies that part
        later stay correlated.

        Args:
            num_particles: the requested cardinality.

        Raises:
            ValueError: if num_particles < 1.
        """
        if num_particles < 1:
            raise ValueError(f"num_particles must be >= 1, got {num_particles}")
        last, wanted = self.cardinalities[-1], max(num_particles, self.cardinalities[0])
        if wanted > last:
            return Subdivision([-(-n * wanted // last) for n in self.cardinalities], self.times)
        return Subdivision([min(n, wanted) for n in self.cardinalities], self.times)
