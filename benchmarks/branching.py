"""Error of branched against full-cardinality generation, by rule and push: python benchmarks/branching.py

Exact laws (three shapes, each a mixture of five Gaussians in R^3, new ones for every seed) give the score at every
cardinality, so that all error is the sampler's and the branching's. 64 to 2,048 particles in six levels. The error of a
cloud is its sliced Wasserstein distance to fresh points of the nearest shape; the floor is that of a fresh cloud.
Learned branchings are trained on clouds of the same law, 800 steps of 8 clouds.

Then one network, and a learned branching beside it, are trained on the embedded shapes, or on --data FILE with the
splits train and val, at 512 points, and draw with every rule from the same weights. There the error is the mean
distance to the surface of the nearest training shape, in percent of the longest side, and 1-NNA is by chamfer distance
against as many held-out clouds (50 % is best).

`energy`: of the branched sets at the boundaries themselves, before any push, over fresh points of clouds that training
has not seen: 0 for a fresh set, 1 for copies (`mfcdm.branching.energy`), a mean over the boundaries.
Prints a table and puts the rows into branching.csv beside this file, with the hardware's name; --parts and --only run
some.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from hardware import add_rows, hardware_name
from lightning.fabric import Fabric
from torch import Tensor

from mfcdm.analytic import GaussianMixture, ShapeMixture
from mfcdm.branching import Branching, Learned, Renoise, branched
from mfcdm.branching.energy import energy_excess, random_directions
from mfcdm.datasets import Clouds, Normalization, ParametricShapes, open_dataset
from mfcdm.generate import generate, generate_from_score
from mfcdm.metrics import sliced_wasserstein_distance
from mfcdm.networks import ScoreNetwork
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.randomness import cloud_generators, random_subset
from mfcdm.samplers import Langevin
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision
from mfcdm.training.batches import Batches
from mfcdm.training.branching import EVERY, BranchingTrainer
from mfcdm.training.engine import Trainer
from mfcdm.training.options import TrainerOptions

NUM_PARTICLES, NUM_LEVELS, PUSHES = 2048, 6, (0.0, 0.7, 1.4, 2.1)
LEARNED_PUSHES = (0.0, 0.7, 2.1)
SHAPE_POINTS, SHAPE_RADIUS = 512, (0.8, 4.0)
SDE = CosineVPSDE()
ONE_LEVEL = Subdivision([NUM_PARTICLES], [1.0])
FIELDS = ("data", "variant", "push", "error", "standard_error", "ratio_to_full", "energy", "1nna-cd", "low", "high")


def law(seed: int) -> ShapeMixture:
    """Three random shapes."""
    generator = torch.Generator().manual_seed(seed)
    return ShapeMixture([GaussianMixture(torch.randn(5, 3, generator=generator), 0.15) for _ in range(3)])


def cloud_errors(x: Tensor, of: ShapeMixture, seed: int) -> Tensor:
    """Distance of each cloud (B, N, 3) to fresh points of the nearest shape, (B,)."""
    generator = torch.Generator().manual_seed(seed)
    fresh = (shape.sample(len(x), x.shape[1], generator) for shape in of.shapes)
    return torch.stack([sliced_wasserstein_distance(x, y) for y in fresh]).min(dim=0).values


def generated(levels: Subdivision, rule: Branching, num_clouds: int, num_steps: int, seed: int) -> Tensor:
    """Clouds from the exact score."""
    return generate_from_score(
        law(seed).as_score(SDE),
        SDE,
        Langevin(num_steps=num_steps),
        levels,
        rule,
        dim=3,
        num_clouds=num_clouds,
        num_particles=NUM_PARTICLES,
        generator=cloud_generators(seed, range(num_clouds)),
    )


def learned(seed: int, levels: Subdivision, num_steps: int, noise: bool) -> Learned:
    """A branching trained on 64 clouds of an exact law."""
    torch.manual_seed(seed)
    rule, objective = Learned(noise=noise), MeanFieldScoreMatching(SDE, levels)
    x = law(seed).sample(64, 4 * NUM_PARTICLES, torch.Generator().manual_seed(500 + seed))
    options = TrainerOptions(max_steps=EVERY * num_steps, batch_size=8)
    batches = Batches(Clouds(x), options.batch_size, seed)
    trainer = BranchingTrainer(rule, objective, batches, options, Fabric(accelerator="cpu", devices=1))
    for step in range(0, EVERY * num_steps, EVERY):  # its turns in a run
        trainer.step(batches.at(step), step, options.rate(step, options.share(step, 0.0)))
    return rule


@torch.no_grad()
def energy(rule: Branching, levels: Subdivision, x_0: Tensor) -> float:
    """Mean over the boundaries of the branched sets' energy beyond that of fresh sets, in units of the latter."""
    g, found = torch.Generator().manual_seed(7), []
    for t, before, after in zip(levels.times[1:], levels.cardinalities[:-1], levels.cardinalities[1:], strict=True):
        rows = random_subset(x_0.shape[1], len(x_0), x_0.shape[1], g)
        x = x_0.gather(1, rows[..., None].expand(-1, -1, 3))
        mean, std = SDE.marginal(x, torch.full((len(x),), t))
        x_t = mean + std[:, None, None] * torch.randn(x.shape, generator=g)
        parents, fresh = x_t[:, :before], x_t[:, before:]
        made = rule(parents, t, SDE, after, g) if isinstance(rule, Learned) else branched(parents, after, g)
        excess, of_fresh = energy_excess(made, fresh, random_directions(3, 48, g))
        found.append(float(excess.mean() / of_fresh.mean()))
    return sum(found) / len(found)


