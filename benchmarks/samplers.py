"""Error of every sampler against steps, with exact scores: python benchmarks/samplers.py

The law is a mixture of five Gaussians in R^3, 256 particles. The error is the sliced Wasserstein distance between all
generated points and as many fresh ones, divided by that between two fresh samples (the floor): 1 is perfect.
Prints a table and writes samplers.csv beside this file, with the hardware's name.
"""

import argparse
from pathlib import Path

import torch
from hardware import hardware_name, write_csv

from mfcdm.analytic import GaussianMixture
from mfcdm.metrics import sliced_wasserstein_distance
from mfcdm.samplers import Geometric, Langevin, LinearNoise, ProbabilityFlow, Sampler
from mfcdm.sde import CosineVPSDE

NUM_PARTICLES, NUM_STEPS = 256, (10, 20, 50, 100, 1000)
SDE = CosineVPSDE()
SAMPLERS: dict[str, Sampler] = {
    "Langevin": Langevin(),
    "LinearNoise": LinearNoise(),
    "LinearNoise, noise 0.5": LinearNoise(noise=0.5),
    "LinearNoise, centre mean": LinearNoise(center="mean"),
    "Geometric": Geometric(),
    "Geometric, noise 0.5": Geometric(noise=0.5),
    "Geometric, centre mean": Geometric(center="mean"),
    "ProbabilityFlow, Euler": ProbabilityFlow(method="euler"),
    "ProbabilityFlow, Heun": ProbabilityFlow(method="heun"),
}


def law() -> GaussianMixture:
    """Five components off centre, of unequal weights and spreads, always the same."""
    means = torch.randn(5, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return GaussianMixture(means, stds=[0.1, 0.2, 0.3, 0.15, 0.25], weights=[1, 2, 1, 3, 1])


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Between all points of two sets of clouds (B, N, 3)."""
    return float(sliced_wasserstein_distance(x.reshape(1, -1, 3), y.reshape(1, -1, 3)))


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clouds", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    shape = (options.clouds, NUM_PARTICLES)

    def fresh(seed: int) -> torch.Tensor:
        return law().sample(*shape, torch.Generator().manual_seed(seed))

    floor = sum(distance(fresh(s), fresh(s + 100)) for s in range(200, 216)) / 16
    print(f"{hardware_name()}; {options.clouds} clouds of {NUM_PARTICLES}, {options.seeds} seeds, floor {floor:.4f}")
    print(f"{'error / floor at steps':<26}" + "".join(f"{n:>8}" for n in NUM_STEPS))
    rows = []
    for name, sampler in SAMPLERS.items():
        ratios = []
        for num_steps in NUM_STEPS:
            errors = []
            for seed in range(options.seeds):
                g = torch.Generator().manual_seed(seed)
                x_1 = SDE.prior_sample((*shape, 3), g)
                x = sampler.with_steps(num_steps).sample(law().as_score(SDE), SDE, x_1, generator=g)
                errors.append(distance(x, fresh(seed + 300)))
            ratios.append(sum(errors) / len(errors) / floor)
            rows.append({"sampler": name, "steps": num_steps, "error_over_floor": ratios[-1]})
        print(f"{name:<26}" + "".join(f"{ratio:>8.2f}" for ratio in ratios), flush=True)
    write_csv(options.output, rows, floor=floor, clouds=options.clouds, seeds=options.seeds)


if __name__ == "__main__":
    main()
