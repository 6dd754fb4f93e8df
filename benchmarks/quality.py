"""Scores of a checkpoint's clouds: python benchmarks/quality.py RUN/checkpoints/last --data shapes|FILE.npz

For every sampler and cardinality asked for, uncurated clouds are drawn and compared with as many clouds that the
training has not seen (split `val`), in the data's coordinates, both sets at the same cardinality (where a file's clouds
have fewer points, with a random subset of the generated ones):

 * 1-NNA by chamfer distance with its 95 % interval (50 % where both sets are of one law);
 * the median chamfer distance of a generated cloud to the nearest `val` cloud, over the median distance of a training
   cloud to it, and the share of the classes that those nearest clouds have;
 * the mean distance of a cloud's points to the surface of the nearest training shape, in percent of the shapes' longest
   side; a training shape's surface is exact for the embedded shapes, and for a file its 4,096 points.

The first row of each cardinality puts training clouds in the place of the generated ones: what a perfect model scores.
Prints a table and adds the rows to quality.csv beside this file, with the hardware's name; --picture draws the clouds.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import add_rows, hardware_name
from surfaces import Surfaces
from torch import Tensor

from mfcdm import checkpoint
from mfcdm.build import build
from mfcdm.generate import generate
from mfcdm.metrics import pairwise
from mfcdm.metrics.intervals import one_nearest_neighbour_interval
from mfcdm.samplers import Sampler
from mfcdm.visualize import draw_clouds

SAMPLERS = {
    "langevin": "Langevin",
    "linear_noise": "LinearNoise",
    "geometric": "Geometric",
    "flow": "ProbabilityFlow",
    "dpm_solver": "DPMSolver",
}
NEAR_POINTS = 512  # of the clouds among which the nearest training shape is looked for


class Real:
    """Clouds of a data set's two splits, and the surfaces of its training shapes."""

    def __init__(self, source: str, num_clouds: int, num_points: int) -> None:
        self.surfaces = Surfaces(source, "train", num_points)
        self.train, self.val = self.surfaces.clouds, Surfaces(source, "val", num_points).clouds
        self.num_clouds = min(num_clouds, len(self.val), len(self.train))
        order = torch.Generator().manual_seed(0)
        self.chosen = torch.randperm(len(self.train), generator=order)[: self.num_clouds]
        self.near = torch.stack([cloud[:NEAR_POINTS] for cloud in self.train.points()])

    def clouds(self, split: str, num_points: int) -> Tensor:
        """(num_clouds, num_points, D) of "val" or "train"."""
        clouds = self.val[torch.arange(self.num_clouds)] if split == "val" else self.train[self.chosen]
        return torch.stack([cloud[:num_points] for cloud in clouds.points()])

    def surface_distances(self, x: Tensor, skip: Sequence[int] | None = None) -> list[float]:
        """Mean distance of each cloud's points to the nearest training shape, the clouds' own (`skip`) left out."""
        to_shapes = pairwise(x[:, :NEAR_POINTS].contiguous(), self.near.to(x), "cd")
        if skip is not None:
            to_shapes[torch.arange(len(x)), torch.as_tensor(skip)] = torch.inf
        nearest = to_shapes.argmin(1).tolist()
        return [self.surfaces.distance(index, cloud) for index, cloud in zip(nearest, x, strict=True)]


def scores(x: Tensor, real: Real, skip: Sequence[int] | None) -> dict[str, Any]:
    """One row: what the module's docstring lists, for clouds (n, N, D)."""
    val, train = (real.clouds(split, x.shape[1]) for split in ("val", "train"))
    kept = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))[: val.shape[1]]
    some = x[:, kept]
    d_gr, d_tr = pairwise(some, val, "cd"), pairwise(train, val, "cd")
    interval = one_nearest_neighbour_interval(pairwise(some, some, "cd"), pairwise(val, val, "cd"), d_gr)
    nearest = d_gr.min(dim=1)
    row: dict[str, Any] = {
        "1nna-cd": round(100 * interval.score, 1),
        "low": round(100 * interval.low, 1),
        "high": round(100 * interval.high, 1),
        "median_ratio": round(float(nearest.values.median() / d_tr.min(dim=1).values.median()), 2),
        "surface_percent": round(100 * float(np.mean(real.surface_distances(x, skip))), 2),
    }
    row["classes"] = ""  # where the data set has none
    if real.val.labels is not None:
        found = real.val.labels[nearest.indices].unique()
        row["classes"] = f"{len(found)} of {len(real.val.categories)}"
    return row


def generated(options: argparse.Namespace, num_clouds: int) -> Iterator[tuple[str, int, Tensor, float]]:
    """Every sampler at every cardinality: name, cardinality, clouds, seconds."""
    model = checkpoint.load(options.checkpoint)
    for num_particles in options.num_particles or model.subdivision.cardinalities[-1:]:
        for name in options.samplers:
            target: dict[str, Any] = {"_target_": f"mfcdm.samplers.{SAMPLERS[name]}", "num_steps": options.num_steps}
            if options.noise is not None:
                target["noise"] = options.noise
            begun = time.perf_counter()
            x = generate(
                model.network,
                model.sde,
                build(target, Sampler),  # type: ignore[type-abstract]
                model.subdivision,
                model.branching,
                num_clouds=num_clouds,
                num_particles=num_particles,
                label=torch.arange(num_clouds) % len(model.categories) if options.labelled else None,
                seed=options.seed,
                batch_size=max(1, min(16, 2**17 // num_particles)),
            )
            yield name, num_particles, model.normalization.undo(x), time.perf_counter() - begun


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", default="shapes", help='"shapes" or an archive with the splits train and val')
    parser.add_argument("--run", default="run", help="name of the run in the csv")
    parser.add_argument("--num-clouds", type=int, default=100)
    parser.add_argument("--num-particles", type=int, nargs="*", help="default: the trained cardinality")
    parser.add_argument("--samplers", nargs="*", choices=SAMPLERS, default=["langevin"])
    parser.add_argument("--num-steps", type=int, default=100)
    parser.add_argument("--noise", type=float, help="of the samplers, default: their own")
    parser.add_argument("--labelled", action="store_true", help="clouds of the network's classes in turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="png of the first 32 clouds of each row")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()

    counts = options.num_particles or checkpoint.load(options.checkpoint).subdivision.cardinalities[-1:]
    real = Real(options.data, options.num_clouds, max(counts))
    state = checkpoint.read_state(options.checkpoint)
    about = {"run": options.run, "steps": state["step"], "num_clouds": real.num_clouds, "num_steps": options.num_steps}
    rows: list[dict[str, Any]] = []
    print(f"{hardware_name()}; {real.num_clouds} clouds, {state['step']} training steps")
    seen: set[int] = set()
    for name, num_particles, x, seconds in generated(options, real.num_clouds):
        if num_particles not in seen:
            seen.add(num_particles)
            floor = scores(real.clouds("train", num_particles), real, real.chosen.tolist())
            rows.append({**about, "clouds": "training", "num_particles": num_particles, **floor, "seconds_a_cloud": ""})
            print(rows[-1])
        a_cloud = round(seconds / len(x), 3)
        rows.append(
            {
                **about,
                "clouds": name,
                "num_particles": num_particles,
                **scores(x, real, None),
                "seconds_a_cloud": a_cloud,
            }
        )
        print(rows[-1])
        if options.picture is not None:
            path = options.picture.with_stem(f"{options.picture.stem}-{name}-{num_particles}")
            draw_clouds(path, [list(x[start : start + 8]) for start in range(0, min(32, len(x)), 8)])
    add_rows(options.output, rows, same=("run",))
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
