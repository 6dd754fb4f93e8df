"""Time and memory of the distances: python benchmarks/metrics.py

One pair of clouds by number of points N, and two sets by number of clouds n, beside scipy's assignment and k-d tree
and, where it is installed, POT (extra `benchmarks`). The clouds are points on embedded shapes. Processor seconds are of
all threads, memory is what a fresh process's peak grows by. The rows of the earth mover's distance between sets are
what 1-NNA needs, with and without bounds. Prints a table and writes metrics.csv beside this file, with the hardware's
name; what takes longer than --seconds at one size is left out at the next.
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


def one_by_one(distance: Callable[[Tensor, Tensor], float], within: bool) -> Callable[[Tensor, Tensor], float]:
    """The sum over all pairs between two sets, and within them where `full_emd` needs those, of a distance of pairs."""

    def work(x: Tensor, y: Tensor) -> float:
        total = sum(distance(a[None], b[None]) for a in x for b in y)
        for z in (x, y) if within else ():
            total += 2 * sum(distance(z[i, None], z[j, None]) for i in range(len(z)) for j in range(i))
        return total

    return work


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
    "chamfer, all pairs, scipy": one_by_one(scipy_chamfer, within=False),
    "emd, all pairs": full_emd,
    "emd, all pairs, scipy": one_by_one(scipy_emd, within=True),
    "emd, all pairs, POT": one_by_one(pot_emd, within=True),
    "emd, nearest (share saved)": pruned_emd,
}


def measured(task: tuple[str, int, int]) -> tuple[float, float, float, float]:
    """Value, processor seconds, wall seconds and MiB of one row."""
    name, num_clouds, num_points = task
    x, y = (shapes(num_clouds, num_points, split) for split in ("train", "val"))
    work = PAIRS[name] if name in PAIRS else SETS[name]
    work(x[:, :16].contiguous(), y[:, :16].contiguous())  # what is loaded on first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    value = work(x, y)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return float(value), cpu, wall, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, nargs="*", default=[512, 1024, 2048, 4096])
    parser.add_argument("--clouds", type=int, nargs="*", default=[4, 8, 16, 32])
    parser.add_argument("--set-points", type=int, default=1024)
    parser.add_argument("--seconds", type=float, default=300.0, help="after which a distance gets no larger sizes")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()

    tasks = [(name, 1, points) for points in options.points for name in PAIRS]
    tasks += [(name, clouds, options.set_points) for clouds in options.clouds for name in SETS]
    if find_spec("ot") is None:
        print("POT is not installed (extra `benchmarks`): its rows are left out")
        tasks = [task for task in tasks if "POT" not in task[0]]
    rows: list[dict[str, Any]] = []
    slow: set[str] = set()
    print(f"{hardware_name()}\n{'distance':<28} {'n':>4} {'N':>6} {'value':>12} {'CPU s':>9} {'wall s':>9} {'MiB':>7}")
    for task in tasks:
        name, clouds, points = task
        if name in slow:
            print(f"{name:<28} {clouds:>4} {points:>6} left out: longer than {options.seconds:g} s at a smaller size")
            continue
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a fresh process has a peak of its own
            value, cpu, wall, memory = pool.apply(measured, (task,))
        if wall > options.seconds:
            slow.add(name)
        about = {"distance": name, "n": clouds, "N": points, "value": value}
        rows.append({**about, "cpu_seconds": round(cpu, 4), "wall_seconds": round(wall, 4), "MiB": round(memory, 1)})
        print(f"{name:<28} {clouds:>4} {points:>6} {value:>12.6f} {cpu:>9.3f} {wall:>9.3f} {memory:>7.0f}", flush=True)
        write_csv(options.output, rows)


if __name__ == "__main__":
    main()
