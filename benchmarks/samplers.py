"""Error of every sampler against score evaluations: python benchmarks/samplers.py [--checkpoint RUN/checkpoints/last]

With exact scores on two laws: a mixture of five Gaussians in R^3 (32 clouds of 256 particles; the sliced Wasserstein
distance between all points and as many fresh ones) and a mixture of three such shapes (16 clouds; the mean over the
clouds of the distance to the nearest shape). Errors are divided by that of fresh samples (the floor): 1 is perfect.
With a checkpoint and --data shapes|FILE: the energy distance between the generated clouds and as many that the training
has not seen, over that between training clouds and the same; two clouds are as far apart as their sliced Wasserstein
distance. An evaluation is one call of the score, the last one that denoises included.
Prints tables, adds their rows to samplers.csv beside this file, with the hardware's name, and draws the main curves of
all its laws, docs/pictures/samplers.png; --only-picture draws and measures nothing.
torchsde takes part where it is installed: pip install -e ".[benchmarks]".
"""

import argparse
import csv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from hardware import add_rows, hardware_name
from matplotlib.figure import Figure
from quality import Real

from mfcdm import checkpoint
from mfcdm.analytic import GaussianMixture, ShapeMixture
from mfcdm.generate import generate
from mfcdm.metrics import sliced_wasserstein_distance
from mfcdm.networks.parametrization import x_0_from_score
from mfcdm.samplers import (
    DPMSolver,
    Geometric,
    Langevin,
    LinearNoise,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
    UnderdampedLangevin,
)
from mfcdm.sde import CosineVPSDE

NUM_PARTICLES, EVALUATIONS = 256, (15, 21, 25, 51, 101)
NUM_DIRECTIONS, NUM_FRESH = 64, 128  # directions of a distance, and fresh samples of an exact law's floor
SDE = CosineVPSDE()
SAMPLERS: dict[str, tuple[Sampler, int]] = {  # with the evaluations of a step
    "DPMSolver": (DPMSolver(), 1),
    "ProbabilityFlow, Heun": (ProbabilityFlow(), 2),
    "ProbabilityFlow, Euler": (ProbabilityFlow(method="euler"), 1),
    "Langevin": (Langevin(), 1),
    "Langevin, g constant": (Langevin(noise_schedule="constant"), 1),
    "Langevin, g ~ sigma": (Langevin(noise_schedule="sigma"), 1),
    "Langevin, noise until 0.1": (Langevin(noise_until=0.1), 1),
    "UnderdampedLangevin": (UnderdampedLangevin(), 1),
    "UnderdampedLangevin, friction 0.5": (UnderdampedLangevin(friction=0.5), 1),
    "LinearNoise": (LinearNoise(), 1),
    "LinearNoise, noise 0.5": (LinearNoise(noise=0.5), 1),
    "LinearNoise, centre mean": (LinearNoise(center="mean"), 1),
    "LinearNoise, isotropic": (LinearNoise(form="isotropic"), 1),
    "Geometric": (Geometric(), 1),
    "Geometric, centre mean": (Geometric(center="mean"), 1),
    "Geometric, isotropic": (Geometric(form="isotropic"), 1),
    "DPMSolver + Langevin": (PredictorCorrector(), 2),
    "DPMSolver + underdamped": (PredictorCorrector(corrector="underdamped"), 2),
}
PICTURED = (
    "DPMSolver",
    "ProbabilityFlow, Heun",
    "Langevin",
    "UnderdampedLangevin, friction 0.5",
    "LinearNoise",
    "Geometric",
    "DPMSolver + Langevin",
    "torchsde, euler",
    "torchsde, heun",
)
Draw = Callable[[int, int], torch.Tensor]  # (evaluations, seed) -> clouds


def mixture(seed: int) -> GaussianMixture:
    """Five components off centre, of unequal weights and spreads, always the same for a seed."""
    means = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return GaussianMixture(means, stds=[0.1, 0.2, 0.3, 0.15, 0.25], weights=[1, 2, 1, 3, 1])


LAWS: dict[str, tuple[GaussianMixture | ShapeMixture, int]] = {  # with the number of clouds
    "mixture": (mixture(5), 32),
    "shapes": (ShapeMixture([mixture(seed) for seed in (6, 7, 8)]), 16),
}


