"""What a perfect generator would score: python benchmarks/reference_rows.py FILE.npz [FILE.npz ...]

Split `val` of each file against equal-size random draws of `train`, several of them, under the protocol `mfcdm`: real
clouds against real clouds. 1-NNA by chamfer distance and by the exact earth mover's distance, in percent.
Prints a table and adds the rows to reference_rows.csv beside this file, with the hardware's name.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hardware import hardware_name, write_csv

from mfcdm.evaluation import PROTOCOLS, evaluate, read_clouds


def earlier(path: Path, data: set[str]) -> list[dict[str, Any]]:
    """Rows of other files that the csv holds."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["data"] not in data]


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="archives with the splits train and val")
    parser.add_argument("--draws", type=int, default=5, help="random draws of train")
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--metrics", nargs="*", choices=("cd", "emd"), default=["cd", "emd"])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()

    rows: list[dict[str, Any]] = []
    keys = [f"1nna-{metric}" for metric in options.metrics]
    print(f"{hardware_name()}; {options.points} points a cloud, {options.draws} draws of train against val")
    print(f"{'data':<12} {'clouds':>6} {'draw':>4} " + " ".join(f"{key:>8} {'noise floor':>14}" for key in keys))
    for path in options.paths:
        train, val = (read_clouds(path, split) for split in ("train", "val"))
        for draw in range(options.draws):
            protocol = replace(PROTOCOLS["mfcdm"], num_points=options.points, metrics=tuple(options.metrics), seed=draw)
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(draw))
            report = evaluate(train[order[: len(val)]], val, protocol)
            row: dict[str, Any] = {"data": path.stem, "clouds": report.sizes["clouds"], "draw": draw}
            line = f"{path.stem:<12} {report.sizes['clouds']:>6} {draw:>4} "
            for key in keys:
                score = report[key]
                floor = f"{100 * (score.floor_low or 0):.1f} to {100 * (score.floor_high or 0):.1f}"
                row |= {key: round(100 * score.value, 2), f"{key}_floor": floor}
                line += f"{100 * score.value:>8.1f} {floor:>14} "
            row |= {"seconds": round(sum(report.seconds.values()), 1), **report.details}
            rows.append(row)
            print(line, flush=True)
    kept = earlier(options.output, {path.stem for path in options.paths})
    if kept and list(kept[0])[: len(rows[0])] != list(rows[0]):
        kept = []  # of other metrics
    write_csv(options.output, kept + rows, points=options.points)


if __name__ == "__main__":
    main()
