"""Quality against training time, with and without subdivision: python benchmarks/subdivision.py --data shapes|FILE.npz

The default network at 2,048 points, with the four default levels and with one level of 2,048, is trained for each of
several budgets of processor time on one thread, every budget with its own run and so with its own decay of the learning
rate. Judged, as in ablation.py, by the error of v on held-out clouds at log-SNR 4 to 8, where both have 2,048 points,
and by clouds drawn with 50 steps of DPMSolver, against as many held-out ones: their energy distance, over that of
training clouds in their place (1 is perfect), their chamfer 1-NNA, and their distance to the nearest training shape.
The last column is the time in which one level gets as small an energy distance, interpolated in log time, over that of
the levels. With --remember FOLDER a stopped call goes on where it stopped. Prints a
table, writes subdivision.csv beside this file, with the hardware's name, and draws docs/pictures/subdivision.png.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablation import measures, remembered
from hardware import hardware_name, write_csv
from matplotlib.figure import Figure

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
VARIANTS = {
    "four levels": [],
    "one level": ["subdivision=none", "subdivision.num_particles=2048"],
}
MEASURES = {
    "fine_error": "error of v at log-SNR 4 to 8",
    "energy": "energy distance to held-out clouds,\nover that of training clouds",
    "1nna-cd": "chamfer 1-NNA, %",
    "generated": "distance of generated clouds to\nthe nearest training shape, % of a side",
}


def overrides(data: str) -> list[str]:
    """The run on embedded shapes, or on a file."""
    if data == "shapes":
        return ["dataset=shapes"]
    return ["dataset=archive", f"dataset.path={data}"]


def row_of(variant: str, seconds: float, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds."""
    row: dict[str, Any] = {"variant": variant, "seconds": seconds, "steps": round(np.mean([r["steps"] for r in runs]))}
    found = measures(runs)
    return row | {measure: round(float(found[measure].mean()), 4) for measure in MEASURES}


def times_as_long(rows: list[dict[str, Any]]) -> None:
    """Add to the rows with levels how many times as long one level takes to the same energy, or that it takes more."""
    one = [(row["energy"], np.log(row["seconds"])) for row in rows if row["variant"] == "one level"]
    distances, logs = (np.array(part) for part in zip(*sorted(one), strict=True))
    for row in rows:
        row["one_level_takes"] = ""
        if row["variant"] == "four levels" and row["energy"] <= distances.max():
            takes = np.exp(np.interp(row["energy"], distances, logs)) / row["seconds"]
            more = "more than " if row["energy"] < distances.min() else ""  # than its longest training
            row["one_level_takes"] = f"{more}{takes:.1f} times as long"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel a measure, a line a variant."""
    figure = Figure(figsize=(4 * len(MEASURES), 3.5), layout="constrained")
    for axes, (measure, label) in zip(figure.subplots(1, len(MEASURES)), MEASURES.items(), strict=True):
        for variant in VARIANTS:
            mine = [row for row in rows if row["variant"] == variant]
            minutes = [row["seconds"] / 60 for row in mine]
            axes.plot(minutes, [row[measure] for row in mine], marker="o", markersize=3, label=variant)
        axes.set(xscale="log", xlabel="processor minutes of training", ylabel=label)
        axes.set_xticks(minutes, [f"{m:g}" for m in minutes])
        axes.minorticks_off()
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the table, write the csv and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shapes", help='"shapes" or an archive with the splits train and val')
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0, 120.0, 240.0, 480.0, 960.0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--generated", type=int, default=64, help="clouds to generate and measure")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoints, by default none is kept")
    parser.add_argument("--remember", type=Path, help="folder of results; those that are there are not made again")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--picture", type=Path, default=PICTURES / "subdivision.png")
    options = parser.parse_args()
    torch.set_num_threads(1)  # of every run, and so in the hardware's name

    def run(key: tuple[str, float, int]) -> dict[str, Any]:
        variant, seconds, seed = key
        label = f"{variant.replace(' ', '-')}-{seconds:g}-{seed}"
        kept = None if options.keep is None else str(options.keep / label)
        settings = [[*overrides(options.data), *VARIANTS[variant]], seconds, seed, kept, options.generated]
        return remembered(options.remember, label, settings)

    # The longest first, so that no worker is left with one at the end.
    budgets = sorted(options.seconds, reverse=True)
    keys = [(name, seconds, seed) for seconds in budgets for name in VARIANTS for seed in range(options.seeds)]
    with ThreadPoolExecutor(options.jobs) as pool:
        found = dict(zip(keys, pool.map(run, keys), strict=True))
    rows = [
        row_of(name, seconds, [found[name, seconds, seed] for seed in range(options.seeds)])
        for name in VARIANTS
        for seconds in reversed(budgets)
    ]
    times_as_long(rows)
    print(hardware_name())
    for row in rows:
        print(row)
    about = {"data": Path(options.data).stem, "generated_clouds": options.generated, "seeds": options.seeds}
    write_csv(options.output, rows, **about)
    draw(rows, options.picture)


if __name__ == "__main__":
    main()
