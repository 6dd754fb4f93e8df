"""What a choice is worth at equal cost: python benchmarks/ablation.py --variants optimizer --seconds 150 --seeds 2

Every variant is a list of overrides of train.yaml and trains for the same processor seconds on one thread. It is judged
by the mean square error of x_0 over sigma^2, which is that of v, on held-out clouds, a fixed grid of log-SNR and fixed
noise, with the averaged weights; at each log-SNR with the cardinality of its level (`error`; `fine_error` for log-SNR 4
to 8). `surface` is the mean distance of the predicted x_0 at log-SNR 4 to 8 to the cloud's own surface, `redrawn` that
of clouds drawn back by the sampler from their noise at log-SNR 3 and 5, where the shape is known but not its surface,
and with --generated `generated` that of so many clouds drawn from nothing to the nearest training shape, all in percent
of the shapes' longest side; `1nna-cd` is theirs against as many held-out clouds, in percent, and `energy` the energy
distance of the two sets, over that of training clouds in their place (1 is perfect; `samplers.py` defines it). Variants
of one seed see the same clouds, noise and first weights where their networks agree, so that differences to the first
variant are paired; the row "another seed" of the group "defaults" shows what chance alone does. Prints a table and adds
the rows to ablation.csv beside this file, with the hardware's name.

With --remember FOLDER a stopped call goes on where it stopped.

A variant of your own: --variants none --base experiment=demo --variant wide "network.width=48".
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hardware import add_rows
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from quality import Real
from samplers import set_distance
from surfaces import Surfaces
from torch import Tensor, nn
from variants import GROUPS

from mfcdm.branching import Renoise
from mfcdm.cli import config_folder
from mfcdm.commands.assembly import Start, prepare
from mfcdm.commands.data import open_data
from mfcdm.datasets import Clouds, rescaled
from mfcdm.generate import generate
from mfcdm.metrics import one_nearest_neighbour_accuracy, pairwise
from mfcdm.networks import as_score
from mfcdm.networks.parametrization import prediction_of, x_0_from_output
from mfcdm.objective import Draw
from mfcdm.randomness import cloud_generators, standard_normal
from mfcdm.samplers import DPMSolver, Langevin
from mfcdm.settings import fitted_to
from mfcdm.training.engine import Trainer

Array = npt.NDArray[np.float64]

LOG_SNR = (-4.0, -2.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
FINE = LOG_SNR[-4:]
REDRAWN = {3.0: 20, 5.0: 12}  # log-SNR and steps from there
GENERATED_STEPS = 50  # of the sampler that loses least with so few
NUM_CLOUDS, BATCH, STREAM = 64, 16, 7  # of the judgement: clouds, clouds at once, stream of their noise


def prepared(overrides: list[str], folder: Path, seconds: float, seed: int) -> tuple[Trainer, Clouds, str]:
    """The run of a variant, bounded by processor time, the clouds that judge it, and their source."""
    fixed = [f"seed={seed}", f"trainer.max_minutes={seconds / 60}", "validation.num_clouds=0", "num_pictured=0"]
    fixed += ["logger=none", "trainer.accelerator=cpu", "trainer.checkpoint_every=1000000000"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = OmegaConf.to_container(compose("train", fixed + overrides), resolve=True)
    config: dict[str, Any] = {str(key): value for key, value in composed.items()}  # type: ignore[union-attr]
    trainer = prepare(Start(config, folder, trust=True)).trainer
    trainer.clock = time.process_time
    held_out = Clouds.of(open_data({**config["dataset"], "split": "val"}, trust=True))
    held_out = fitted_to(trainer.raw, rescaled(held_out, config["normalization"]))
    source = "shapes" if "path" not in config["dataset"] else str(config["dataset"]["path"])
    return trainer, held_out[torch.arange(min(NUM_CLOUDS, len(held_out)))], source


@torch.no_grad()
def errors(trainer: Trainer, held_out: Clouds) -> Tensor:
    """Mean square error of x_0 over sigma^2 for each log-SNR and cloud, (len(LOG_SNR), clouds)."""
    objective, network = trainer.objective, trainer.averaged().eval()
    x = torch.stack([trainer.normalization.apply(cloud) for cloud in held_out.points()])
    return torch.stack([_errors_at(snr, x, objective, network, held_out.labels) for snr in LOG_SNR])


def _errors_at(log_snr: float, x: Tensor, objective: Any, network: nn.Module, labels: Tensor | None) -> Tensor:
    t = objective.sde.time_of_log_snr(torch.tensor([log_snr], dtype=torch.float64)).clamp_min(objective.sde.t_min)
    level = int(objective.subdivision.level_of(float(t)))
    generators = cloud_generators(0, range(len(x)), STREAM)
    found = []
    for some in torch.arange(len(x)).split(BATCH):
        draw = objective.draw(x[some], None, [generators[i] for i in some], level=level, t=t.expand(len(some)).float())
        x_0 = predicted(network, draw, None if labels is None else labels[some])
        found.append(((x_0 - draw.x_0) / draw.sigma).square().mean(dim=(1, 2)))
    return torch.cat(found)


def predicted(network: nn.Module, draw: Draw, label: Tensor | None = None) -> Tensor:
    """x_0 as the network predicts it, whatever its output is."""
    output = network(draw.x_t, draw.t, label=label)
    return x_0_from_output(prediction_of(network), output, draw.x_t, draw.alpha, draw.sigma)


@torch.no_grad()
def predicted_distances(trainer: Trainer, source: str) -> list[float]:
    """Mean distance of the predicted x_0 to the held-out cloud's own surface, in percent, a cloud and log-SNR >= 4."""
    objective, network = trainer.objective, trainer.averaged().eval()
    num_points = objective.subdivision.cardinalities[-1]
    surfaces, found = Surfaces(source, "val", num_points), []
    x = torch.stack([cloud[:num_points] for cloud in surfaces.clouds.points()[:BATCH]])
    side = longest_side(x)
    x, generators = trainer.normalization.apply(x), cloud_generators(0, range(len(x)), STREAM)
    for log_snr in FINE:
        t = objective.sde.time_of_log_snr(torch.tensor([log_snr], dtype=torch.float64)).float().expand(len(x))
        draw = objective.draw(x, None, generators, level=objective.subdivision.num_levels - 1, t=t)
        x_0 = trainer.normalization.undo(predicted(network, draw))
        found += [100 / side * surfaces.distance(index, cloud) for index, cloud in enumerate(x_0)]
    return found