def pooled_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Between all points of two sets of clouds (B, N, 3)."""
    return float(sliced_wasserstein_distance(x.reshape(1, -1, 3), y.reshape(1, -1, 3)))


def set_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Energy distance 2 E d(x, y) - E d(x, x') - E d(y, y') between two sets of clouds (B, N, 3), d sliced Wasserstein.

    On fixed directions d is the Euclidean distance between sorted projections, and the energy distance a distance.
    """
    g = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(3, NUM_DIRECTIONS, generator=g), dim=0)
    a, b = ((clouds @ directions).sort(dim=1).values.flatten(1) for clouds in (x, y))
    across, within_x, within_y = (torch.cdist(*pair).mean() for pair in ((a, b), (a, a), (b, b)))
    return float(2 * across - within_x - within_y) / (x.shape[1] * NUM_DIRECTIONS) ** 0.5


def law_error(x: torch.Tensor, law: GaussianMixture | ShapeMixture, seed: int) -> float:
    """Distance of clouds (B, N, 3) to fresh ones: of all points, or of each cloud to the nearest shape."""
    g = torch.Generator().manual_seed(seed)
    if isinstance(law, GaussianMixture):
        return pooled_distance(x, law.sample(len(x), x.shape[1], g, dtype=x.dtype))
    fresh = [shape.sample(len(x), x.shape[1], g, dtype=x.dtype) for shape in law.shapes]
    return float(torch.stack([sliced_wasserstein_distance(x, y) for y in fresh]).min(dim=0).values.mean())


