"""Time and memory of the distances: python benchmarks/metrics.py

One pair of clouds by number of points N, and all pairs of two sets by number of clouds n, beside scipy's assignment
and k-d tree and, where it is installed, POT (extra `benchmarks`). The clouds are points on embedded shapes. Memory is
what a fresh process's peak grows by. The last rows are 1-NNA by the exact earth mover's distance, with and without
bounds. Prints a table and writes metrics.csv beside this file, with the hardware's name.
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from hardware import hardware_name, write_csv
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from torch import Tensor

from mfcdm.datasets import Clouds, ParametricShapes
from mfcdm.metrics import chamfer_distance, earth_movers_distance, nearest_earth_movers, pairwise, sinkhorn_emd


def shapes(count: int, num_points: int, split: str) -> Tensor:
    """Embedded shapes, (count, N, 3)."""
    return Clouds.of(ParametricShapes(count, num_points, split=split)).x


def scipy_emd(x: Tensor, y: Tensor) -> float:
    """The assignment without help."""
    cost = cdist(x[0].numpy(), y[0].numpy())
    return float(cost[linear_sum_assignment(cost)].mean())


def pot_emd(x: Tensor, y: Tensor) -> float:
    """POT's network simplex."""
    import ot

    weights = np.full(x.shape[1], 1 / x.shape[1])
    return float(ot.emd2(weights, weights, cdist(x[0].numpy(), y[0].numpy()), numItermax=10**7))


def scipy_chamfer(x: Tensor, y: Tensor) -> float:
    """Two k-d trees."""
    a, b = x[0].numpy(), y[0].numpy()
    return float((cKDTree(b).query(a)[0] ** 2).mean() + (cKDTree(a).query(b)[0] ** 2).mean())


def full_emd(x: Tensor, y: Tensor) -> float:
    """All three matrices."""
    return float(pairwise(x, y, "emd").sum() + pairwise(x, x, "emd").sum() + pairwise(y, y, "emd").sum())


def pruned_emd(x: Tensor, y: Tensor) -> float:
    """The share of assignments saved."""
    return nearest_earth_movers(x, y).share_saved


PAIRS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "chamfer": lambda x, y: float(chamfer_distance(x, y)),
    "chamfer, scipy": scipy_chamfer,
    "emd": lambda x, y: float(earth_movers_distance(x, y)),
    "emd, scipy": scipy_emd,
    "emd, POT": pot_emd,
    "sinkhorn_emd": lambda x, y: float(sinkhorn_emd(x, y).lower),
}
SETS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "chamfer, all pairs": lambda x, y: float(pairwise(x, y).sum()),
    "emd, all pairs": full_emd,
    "emd, nearest (share saved)": pruned_emd,
}


def measured(task: tuple[str, int, int]) -> tuple[float, float, float]:
    """Value, seconds and MiB of one row."""
    name, num_clouds, num_points = task
    x, y = (shapes(num_clouds, num_points, split) for split in ("train", "val"))
    work = PAIRS[name] if name in PAIRS else SETS[name]
    work(x[:, :16].contiguous(), y[:, :16].contiguous())  # what is loaded on first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    value = work(x, y)
    seconds = time.perf_counter() - begun
    return float(value), seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="*", default=[512, 1024, 2048, 4096])
    parser.add_argument("--clouds", type=int, nargs="*", default=[8, 16, 32])
    parser.add_argument("--set-points", type=int, default=1024)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()

    tasks = [(name, 1, points) for points in options.points for name in PAIRS]
    tasks += [(name, clouds, options.set_points) for clouds in options.clouds for name in SETS]
    if find_spec("ot") is None:
        print("POT is not installed (extra `benchmarks`): its rows are left out")
        tasks = [task for task in tasks if "POT" not in task[0]]
    rows = []
    print(f"{hardware_name()}\n{'distance':<28} {'n':>4} {'N':>6} {'value':>12} {'seconds':>9} {'MiB':>7}")
    for task in tasks:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a fresh process has a peak of its own
            value, seconds, memory = pool.apply(measured, (task,))
        name, clouds, points = task
        rows.append({"distance": name, "n": clouds, "N": points, "value": value, "seconds": seconds, "MiB": memory})
        print(f"{name:<28} {clouds:>4} {points:>6} {value:>12.6f} {seconds:>9.3f} {memory:>7.0f}", flush=True)
    write_csv(options.output, rows)


if __name__ == "__main__":
    main()
