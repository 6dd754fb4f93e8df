"""Error of branched against full-cardinality generation, by push: python benchmarks/branching.py

Exact laws (three shapes, each a mixture of five Gaussians in R^3, new ones for every seed) give the score at every
cardinality, so that all error is the sampler's and the branching's. 64 to 2,048 particles in six levels. The error of a
cloud is its sliced Wasserstein distance to fresh points of the nearest shape; the floor is that of a fresh cloud.
Prints a table and writes branching.csv beside this file, with the hardware's name.
"""

import argparse
from pathlib import Path

import torch
from hardware import hardware_name, write_csv

from mfcdm.analytic import GaussianMixture, ShapeMixture
from mfcdm.branching import Renoise
from mfcdm.generate import generate_from_score
from mfcdm.metrics import sliced_wasserstein_distance
from mfcdm.randomness import cloud_generators
from mfcdm.samplers import Langevin
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision

NUM_PARTICLES, NUM_LEVELS, PUSHES = 2048, 6, (0.0, 0.7, 1.4, 2.1)
SDE = CosineVPSDE()


def law(seed: int) -> ShapeMixture:
    """Three random shapes."""
    generator = torch.Generator().manual_seed(seed)
    return ShapeMixture([GaussianMixture(torch.randn(5, 3, generator=generator), 0.15) for _ in range(3)])


def cloud_errors(x: torch.Tensor, of: ShapeMixture, seed: int) -> torch.Tensor:
    """Distance of each cloud (B, N, 3) to fresh points of the nearest shape, (B,)."""
    generator = torch.Generator().manual_seed(seed)
    fresh = (shape.sample(len(x), x.shape[1], generator) for shape in of.shapes)
    return torch.stack([sliced_wasserstein_distance(x, y) for y in fresh]).min(dim=0).values


def generated(levels: Subdivision, push: float, num_clouds: int, num_steps: int, seed: int) -> torch.Tensor:
    """Clouds from the exact score."""
    return generate_from_score(
        law(seed).as_score(SDE),
        SDE,
        Langevin(num_steps=num_steps),
        levels,
        Renoise(push),
        dim=3,
        num_clouds=num_clouds,
        num_particles=NUM_PARTICLES,
        generator=cloud_generators(seed, range(num_clouds)),
    )


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clouds", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()

    one_level = Subdivision([NUM_PARTICLES], [1.0])
    variants = [("fresh sample", None, 0.0), ("full cardinality", one_level, 0.0)]
    for spacing in ("time", "snr"):
        levels = Subdivision.dyadic(NUM_PARTICLES, NUM_LEVELS, spacing=spacing, sde=SDE)
        variants += [(f"{spacing} spacing", levels, push) for push in PUSHES]

    rows, full = [], float("nan")
    print(f"{hardware_name()}; {options.clouds} clouds, {options.steps} steps, {options.seeds} seeds")
    print(f"{'variant':<18} {'push':>5} {'error':>8} {'+-':>7} {'to full':>8}   error by seed")
    for name, levels, push in variants:
        errors = []
        for seed in range(options.seeds):
            if levels is None:
                x = law(seed).sample(options.clouds, NUM_PARTICLES, torch.Generator().manual_seed(seed))
            else:
                x = generated(levels, push, options.clouds, options.steps, seed)
            errors.append(cloud_errors(x, law(seed), seed=1000 + seed))
        every = torch.stack(errors)
        mean, spread = float(every.mean()), float(every.std() / every.numel() ** 0.5)
        full = mean if name == "full cardinality" else full
        by_seed = " ".join(f"{float(e.mean()):.4f}" for e in errors)
        print(f"{name:<18} {push:>5} {mean:>8.4f} {spread:>7.4f} {mean / full:>8.2f}   {by_seed}", flush=True)
        row = {"variant": name, "push": push, "error": mean, "standard_error": spread, "ratio_to_full": mean / full}
        rows.append(row)
    write_csv(options.output, rows, clouds=options.clouds, steps=options.steps, seeds=options.seeds)


if __name__ == "__main__":
    main()