@torch.no_grad()
def redrawn_distances(trainer: Trainer, source: str) -> list[float]:
    """Mean distance to the held-out cloud's own surface after noise and the sampler's way back, in percent."""
    sde, num_points = trainer.objective.sde, trainer.objective.subdivision.cardinalities[-1]
    score, surfaces = as_score(trainer.averaged().eval(), sde), Surfaces(source, "val", num_points)
    x_0 = torch.stack([cloud[:num_points] for cloud in surfaces.clouds.points()[:BATCH]])
    side, found = longest_side(x_0), []
    x_0, generators = trainer.normalization.apply(x_0), cloud_generators(0, range(len(x_0)), STREAM)
    for log_snr, num_steps in REDRAWN.items():
        t = float(sde.time_of_log_snr(torch.tensor([log_snr], dtype=torch.float64)))
        mean, std = sde.marginal(x_0, torch.full((len(x_0),), t))
        x_t = mean + std[:, None, None] * standard_normal(x_0.shape, generators)
        x = Langevin(num_steps=num_steps).sample(score, sde, x_t, t_start=t, generator=generators)
        redrawn = trainer.normalization.undo(x)
        found += [100 / side * surfaces.distance(index, cloud) for index, cloud in enumerate(redrawn)]
    return found


def of_generated(trainer: Trainer, source: str, num_clouds: int) -> dict[str, float]:
    """Generated clouds: distance to the surface of the nearest training shape, 1-NNA, both in percent, and `energy`."""
    num_points = trainer.objective.subdivision.cardinalities[-1]
    x = generate(
        trainer.averaged().eval(),
        trainer.objective.sde,
        DPMSolver(num_steps=GENERATED_STEPS),
        trainer.objective.subdivision,
        Renoise(),
        num_clouds=num_clouds,
        num_particles=num_points,
    )
    x, real = trainer.normalization.undo(x), Real(source, num_clouds, num_points)
    val = real.clouds("val", num_points)
    accuracy = one_nearest_neighbour_accuracy(pairwise(x, x), pairwise(val, val), pairwise(x, val))
    surface = float(np.mean(real.surface_distances(x)))
    energy = set_distance(x, val) / set_distance(real.clouds("train", num_points), val)
    return {"generated": 100 / longest_side(val) * surface, "1nna-cd": 100 * accuracy, "energy": energy}


def longest_side(x: Tensor) -> float:
    """Mean over the clouds (S, N, 3) of the longest side of their boxes."""
    return float((x.amax(1) - x.amin(1)).amax(1).mean())


