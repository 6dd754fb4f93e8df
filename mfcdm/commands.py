"""What the commands do, from a plain configuration: build, run, show progress, write results."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import Dataset

from mfcdm import checkpoint
from mfcdm.build import build
from mfcdm.datasets import CloudDataset, Clouds, Normalization, rescaled
from mfcdm.generate import generate
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.samplers import Sampler
from mfcdm.sde import SDE
from mfcdm.subdivision import Subdivision
from mfcdm.training.batches import Batches
from mfcdm.training.engine import Progress as Step
from mfcdm.training.engine import Trainer, TrainerOptions
from mfcdm.training.loggers import JsonLines
from mfcdm.version import __version__
from mfcdm.visualize import draw_clouds

CONSOLE = Console(stderr=True)


def train_run(config: dict[str, Any], folder: Path) -> None:
    """Train as `config` says in `folder`, or go on in the folder that `config["resume"]` names."""
    start: Path | None = None
    if config["resume"] is not None:
        folder = Path(config["resume"])
        start = checkpoint.newest(folder / "checkpoints")
        if start is None:
            raise FileNotFoundError(f"{folder} holds no whole checkpoint to resume from")
        config = yaml.safe_load((folder / "config.yaml").read_text())
    options = TrainerOptions(**config["trainer"])
    dataset: CloudDataset = build(config["dataset"], Dataset, trust=True)
    clouds = rescaled(Clouds.of(dataset), config["normalization"])
    sde = build(config["sde"], SDE, trust=True)  # type: ignore[type-abstract]
    subdivision = build(config["subdivision"], Subdivision, trust=True, sde=sde)
    _check_cardinality(clouds, subdivision)
    normalization = Normalization.fit(clouds)
    torch.manual_seed(config["seed"])  # the network's first weights
    trainer = Trainer(
        build(config["network"], nn.Module, trust=True),
        build(config["objective"], MeanFieldScoreMatching, trust=True, sde=sde, subdivision=subdivision),
        Batches(_normalized(clouds, normalization), options.batch_size, config["seed"]),
        normalization,
        options,
        config,
        folder,
        categories=clouds.categories,
    )
    if start is not None:
        trainer.resume(start)
    _describe(folder, config)
    with JsonLines(folder / "metrics.jsonl", trainer.step) as log, _bar("training") as bar:
        trainer.loggers.append(log)
        task = bar.add_task("", total=1.0)

        def observe(step: Step) -> None:
            text = f"step {step.step}  level {step.level}  loss {step.loss:.3f}  {step.step / step.seconds:.1f} steps/s"
            bar.update(task, completed=step.share, description=text)

        last = trainer.run(observe)
    CONSOLE.print(f"trained {trainer.step} steps in {trainer.seconds / 60:.1f} minutes: {last}")
    if config["num_pictured"]:
        _picture(config, folder, last, clouds)


def sample_run(config: dict[str, Any], folder: Path) -> None:
    """Draw clouds as `config` says and write them into `folder`."""
    device = config["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = checkpoint.load(config["checkpoint"], device, trust=config["trust"])
    num_particles = config["num_particles"] or model.subdivision.cardinalities[-1]
    sampler = build(config["sampler"], Sampler, trust=True)  # type: ignore[type-abstract]
    x = draw(model, sampler, config["num_clouds"], num_particles, config["seed"], config["batch_size"])
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "samples.npz", points=x.numpy())
    draw_clouds(folder / "samples.png", grid(list(x)))
    CONSOLE.print(f"{len(x)} clouds of {num_particles} points: {folder / 'samples.npz'}, {folder / 'samples.png'}")


def draw(
    model: checkpoint.Checkpoint, sampler: Sampler, num_clouds: int, num_particles: int, seed: int, batch_size: int
) -> Tensor:
    """Clouds (B, N, D) on the CPU, in the data's coordinates, with a progress bar."""
    with _bar(f"sampling {num_clouds} clouds of {num_particles} points") as bar:
        task = bar.add_task("", total=None)
        x = generate(
            model.network,
            model.sde,
            sampler,
            model.subdivision,
            model.branching,
            num_clouds=num_clouds,
            num_particles=num_particles,
            seed=seed,
            batch_size=batch_size,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    return model.normalization.undo(x).cpu()


def grid(clouds: list[Tensor], width: int = 8) -> list[list[Tensor]]:
    """Clouds in rows of at most `width`."""
    return [clouds[start : start + width] for start in range(0, len(clouds), width)]


def write_atomically(path: Path, **arrays: Any) -> None:
    """Write an npz file, whole or not at all."""
    scratch = path.with_name(f".{path.name}.writing")
    with scratch.open("wb") as file:
        np.savez_compressed(file, **arrays)
    scratch.replace(path)


def _picture(config: dict[str, Any], folder: Path, last: Path, clouds: Clouds) -> None:
    """samples/ and a picture of generated clouds above real ones."""
    count = config["num_pictured"]
    model = checkpoint.load(last, trust=True)
    sampler = build(config["sampler"], Sampler, trust=True)  # type: ignore[type-abstract]
    num_particles = model.subdivision.cardinalities[-1]
    x = draw(model, sampler, count, num_particles, config["seed"], batch_size=count)
    (folder / "samples").mkdir(exist_ok=True)
    write_atomically(folder / "samples" / "samples.npz", points=x.numpy())
    real = [cloud[:num_particles] for cloud in clouds.points()[:count]]
    path = draw_clouds(folder / "samples.png", [list(x), real], ["generated", "training data"])
    CONSOLE.print(f"picture: {path}")


def _check_cardinality(clouds: Clouds, subdivision: Subdivision) -> None:
    index, points = clouds.smallest
    if points < subdivision.cardinalities[-1]:
        raise ValueError(
            f"cloud {index} has {points} points, but the last level needs {subdivision.cardinalities[-1]}; "
            f"set subdivision.num_particles={points} or less"
        )


def _normalized(clouds: Clouds, normalization: Normalization) -> Clouds:
    return Clouds.join([normalization.apply(x) for x in clouds.points()], clouds.labels, clouds.categories)


def _describe(folder: Path, config: dict[str, Any]) -> None:
    """Write config.yaml and environment.json: a run folder explains itself."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    about = {
        "mfcdm": __version__,
        "git": commit or None,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "command": sys.argv,
    }
    (folder / "environment.json").write_text(json.dumps(about, indent=1))


def _bar(title: str) -> Progress:
    return Progress(
        TextColumn(title),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=CONSOLE,
    )
