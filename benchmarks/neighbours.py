"""Neighbours of a particle by level, on real clouds: python benchmarks/neighbours.py [--data FILE.npz]

For a training configuration (2,048 and 512 points in four levels by default) the clouds are noised to the start, the
middle and the end of each level's interval of times, and the other particles within the network's default radius R(t)
are counted. The interval begins later than the level where branching pushes back, as in training.
Prints a table and writes neighbours.csv beside this file, with the hardware's name.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import hardware_name, write_csv
from scipy.spatial import cKDTree

from mfcdm.datasets import Clouds, Normalization, ParametricShapes, open_dataset
from mfcdm.networks import ScoreNetwork
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision

WANTED = (16, 128)  # neighbours: fewer carry little, more cost much
MOMENTS = ("start", "middle", "end")


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


def neighbours(x: torch.Tensor, radius: float) -> np.ndarray:
    """How many others of its cloud each particle of x (S, N, D) has within the radius, (S N,)."""
    trees = ((cKDTree(cloud), cloud) for cloud in x.double().numpy())
    return np.concatenate([tree.query_ball_point(cloud, radius, return_length=True) - 1 for tree, cloud in trees])


def table(clouds: torch.Tensor, levels: Subdivision) -> Iterator[dict[str, Any]]:
    """One row a level and moment."""
    sde, network = CosineVPSDE(), ScoreNetwork()
    objective = MeanFieldScoreMatching(sde, levels)
    for level, (end, start) in enumerate(objective.intervals):
        for moment, time in zip(MOMENTS, (start, (start + end) / 2, end), strict=True):
            t = torch.full((len(clouds),), time)
            draw = objective.draw(clouds, generator=torch.Generator().manual_seed(level), level=level, t=t)
            radius = float(network.radius(t[:1]))
            low, median, high = np.quantile(neighbours(draw.x_t, radius), (0.1, 0.5, 0.9))
            yield {
                "trained": levels.cardinalities[-1],
                "level": level,
                "particles": levels.cardinalities[level],
                "moment": moment,
                "t": round(time, 4),
                "log_snr": round(float(sde.log_snr(t[0])), 2),
                "radius": round(radius, 3),
                "tenth": int(low),
                "median": int(median),
                "nine_tenths": int(high),
            }


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shapes", help='"shapes" or anything that dataset.path takes')
    parser.add_argument("--clouds", type=int, default=64)
    parser.add_argument("--num-particles", type=int, nargs="+", default=[2048, 512])
    parser.add_argument("--num-levels", type=int, default=4)
    parser.add_argument("--spacing", choices=("snr", "time"), default="snr")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()

    rows = []
    print(f"{hardware_name()}; {options.clouds} clouds of {options.data}, R(t) of the default network")
    names = ("trained", "level", "particles", "moment", "t", "log_snr", "radius", "tenth", "median", "nine_tenths")
    print("".join(f"{name:>12}" for name in names))
    for num_particles in options.num_particles:
        clouds = clouds_of(options.data, options.clouds, num_particles)
        levels = Subdivision.dyadic(num_particles, options.num_levels, spacing=options.spacing)
        for row in table(clouds, levels):
            rows.append(row)
            print("".join(f"{row[name]:>12}" for name in names), flush=True)
        mine = [row for row in rows if row["trained"] == num_particles]
        for moment in MOMENTS:
            medians = [row["median"] for row in mine if row["moment"] == moment]
            inside = sum(WANTED[0] <= median <= WANTED[1] for median in medians)
            print(
                f"{num_particles} particles, {moment} of a level: medians {min(medians)} to {max(medians)}, "
                f"{inside} of {len(medians)} within {WANTED[0]} to {WANTED[1]}"
            )
    about = {"data": options.data if options.data == "shapes" else Path(options.data).name}
    write_csv(options.output, rows, **about, clouds=options.clouds, spacing=options.spacing)


if __name__ == "__main__":
    main()
