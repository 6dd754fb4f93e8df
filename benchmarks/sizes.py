"""One checkpoint at many cardinalities: python benchmarks/sizes.py [CHECKPOINT]

Draws clouds of the same seeds at 256, 2,048, 16,384 and 131,072 points, those of a network with classes in turn, and
draws them below each other in docs/pictures/sizes.png. Prints for each cardinality the seconds a cloud, and the mean
distance of 2,048 of its points (all of them where there are fewer) to the surface of the nearest training shape, in
percent of the shapes' longest side. Adds the rows to sizes.csv beside this file, with the hardware's name.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import add_rows, hardware_name
from quality import Real
from torch import Tensor

from mfcdm import checkpoint
from mfcdm.generate import generate
from mfcdm.samplers import DPMSolver
from mfcdm.visualize import draw_clouds

ROOT = Path(__file__).resolve().parents[1]
MEASURED = 2048  # points of a cloud whose distances are taken, at every cardinality


def drawn(model: checkpoint.Checkpoint, num_clouds: int, num_particles: int, num_steps: int) -> Tensor:
    """Clouds (num_clouds, num_particles, D) in the data's coordinates."""
    classes = len(model.categories)
    x = generate(
        model.network,
        model.sde,
        DPMSolver(num_steps=num_steps),
        model.subdivision,
        model.branching,
        num_clouds=num_clouds,
        num_particles=num_particles,
        label=torch.arange(num_clouds) % classes if classes else None,
        batch_size=max(1, min(16, 2**17 // num_particles)),
    )
    return model.normalization.undo(x)


def some_points(x: Tensor) -> Tensor:
    """MEASURED points of every cloud (B, N, D), the same rows of all."""
    kept = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(0))[:MEASURED]
    return x[:, kept]


def main() -> None:
    """Print the rows, write the csv and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=ROOT / "pretrained" / "shapes")
    parser.add_argument("--data", default="shapes", help='"shapes" or an archive with the splits train and val')
    parser.add_argument("--num-particles", type=int, nargs="+", default=[256, 2048, 16384, 131072])
    parser.add_argument("--num-clouds", type=int, default=8, help="of each cardinality")
    parser.add_argument("--num-steps", type=int, default=50, help="of DPMSolver")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "pictures" / "sizes.png")
    options = parser.parse_args()
    model, real = checkpoint.load(options.checkpoint), Real(options.data, options.num_clouds, MEASURED)
    shapes = real.clouds("val", MEASURED)
    side = float((shapes.amax(1) - shapes.amin(1)).amax(1).mean())
    print(hardware_name())
    rows: list[dict[str, Any]] = []
    clouds = []
    for num_particles in options.num_particles:
        begun = time.process_time()
        x = drawn(model, options.num_clouds, num_particles, options.num_steps)
        seconds = (time.process_time() - begun) / len(x)
        distances = 100 / side * np.array(real.surface_distances(some_points(x)))
        error = distances.std(ddof=1) / len(x) ** 0.5
        numbers = {"surface_percent": distances.mean(), "standard_error": error, "processor_seconds_a_cloud": seconds}
        rows.append({"num_particles": num_particles, **{name: round(float(n), 3) for name, n in numbers.items()}})
        print(rows[-1], flush=True)
        clouds.append(list(x))
    about = {"checkpoint": options.checkpoint.name, "num_clouds": options.num_clouds, "num_steps": options.num_steps}
    add_rows(options.output, rows, same=("checkpoint", "num_clouds", "num_particles"), **about)
    titles = [f"{num_particles:,} points" for num_particles in options.num_particles]
    draw_clouds(options.picture, [row[:8] for row in clouds], titles, max_points=max(options.num_particles))


if __name__ == "__main__":
    main()
