"""What a perfect generator would score: python benchmarks/reference_rows.py --data shapes FILE.npz [--emd]

Split `val` of each data set against equal-size random draws of `train`, several of them, under the protocol `mfcdm`:
real clouds against real clouds, by chamfer distance and Jensen-Shannon divergence and, with --emd, by the exact earth
mover's distance (hours at 100 clouds of 2,048 points). A row is one score: its mean over the draws, its lowest and
highest, and the noise floor of the first draw; fractions in percent. "shapes" are the embedded ones, 500 and 100.
Prints a table and adds the rows to reference_rows.csv beside this file, with the hardware's name.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from hardware import add_rows, hardware_name

from mfcdm.datasets import Clouds, ParametricShapes
from mfcdm.evaluation import PROTOCOLS, Protocol, Report, evaluate, read_clouds

SHAPES = {"train": 500, "val": 100}
KEY = ("data", "clouds", "points", "draws", "score")  # what a later run of the same replaces
PERCENT = ("1nna", "cov")  # beginnings of the names of fractions


def real(source: str, split: str, num_points: int) -> Clouds:
    """The clouds of a split."""
    if source == "shapes":
        return Clouds.of(ParametricShapes(SHAPES[split], num_points, split=split))
    return read_clouds(source, split)


def reports(source: str, protocol: Protocol, num_draws: int, num_clouds: int | None) -> list[Report]:
    """One a draw of `train` against the same clouds of `val`; the draw is also the seed of the protocol."""
    train, val = (real(source, split, protocol.num_points or 0) for split in ("train", "val"))
    count = min(len(train), len(val), num_clouds or len(val))
    found = []
    for draw in range(num_draws):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(draw))
        report = evaluate(train[order[:count]], val[torch.arange(count)], replace(protocol, seed=draw))
        found.append(report)
        print(f"  draw {draw}: {sum(report.seconds.values()):.0f} s", flush=True)
    return found


def rows_of(data: str, draws: Sequence[Report]) -> list[dict[str, Any]]:
    """One row a score."""
    rows = []
    for first in draws[0].scores:
        unit = 100 if first.key.startswith(PERCENT) else 1
        values = [unit * report[first.key].value for report in draws]
        about = [data, draws[0].sizes["clouds"], draws[0].sizes["most_points"], len(draws), first.key]
        row: dict[str, Any] = dict(zip(KEY, about, strict=True))
        row |= {"mean": mean(values), "lowest": min(values), "highest": max(values)}
        for name, end in (("floor_low", first.floor_low), ("floor_high", first.floor_high)):
            row[name] = "" if end is None else unit * end
        row["seconds_a_draw"] = mean(sum(report.seconds.values()) for report in draws)
        rows.append(row)
    return [
        {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    ]


def shown(row: dict[str, Any]) -> str:
    """A line of the table."""
    floor = "-" if row["floor_low"] == "" else f"{row['floor_low']:.4g} to {row['floor_high']:.4g}"
    spread = f"{row['lowest']:.4g} to {row['highest']:.4g}"
    return f"{row['data']:<12} {row['clouds']:>6} {row['score']:<10} {row['mean']:>9.4g} {spread:>20} {floor:>20}"


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, help='"shapes", or archives with the splits train and val')
    parser.add_argument("--emd", action="store_true", help="by the exact earth mover's distance, too")
    parser.add_argument("--draws", type=int, default=5, help="random draws of train")
    parser.add_argument("--num-points", type=int, default=2048)
    parser.add_argument("--num-clouds", type=int, help="of each side; default all of val")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()

    metrics = ("cd", "emd", "jsd") if options.emd else ("cd", "jsd")
    protocol = replace(PROTOCOLS["mfcdm"], num_points=options.num_points, metrics=metrics)
    print(f"{hardware_name()}; {options.num_points} points a cloud, {options.draws} draws of train against val")
    print(f"{'data':<12} {'clouds':>6} {'score':<10} {'mean':>9} {'range':>20} {'noise floor':>20}")
    for source in options.data:
        rows = rows_of(Path(source).stem, reports(source, protocol, options.draws, options.num_clouds))
        print("\n".join(shown(row) for row in rows), flush=True)
        add_rows(options.output, rows, same=KEY)  # after each: the next may take hours
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