def train(overrides: list[str], seconds: float, seed: int, kept: str | None, generated: int) -> dict[str, Any]:
    """Train one variant in this process; its checkpoint stays in the folder `kept`."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer, held_out, source = prepared(overrides, Path(kept or scratch), seconds, seed)
        trainer.run()
        found: dict[str, Any] = {
            "errors": errors(trainer, held_out).tolist(),
            "surface": predicted_distances(trainer, source),
            "redrawn": redrawn_distances(trainer, source),
        }
        if generated:
            found |= of_generated(trainer, source, generated)
    parameters = sum(parameter.numel() for parameter in trainer.raw.parameters())
    return {"steps": trainer.step, "parameters": parameters, **found}


def in_own_process(overrides: list[str], *settings: Any) -> dict[str, Any]:
    """`train` in a process of its own, whose processor time is the run's."""
    command = [sys.executable, __file__, "--worker", json.dumps([overrides, *settings])]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(f"{' '.join(overrides)}: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def remembered(folder: Path | None, name: str, settings: list[Any]) -> dict[str, Any]:
    """`in_own_process`, or what a file in the folder says of the same run; a new result gets its file."""
    if folder is None:
        return in_own_process(*settings)
    path = folder / f"{name}.json"
    if path.is_file():
        known = json.loads(path.read_text())
        if known["settings"] == settings:
            return dict(known["found"])
        raise SystemExit(f"{path} is of other settings, {known['settings']}; remove it or choose another --remember")
    found = in_own_process(*settings)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": settings, "found": found}))
    return found


def paired(own: Array, base: Array, seeds: int) -> dict[str, float]:
    """Mean difference to the base, relative to the base's mean, with its 95 % interval, in percent."""
    difference = 100 * (own - base) / base.mean()
    # Clouds scatter within a seed and seeds among each other: the larger of the two standard errors counts.
    by_seed = difference.reshape(seeds, -1).mean(axis=1)
    spread = [difference.std(ddof=1) / np.sqrt(len(difference))] if len(difference) > 1 else [np.nan]
    spread += [by_seed.std(ddof=1) / np.sqrt(seeds)] if seeds > 1 else []
    return {"percent": round(float(difference.mean()), 2), "interval": round(1.96 * float(max(spread)), 2)}


def measures(runs: list[dict[str, Any]]) -> dict[str, Array]:
    """Every measure of a variant, one number a seed and cloud."""
    errors = [np.array(run["errors"]) for run in runs]  # each (log-SNR, clouds)
    found = {
        "error": np.concatenate([error.mean(axis=0) for error in errors]),
        "fine_error": np.concatenate([error[-len(FINE) :].mean(axis=0) for error in errors]),
        "surface": np.concatenate([run["surface"] for run in runs]),
        "redrawn": np.concatenate([run["redrawn"] for run in runs]),
    }
    for measure in ("generated", "1nna-cd", "energy"):
        if measure in runs[0]:
            found[measure] = np.array([run[measure] for run in runs])
    return found


def table(results: dict[tuple[str, int], dict[str, Any]], first: str, seeds: int) -> list[dict[str, Any]]:
    """One row a variant: its measures, and their paired differences to the first variant with 95 % intervals."""
    rows = []
    base = measures([results[first, seed] for seed in range(seeds)])
    for name in dict.fromkeys(name for name, _ in results):
        runs = [results[name, seed] for seed in range(seeds)]
        row: dict[str, Any] = {"variant": name, "steps": round(float(np.mean([run["steps"] for run in runs])))}
        row["parameters"] = runs[0]["parameters"]
        for measure, own in measures(runs).items():
            row[measure] = round(float(own.mean()), 4)
            row |= {f"{measure}_{key}": value for key, value in paired(own, base[measure], seeds).items()}
        rows.append(row)
    return rows


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", choices=GROUPS, default="optimizer")
    parser.add_argument("--only", nargs="*", help="names of the group's variants to run; the first is the base")
    parser.add_argument("--variant", nargs=2, action="append", default=[], metavar=("NAME", "OVERRIDES"))
    parser.add_argument("--base", default="experiment=demo", help="overrides of every variant")
    parser.add_argument("--seconds", type=float, default=150.0, help="processor seconds a run")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--generated", type=int, default=0, help="clouds to generate and measure")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoints, by default none is kept")
    parser.add_argument("--remember", type=Path, help="folder of results; those that are there are not made again")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)  # of every run, and so in the hardware's name
    if options.worker:
        print(json.dumps(train(*json.loads(options.worker))))
        return
    variants = {**GROUPS[options.variants], **dict(options.variant)}
    variants = {name: variants[name] for name in options.only or variants}
    keys = [(name, seed) for seed in range(options.seeds) for name in variants]  # a whole seed first

    def run(key: tuple[str, int]) -> dict[str, Any]:
        name, seed = key
        label = f"{name.replace(' ', '-')}-{seed}"
        kept = None if options.keep is None else str(options.keep / label)
        overrides = [*options.base.split(), *variants[name].split()]
        return remembered(options.remember, label, [overrides, options.seconds, seed, kept, options.generated])

    with ThreadPoolExecutor(options.jobs) as pool:
        results = dict(zip(keys, pool.map(run, keys), strict=True))
    rows = table(results, next(iter(variants)), options.seeds)
    for row in rows:
        print(row)
    settings = {"group": options.variants, "base": options.base, "seconds": options.seconds, "seeds": options.seeds}
    add_rows(options.output, rows, same=("group", "base"), **settings)


if __name__ == "__main__":
    main()
