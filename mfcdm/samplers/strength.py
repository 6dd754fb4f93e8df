"""How strong the noise of the SDE samplers is on the way: the clock that it runs in."""

import math
from functools import cache
from typing import Literal

import numpy as np
import torch

from mfcdm.sde import SDE

NoiseSchedule = Literal["beta", "constant", "sigma"]
NOISE_SCHEDULES: tuple[NoiseSchedule, ...] = ("beta", "constant", "sigma")
NUM_NODES = 64  # of the quadrature in log t: its integrand is smooth, and 64 nodes leave an error near rounding


def noise_clock(sde: SDE, t: float, schedule: NoiseSchedule = "beta", until: float = 0.0) -> float:
    """The clock of the noise at time t: its differences are int g^2 / sigma^2 dt, for noise = 1.

    With b = int_0^1 beta dt = -2 log alpha(1), the mean rate of the forward process:
    "beta": g^2 = beta(t), as in the reverse SDE, and the clock is the log-SNR.
    "constant": g^2 = b. Against sigma^2 that is much noise near the data and little near t = 1.
    "sigma": g^2 = b sigma(t)^2: the noise fades along with sigma, and the clock is -b t.

    Args:
        sde: the forward process.
        t: time in (0, 1].
        schedule: see above.
        until: below this time there is no noise, and the clock stands still.

    Raises:
        ValueError: if the schedule is unknown.
    """
    t = max(t, until)
    rate = -2 * float(sde.log_alpha(torch.tensor(1.0, dtype=torch.float64)))
    if schedule == "beta":
        return float(sde.log_snr(torch.tensor(t, dtype=torch.float64)))
    if schedule == "sigma":
        return -rate * t
    if schedule != "constant":
        raise ValueError(f"noise_schedule must be one of {', '.join(NOISE_SCHEDULES)}, got {schedule!r}")
    nodes, weights = _gauss_legendre()
    times = (0.5 * math.log(t) * (1 - nodes)).exp()  # the nodes in log t, between t and 1
    integrand = times / sde.sigma(times) ** 2  # dt = t d log t
    return rate * -0.5 * math.log(t) * float((weights * integrand).sum())


@cache
def _gauss_legendre() -> tuple[torch.Tensor, torch.Tensor]:
    nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)  # on (-1, 1)
    return torch.from_numpy(nodes), torch.from_numpy(weights)


def check_strength(schedule: str, until: float) -> None:
    """Refuse a schedule that does not exist, or a time that is none.

    Raises:
        ValueError: a sentence that names the value.
    """
    if schedule not in NOISE_SCHEDULES:
        raise ValueError(f"noise_schedule must be one of {', '.join(NOISE_SCHEDULES)}, got {schedule!r}")
    if not 0.0 <= until < 1.0:
        raise ValueError(f"noise_until must be a time in [0, 1), got {until}")
