"""What a run does with its time and memory, and how large its gradients and weights are, between two records."""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import nn

MIB = 2**20

# Of a step, in this order; records and checkpoints follow it, where they are due.
STAGES = ("data", "draw", "forward", "backward", "exchange", "optimizer", "branching", "record", "checkpoint")


class Vitals:
    """Collects what a record says of the machine and the numbers.

    Keys: "gradient_norm" and "gradient_norm/max" of the applied steps, before clipping; "weight_norm";
    "clouds_per_second" and "particles_per_second" of all steps; "time/<stage>", shares of the steps' time, and
    "time/other", which is what no stage took; "memory/host_mib", the most that the process ever held, and
    "memory/device_mib", the most that tensors took on a GPU since the last record. Where several processes train
    together, times and memory are those of the one that records, and batches those of all.

    On a GPU a stage's time is the host's: the host only waits for the device where it needs a number, which is after
    the backward pass.

    Args:
        clock: seconds.
        stages: that every record has, also where they took no time.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, stages: Sequence[str] = ()) -> None:
        self.clock, self.stages = clock, stages
        self._stages: dict[str, float] = defaultdict(float, dict.fromkeys(stages, 0.0))
        self._norms: list[float] = []
        self._clouds = self._particles = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside for a stage."""
        begun = self.clock()
        try:
            yield
        finally:
            self._stages[name] += self.clock() - begun

    def batch(self, num_clouds: int, num_particles: int) -> None:
        """Count a batch: its clouds, and the particles of all of them."""
        self._clouds, self._particles = self._clouds + num_clouds, self._particles + num_particles

    def gradient(self, norm: float) -> None:
        """Take the norm of an applied step's gradient."""
        self._norms.append(norm)

    def flush(self, network: nn.Module, seconds: float) -> dict[str, float]:
        """What is to be recorded since the last call.

        Args:
            network: whose weights count.
            seconds: that the steps since then have taken, > 0.
        """
        values = {"weight_norm": _norm(network)}
        if self._norms:
            values |= {"gradient_norm": sum(self._norms) / len(self._norms), "gradient_norm/max": max(self._norms)}
        values["clouds_per_second"] = self._clouds / seconds
        values["particles_per_second"] = self._particles / seconds
        values |= {f"time/{name}": spent / seconds for name, spent in self._stages.items()}
        values["time/other"] = max(0.0, 1.0 - sum(self._stages.values()) / seconds)
        values |= _memory(next(network.parameters(), torch.empty(0)).device)
        self._stages = defaultdict(float, dict.fromkeys(self.stages, 0.0))
        self._norms.clear()
        self._clouds = self._particles = 0
        return values


def _norm(network: nn.Module) -> float:
    """Euclidean norm of all weights together."""
    norms = [weight.detach().float().norm() for weight in network.parameters()]
    return float(torch.stack(norms).norm()) if norms else 0.0


def _memory(device: torch.device) -> dict[str, float]:
    values = {}
    with suppress(ImportError):  # Windows has no such module
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        values["memory/host_mib"] = most / MIB if sys.platform == "darwin" else most / 1024
    if device.type == "cuda":
        values["memory/device_mib"] = torch.cuda.max_memory_allocated(device) / MIB
        torch.cuda.reset_peak_memory_stats(device)
    return values
