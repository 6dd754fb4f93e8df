"""Averages of the loss between two records: all, by level, and by noise."""

from collections import defaultdict

import torch
from torch import Tensor

from mfcdm.objective import Loss

# Edges of the log-SNR bins, in nats: the outer bins are open.
LOG_SNR_EDGES = (-6.0, -3.0, 0.0, 3.0, 6.0)


class LossRecord:
    """Collects losses of single clouds and averages them by level and by log-SNR.

    Keys: "loss", "loss/jacobian", "loss/level_<k>", "loss/log_snr/<low>..<high>".
    """

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, loss: Loss, log_snr: Tensor) -> None:
        """Take one batch: its loss and the log-SNR (B,) of its clouds."""
        self._values["loss"].append(loss.score_matching)
        self._values[f"loss/level_{loss.level}"].append(loss.score_matching)
        if loss.jacobian is not None:
            self._values["loss/jacobian"].append(loss.jacobian)
        bins = torch.bucketize(log_snr.float(), torch.tensor(LOG_SNR_EDGES, device=log_snr.device))
        for index in bins.unique().tolist():
            self._values[f"loss/log_snr/{bin_name(index)}"].append(loss.score_matching[bins == index])

    def flush(self) -> dict[str, float]:
        """The averages since the last call."""
        means = {name: float(torch.cat(values).mean()) for name, values in sorted(self._values.items())}
        self._values.clear()
        return means


def bin_name(index: int) -> str:
    """Name of a log-SNR bin, for instance "-3..0"."""
    edges = ["-inf", *(f"{edge:g}" for edge in LOG_SNR_EDGES), "inf"]
    return f"{edges[index]}..{edges[index + 1]}"
