"""Neighbours of a particle by level, on real clouds: python benchmarks/neighbours.py [--data shapes FILE.npz ...]

For a training configuration (2,048 points in four levels by default) the clouds are noised as in training to times of
each level's interval, and to its start, middle and end, and the other particles within the network's radius R(t) are
counted. The interval begins earlier than the level where branching pushes back, as in training.
Prints a table and adds its rows to neighbours.csv beside this file, with the hardware's name.
"""

import argparse
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import add_rows, hardware_name
from scipy.spatial import cKDTree

from mfcdm.datasets import Clouds, Normalization, ParametricShapes, open_dataset
from mfcdm.networks import ScoreNetwork
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision

WANTED = (16, 128)  # neighbours: fewer carry little, more cost much
COLUMNS = ("trained", "level", "particles", "moment", "t", "log_snr", "radius", "tenth", "median", "nine_tenths")
DEFAULT_RADIUS = inspect.signature(ScoreNetwork).parameters["radius"].default
MOMENTS = ("all", "start", "middle", "end")  # of a level; all: times drawn as in training


def clouds_of(data: str, num_clouds: int, num_points: int) -> torch.Tensor:
    """Normalised clouds (S, N, 3), a random subset of those that have as many points as the last level."""
    embedded = ParametricShapes(num_clouds, num_points) if data == "shapes" else open_dataset(data, split="train")
    clouds = Clouds.of(embedded)
    normalization = Normalization.fit(clouds)
    large = [cloud for cloud in clouds.points() if len(cloud) >= num_points]
    if not large:
        raise SystemExit(f"no cloud of {data} has {num_points} points; the smallest has {clouds.smallest[1]}")
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(large), generator=generator)[:num_clouds].tolist()
    kept = [large[index][torch.randperm(len(large[index]), generator=generator)[:num_points]] for index in chosen]
    return normalization.apply(torch.stack(kept))


def neighbours(x: torch.Tensor, radius: torch.Tensor) -> np.ndarray:
    """How many others of its cloud each particle of x (S, N, D) has within its cloud's radius (S,), (S N,)."""
    trees = ((cKDTree(cloud), cloud, float(r)) for cloud, r in zip(x.double().numpy(), radius, strict=True))
    return np.concatenate([tree.query_ball_point(cloud, r, return_length=True) - 1 for tree, cloud, r in trees])


def table(clouds: torch.Tensor, levels: Subdivision, network: ScoreNetwork) -> Iterator[dict[str, Any]]:
    """One row a level and moment."""
    sde = CosineVPSDE()
    objective = MeanFieldScoreMatching(sde, levels)
    for level, (end, start) in enumerate(objective.intervals):
        for moment, time in zip(MOMENTS, (None, start, (start + end) / 2, end), strict=True):
            t = None if time is None else torch.full((len(clouds),), time)
            draw = objective.draw(clouds, generator=torch.Generator().manual_seed(level), level=level, t=t)
            low, median, high = np.quantile(neighbours(draw.x_t, network.radius(draw.t)), (0.1, 0.5, 0.9))
            yield {
                "trained": levels.cardinalities[-1],
                "level": level,
                "particles": levels.cardinalities[level],
                "moment": moment,
                "t": "" if time is None else round(time, 4),
                "log_snr": "" if time is None else round(float(sde.log_snr(draw.t[0])), 2),
                "radius": "" if time is None else round(float(network.radius(draw.t[:1])), 3),
                "tenth": int(low),
                "median": int(median),
                "nine_tenths": int(high),
            }


def main() -> None:
    """Print the table and add its rows to the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["shapes"], help='"shapes" or anything that dataset.path takes')
    parser.add_argument("--clouds", type=int, default=64)
    parser.add_argument("--num-particles", type=int, default=2048)
    parser.add_argument("--num-levels", type=int, default=4)
    parser.add_argument("--spacing", choices=("snr", "time"), default="snr")
    parser.add_argument("--radius", type=float, nargs=2, default=DEFAULT_RADIUS, metavar=("R_DATA", "R_NOISE"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()

    network = ScoreNetwork(radius=options.radius)
    levels = Subdivision.dyadic(options.num_particles, options.num_levels, spacing=options.spacing)
    print(f"{hardware_name()}; {options.clouds} clouds, R(t) from {options.radius[0]} to {options.radius[1]}")
    for data in options.data:
        name = data if data == "shapes" else Path(data).stem
        print("\n" + name + "\n" + "".join(f"{column:>12}" for column in COLUMNS))
        rows = []
        for row in table(clouds_of(data, options.clouds, options.num_particles), levels, network):
            rows.append(row)
            print("".join(f"{row[column]:>12}" for column in COLUMNS), flush=True)
        medians = [row["median"] for row in rows if row["moment"] == "all"]
        inside = sum(WANTED[0] <= median <= WANTED[1] for median in medians)
        print(f"medians of whole levels: {inside} of {len(medians)} within {WANTED[0]} to {WANTED[1]}")
        settings = {"data": name, "clouds": options.clouds, "spacing": options.spacing}
        settings |= {"r_data": options.radius[0], "r_noise": options.radius[1]}
        add_rows(options.output, rows, same=("data", "trained", "spacing"), **settings)


if __name__ == "__main__":
    main()