def on_exact_laws(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of the exact laws; the first two are always made, and others are compared with them."""
    variants: list[tuple[str, Subdivision | None, list[Renoise], str]] = [
        ("fresh sample", None, [Renoise(0.0)], "copies"),
        ("full cardinality", ONE_LEVEL, [Renoise(0.0)], "copies"),
    ]
    for spacing in ("time", "snr"):
        levels = Subdivision.dyadic(NUM_PARTICLES, NUM_LEVELS, spacing=spacing, sde=SDE)
        variants.append((f"{spacing} spacing", levels, [Renoise(push) for push in PUSHES], "copies"))
        variants.append((f"{spacing} spacing, learned", levels, [Renoise(push) for push in LEARNED_PUSHES], "learned"))
    variants.append(("snr spacing, learned, no z", levels, [Renoise(0.0)], "no z"))
    full = float("nan")
    for name, over, pushes, kind in variants:
        if over not in (None, ONE_LEVEL) and options.only not in name:
            continue
        errors: list[list[Tensor]] = [[] for _ in pushes]
        energies = []
        for seed in range(options.seeds):
            rule: Learned | None = None
            if kind != "copies" and over is not None:
                rule = learned(seed, over, options.learning_steps, noise=kind == "learned")
            if over is not None and over.num_levels > 1:
                fresh = law(seed).sample(32, 3 * NUM_PARTICLES, torch.Generator().manual_seed(900 + seed))
                energies.append(energy(rule or Renoise(0.0), over, fresh))
            for found, push in zip(errors, pushes, strict=True):
                if rule is not None:
                    rule.renoise = push
                if over is None:
                    x = law(seed).sample(options.clouds, NUM_PARTICLES, torch.Generator().manual_seed(seed))
                else:
                    x = generated(over, rule or push, options.clouds, options.steps, seed)
                found.append(cloud_errors(x, law(seed), seed=1000 + seed))
        for found, push in zip(errors, pushes, strict=True):
            every = torch.stack(found)
            mean, spread = float(every.mean()), float(every.std() / every.numel() ** 0.5)
            full = mean if name == "full cardinality" else full
            about = {"variant": name, "push": push.push, "error": mean, "standard_error": spread}
            relative = {"ratio_to_full": mean / full, "energy": sum(energies) / len(energies) if energies else ""}
            yield {"data": "exact laws", **about, **relative, "clouds": options.clouds, "seeds": options.seeds}


def clouds_of(source: str, split: str, num_clouds: int, num_points: int) -> Clouds:
    """So many embedded shapes, or all clouds of an archive, each the first `num_points` points."""
    if source == "shapes":
        return Clouds.of(ParametricShapes(num_clouds, num_points, split=split))
    return Clouds(torch.stack([cloud[:num_points] for cloud in Clouds.of(open_dataset(source, split=split)).points()]))


def on_data(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of the embedded shapes or of an archive: one run, every rule."""
    from quality import Real, scores  # reads the shapes, which takes its time

    levels = Subdivision.dyadic(SHAPE_POINTS, 4, sde=SDE)
    raw = clouds_of(options.data, "train", 500, 2 * SHAPE_POINTS)
    normalization = Normalization.fit(raw)
    clouds = Clouds(normalization.apply(raw.x))
    torch.manual_seed(0)
    network = ScoreNetwork(width=32, depth=2, num_moments=8, num_scales=3, channels=8, radius=SHAPE_RADIUS)
    rule = Learned(radius=SHAPE_RADIUS)
    training = TrainerOptions(max_steps=options.shape_steps, checkpoint_every=10**9, accelerator="cpu")
    objective = MeanFieldScoreMatching(SDE, levels, push=max(PUSHES))
    with tempfile.TemporaryDirectory() as folder:
        batches = Batches(clouds, training.batch_size, 0)
        run = Trainer(network, objective, batches, normalization, training, {}, Path(folder), branching=rule)
        run.run()
        averaged = run.averaged()
    real, full = Real(options.data, 100, SHAPE_POINTS), float("nan")
    val = normalization.apply(clouds_of(options.data, "val", 32, 4 * SHAPE_POINTS).x[:32])
    one_level, pushes = Subdivision([SHAPE_POINTS], [1.0]), [Renoise(push) for push in LEARNED_PUSHES]
    for name, over in (("full cardinality", one_level), ("renoise", levels), ("learned", levels)):
        for push in pushes if over is levels else pushes[:1]:
            rule.renoise = push
            used: Branching = rule if name == "learned" else push
            sampler = Langevin(num_steps=options.steps)
            drawn = generate(averaged, SDE, sampler, over, used, num_clouds=real.num_clouds, num_particles=SHAPE_POINTS)
            x = normalization.undo(drawn)
            row = scores(x, real, None)
            full = row["surface_percent"] if name == "full cardinality" else full
            about = {"variant": name, "push": push.push, "error": row["surface_percent"], "standard_error": ""}
            relative = {"ratio_to_full": row["surface_percent"] / full}
            relative |= {"energy": energy(used, levels, val) if over is levels else ""}
            nearest = {key: row[key] for key in ("1nna-cd", "low", "high")}
            yield {
                "data": Path(options.data).stem,
                **about,
                **relative,
                **nearest,
                "clouds": real.num_clouds,
                "seeds": 1,
            }


PARTS = {"laws": on_exact_laws, "data": on_data}


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clouds", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--learning-steps", type=int, default=800, help="of a learned branching on an exact law")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--data", default="shapes", help='"shapes" or an archive with the splits train and val')
    parser.add_argument("--shape-steps", type=int, default=1500, help="of the run on the data")
    parser.add_argument("--only", default="", help="rows of the exact laws whose variant holds this")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    print(f"{hardware_name()}; {options.clouds} clouds, {options.steps} steps, {options.seeds} seeds")
    for part in options.parts:
        for row in PARTS[part](options):
            shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()}
            print(" ".join(f"{key}={value}" for key, value in shown.items() if value != ""), flush=True)
            whole = {field: row.get(field, "") for field in FIELDS} | row
            add_rows(options.output, [whole], ("data", "variant", "push"), steps=options.steps)


if __name__ == "__main__":
    main()