def with_torchsde(score: Callable[..., torch.Tensor], x: torch.Tensor, method: str, steps: int) -> torch.Tensor:
    """The reverse SDE by torchsde, in the log-SNR l: dx = sigma^2 (x / 2 + score) dl + sigma dB."""
    import torchsde

    class Reverse(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito" if method == "euler" else "stratonovich"  # one, as g does not read y

        def f(self, l: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # noqa: E741
            t = SDE.time_of_log_snr(l.double())
            cloud = y.view_as(x)
            s = score(cloud, t.to(x).expand(len(x)))
            return float(SDE.sigma(t)) ** 2 * (0.5 * y + s.reshape(y.shape))

        def g(self, l: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # noqa: E741
            return torch.full_like(y, float(SDE.sigma(SDE.time_of_log_snr(l.double()))))

    ends = SDE.log_snr(torch.tensor([1.0, SDE.t_min], dtype=torch.float64)).float()
    length = float(ends[1] - ends[0]) / steps * (1 + 1e-4)  # rounding adds no step
    y = torchsde.sdeint(Reverse(), x.flatten(1), ends, dt=length, method=method)[-1].view_as(x)
    t = torch.full((len(x),), SDE.t_min, dtype=x.dtype)
    end = torch.tensor(SDE.t_min, dtype=torch.float64)
    return x_0_from_score(score(y, t), y, float(SDE.alpha(end)), float(SDE.sigma(end)))


def exact_draws(law: GaussianMixture | ShapeMixture, num_clouds: int) -> dict[str, Draw]:
    """Every sampler on an exact law."""

    def ours(sampler: Sampler, cost: int) -> Draw:
        def draw(evaluations: int, seed: int) -> torch.Tensor:
            g = torch.Generator().manual_seed(seed)
            x_1 = SDE.prior_sample((num_clouds, NUM_PARTICLES, 3), g)
            return sampler.with_steps((evaluations - 1) // cost).sample(law.as_score(SDE), SDE, x_1, generator=g)

        return draw

    def peer(method: str, cost: int) -> Draw:
        def draw(evaluations: int, seed: int) -> torch.Tensor:
            torch.manual_seed(seed)
            x_1 = torch.randn(num_clouds, NUM_PARTICLES, 3)
            return with_torchsde(law.as_score(SDE), x_1, method, (evaluations - 1) // cost)

        return draw

    draws = {name: ours(*value) for name, value in SAMPLERS.items()}
    if find_spec("torchsde") is None:
        print("torchsde: not installed, left out")
        return draws
    return {**draws, "torchsde, euler": peer("euler", 1), "torchsde, heun": peer("heun", 2)}


def checkpoint_draws(path: str, num_clouds: int) -> tuple[dict[str, Draw], int]:
    """Every sampler on a trained network, level by level, in the data's coordinates, and the clouds' cardinality."""
    model = checkpoint.load(path)
    size = model.subdivision.cardinalities[-1]

    def ours(sampler: Sampler, cost: int) -> Draw:
        def draw(evaluations: int, seed: int) -> torch.Tensor:
            steps = max((evaluations - 1) // cost, model.subdivision.num_levels)
            x = generate(
                model.network,
                model.sde,
                sampler.with_steps(steps),
                model.subdivision,
                model.branching,
                num_clouds=num_clouds,
                num_particles=size,
                seed=seed,
            )
            return model.normalization.undo(x)

        return draw

    return {name: ours(*value) for name, value in SAMPLERS.items()}, size


def table(
    title: str, draws: dict[str, Draw], error: Callable[[torch.Tensor, int], float], floor: float, seeds: int
) -> list[dict[str, Any]]:
    """Print the errors of one law over its floor; one row a sampler and number of evaluations."""
    print(f"\n{title}, floor {floor:.4f}; error / floor after evaluations")
    print(f"{'':<34}" + "".join(f"{n:>8}" for n in EVALUATIONS))
    rows = []
    for name, draw in draws.items():
        errors = torch.tensor([[error(draw(n, seed), seed) / floor for seed in range(seeds)] for n in EVALUATIONS])
        ratios, spreads = errors.mean(dim=1).tolist(), (errors.std(dim=1) / seeds**0.5).tolist()
        print(f"{name:<34}" + "".join(f"{ratio:>8.2f}" for ratio in ratios), flush=True)
        for n, ratio, spread in zip(EVALUATIONS, ratios, spreads, strict=True):
            about = {"law": title, "sampler": name, "evaluations": n, "error_over_floor": ratio}
            rows.append({**about, "standard_error": spread, "floor": floor, "seeds": seeds})
    return rows


def plot(csv_file: Path, path: Path) -> None:
    """Error over evaluations, one panel a law."""
    with csv_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    titles = list(dict.fromkeys(row["law"] for row in rows))
    figure = Figure(figsize=(5.5 * len(titles), 4.2), layout="tight")
    panels = figure.subplots(1, len(titles), squeeze=False)
    for panel, title in zip(panels[0], titles, strict=True):
        for name in PICTURED:
            line = [row for row in rows if row["law"] == title and row["sampler"] == name]
            style = "--" if name.startswith("torchsde") else "-"
            values = [float(row["error_over_floor"]) for row in line]
            panel.loglog([int(row["evaluations"]) for row in line], values, style, marker=".", label=name)
        panel.axhline(1.0, color="black", linewidth=0.5)
        panel.set(title=title, xlabel="score evaluations", ylabel="error / floor (two fresh samples: 1)")
        panel.set_xticks(EVALUATIONS, [str(n) for n in EVALUATIONS])
        panel.minorticks_off()
    panels[0][0].legend(fontsize=7, loc="upper right")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print the tables, write the csv and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samplers", nargs="*", choices=SAMPLERS, help="default: all, and torchsde")
    parser.add_argument("--checkpoint", help="a run's checkpoint, in place of the exact laws")
    parser.add_argument(
        "--data", default="shapes", help='its data: "shapes" or an archive with the splits train and val'
    )
    parser.add_argument("--title", default="checkpoint", help="of its rows and its panel")
    parser.add_argument("--clouds", type=int, default=100, help="of the checkpoint")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    pictures = Path(__file__).resolve().parents[1] / "docs" / "pictures"
    parser.add_argument("--picture", type=Path, default=pictures / "samplers.png")
    parser.add_argument("--only-picture", action="store_true")
    options = parser.parse_args()
    if not options.only_picture:
        measure(options)
    plot(options.output, options.picture)


def measure(options: argparse.Namespace) -> None:
    """Print the tables and add their rows to the csv."""
    print(f"{hardware_name()}; {options.seeds} seeds")
    rows, size = [], NUM_PARTICLES

    def chosen(draws: dict[str, Draw]) -> dict[str, Draw]:
        return {name: draw for name, draw in draws.items() if not options.samplers or name in options.samplers}

    if options.checkpoint:
        draws, size = checkpoint_draws(options.checkpoint, options.clouds)
        real = Real(options.data, options.clouds, size)
        val = real.clouds("val", size)
        floor = set_distance(real.clouds("train", size), val)
        rows += table(options.title, chosen(draws), lambda x, seed: set_distance(x, val), floor, options.seeds)
    else:
        for title, (law, num_clouds) in LAWS.items():
            fresh = (
                law.sample(num_clouds, NUM_PARTICLES, torch.Generator().manual_seed(10_000 + k))
                for k in range(NUM_FRESH)
            )
            floor = sum(law_error(x, law, 20_000 + k) for k, x in enumerate(fresh)) / NUM_FRESH

            def error(x: torch.Tensor, seed: int, law: GaussianMixture | ShapeMixture = law) -> float:
                return law_error(x, law, seed + 300)

            rows += table(title, chosen(exact_draws(law, num_clouds)), error, floor, options.seeds)
    add_rows(options.output, rows, same=("law", "sampler", "evaluations"), particles=size)


if __name__ == "__main__":
    main()
