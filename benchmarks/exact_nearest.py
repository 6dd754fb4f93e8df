"""What the exact earth mover's distance costs: python benchmarks/exact_nearest.py --data FILE --num-clouds 100

1-NNA by the exact earth mover's distance of A clouds of split `train` against B = A clouds of `val`, N points each:
processor seconds, wall seconds with all of torch's threads, and the share of the assignments that lower bounds made
unnecessary. --floors also measures it with what noise floors of minimum matching distance and coverage ask for, as
`evaluate` does, and --all-pairs with every assignment. The 1-NNA is the same in all rows.
Prints a table and adds the rows to exact_nearest.csv beside this file, with the hardware's name.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hardware import add_rows, hardware_name
from torch import Tensor

from mfcdm.datasets import Clouds, ParametricShapes
from mfcdm.evaluation import read_clouds
from mfcdm.metrics import Draws, NearestDistances, nearest_earth_movers, one_nearest_neighbour_accuracy, pairwise
from mfcdm.metrics.jackknife import labellings

KEY = ("data", "clouds", "points", "distances", "threads")  # what a later run of the same replaces


def drawn(source: str, split: str, num_clouds: int, num_points: int, seed: int) -> Tensor:
    """Random clouds of a split with random points of each, (num_clouds, N, 3) float64."""
    if source == "shapes":
        clouds = Clouds.of(ParametricShapes(num_clouds, num_points, split=split))
    else:
        clouds = read_clouds(source, split)
    if len(clouds) < num_clouds or clouds.smallest[1] < num_points:
        raise SystemExit(f"{source}: split {split} has {len(clouds)} clouds of {clouds.smallest[1]} points or more")
    g = torch.Generator().manual_seed(seed)
    points = clouds.points()
    kept = torch.randperm(len(points), generator=g)[:num_clouds].tolist()
    return torch.stack([points[i][torch.randperm(len(points[i]), generator=g)[:num_points]] for i in kept]).double()


def all_pairs(a: Tensor, b: Tensor) -> NearestDistances:
    """Every assignment."""
    d_gg, d_rr, d_gr = pairwise(a, a, "emd"), pairwise(b, b, "emd"), pairwise(a, b, "emd")
    num_pairs = (len(a) + len(b)) * (len(a) + len(b) - 1) // 2
    return NearestDistances(d_gg, d_rr, d_gr, num_pairs, num_pairs)


def with_floors(a: Tensor, b: Tensor) -> NearestDistances:
    """What `evaluate` computes."""
    return nearest_earth_movers(a, b, labellings=labellings(len(a), len(b), Draws()))


def measured(work: Callable[[Tensor, Tensor], NearestDistances], a: Tensor, b: Tensor) -> dict[str, Any]:
    """One row."""
    work(a[:4, :16].contiguous(), b[:4, :16].contiguous())  # what is loaded on first use
    wall, cpu = time.perf_counter(), time.process_time()
    found = work(a, b)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    score = one_nearest_neighbour_accuracy(found.d_gg, found.d_rr, found.d_gr)
    return {
        "1nna-emd": round(100 * score, 2),
        "pairs": found.num_pairs,
        "solved": found.num_solved,
        "saved_percent": round(100 * found.share_saved, 1),
        "cpu_seconds": round(cpu, 1),
        "wall_seconds": round(wall, 1),
    }


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shapes", help='"shapes", or an archive with the splits train and val')
    parser.add_argument("--num-clouds", type=int, default=100)
    parser.add_argument("--num-points", type=int, default=2048)
    parser.add_argument("--floors", action="store_true")
    parser.add_argument("--all-pairs", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()

    a, b = (
        drawn(options.data, split, options.num_clouds, options.num_points, options.seed) for split in ("train", "val")
    )
    works: dict[str, Callable[[Tensor, Tensor], NearestDistances]] = {"nearest": nearest_earth_movers}
    works |= {"nearest, with floors": with_floors} if options.floors else {}
    works |= {"all pairs": all_pairs} if options.all_pairs else {}
    name = Path(options.data).stem
    print(f"{hardware_name()}; {name}: {len(a)} against {len(b)} clouds of {options.num_points} points")
    print(f"{'distances':<22} {'1-NNA %':>8} {'solved':>16} {'saved %':>8} {'CPU s':>9} {'wall s':>9}")
    rows = []
    for distances, work in works.items():
        about = (name, len(a), options.num_points, distances, torch.get_num_threads())
        row = {**dict(zip(KEY, about, strict=True)), **measured(work, a, b)}
        rows.append(row)
        solved = f"{row['solved']} of {row['pairs']}"
        seconds = f"{row['cpu_seconds']:>9.1f} {row['wall_seconds']:>9.1f}"
        print(
            f"{distances:<22} {row['1nna-emd']:>8.1f} {solved:>16} {row['saved_percent']:>8.1f} {seconds}", flush=True
        )
        add_rows(options.output, rows, same=KEY)  # after each: the next may take hours
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
