"""Time grids: where a sampler evaluates the score."""

from typing import Literal

import torch
from torch import Tensor

from mfcdm.sde import SDE

Grid = Literal["log_snr", "time", "power"]
GRIDS: tuple[Grid, ...] = ("log_snr", "time", "power")
POWER = 7.0  # rho of Karras et al., Elucidating the design space of diffusion-based generative models (2022), eq. 5


def time_grid(sde: SDE, t_start: float, t_end: float, num_steps: int, grid: Grid = "log_snr") -> Tensor:
    """Times t_start = t_0 > t_1 > ... > t_n = t_end of n steps.

    "log_snr": uniform in log-SNR. "time": uniform in t. "power": uniform in (sigma / alpha)^(1/7).

    Args:
        sde: fixes log_snr(t).
        t_start: in (t_end, 1].
        t_end: in (0, t_start).
        num_steps: n >= 1.
        grid: the spacing.

    Returns:
        (n + 1,) float64 on the CPU; its ends are exactly t_start and t_end.

    Raises:
        ValueError: if the times or the number of steps are out of range.
    """
    if not 0.0 < t_end < t_start <= 1.0:
        raise ValueError(f"0 < t_end < t_start <= 1 is needed, got t_start={t_start}, t_end={t_end}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be >= 1, got {num_steps}")
    ends = torch.tensor([t_start, t_end], dtype=torch.float64)
    share = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    start, end = position(sde, ends, grid)
    even = start + share * (end - start)
    if grid == "time":
        times = even
    elif grid == "log_snr":
        times = sde.time_of_log_snr(even)
    else:
        times = sde.time_of_log_snr(-2 * POWER * even.log())
    times[0], times[-1] = ends
    return times


def position(sde: SDE, times: Tensor, grid: Grid) -> Tensor:
    """What a grid is uniform in, like times: t, log-SNR or (sigma / alpha)^(1/7).

    Raises:
        ValueError: if the grid is unknown.
    """
    if grid == "time":
        return times
    if grid == "log_snr":
        return sde.log_snr(times)
    if grid == "power":
        return (-0.5 * sde.log_snr(times) / POWER).exp()  # sigma / alpha = exp(-log_snr / 2)
    raise ValueError(f"grid must be one of {', '.join(GRIDS)}, got {grid!r}")
