"""What the commands do, from a plain configuration: build, run, show progress, write results."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import Dataset

from mfcdm import checkpoint
from mfcdm.branching import Renoise
from mfcdm.build import build, check_arguments
from mfcdm.datasets import CloudDataset, Clouds, Normalization, open_dataset, rescaled
from mfcdm.generate import generate
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.samplers import Sampler
from mfcdm.sde import SDE
from mfcdm.settings import Group, SampleKeys, TrainKeys, check_cardinality, check_device, fitted_to
from mfcdm.subdivision import Subdivision
from mfcdm.training.batches import Batches
from mfcdm.training.engine import Progress as Step
from mfcdm.training.engine import Trainer, TrainerOptions
from mfcdm.training.loggers import JsonLines
from mfcdm.version import __version__
from mfcdm.visualize import draw_clouds

CONSOLE = Console(stderr=True)
DEFAULT_MINUTES = 30.0  # of a run without a bound of its own


def train_run(config: dict[str, Any], folder: Path) -> None:
    """Train as `config` says in `folder`, or go on in the folder that `config["resume"]` names."""
    check_arguments(TrainKeys, config, "")
    start: Path | None = None
    trust = True  # the user's own configuration
    if config["resume"] is not None:
        folder, trust = Path(config["resume"]), config["trust"]
        start = checkpoint.newest(folder / "checkpoints")
        if start is None:
            raise FileNotFoundError(f"resume={folder}: it holds no whole checkpoint to go on from")
        config = checkpoint.read_config(start)
        check_arguments(TrainKeys, config, f"{start / 'config.yaml'}: ")
    elif (old := checkpoint.newest(folder / "checkpoints")) is not None:
        raise FileExistsError(f"{folder} already holds {old.name}; resume={folder} goes on, another folder starts anew")
    for key in ("seed", "num_pictured"):
        if config[key] < 0:
            raise ValueError(f"{key} must be >= 0, got {config[key]}")
    check_arguments(TrainerOptions, config["trainer"], "trainer.")
    if config["trainer"]["max_steps"] is None and config["trainer"]["max_minutes"] is None:
        config["trainer"]["max_minutes"] = DEFAULT_MINUTES
    options = TrainerOptions(**config["trainer"])
    check_device(f"trainer.accelerator={options.accelerator}", options.accelerator)
    sde = build(config["sde"], SDE, trust=trust)  # type: ignore[type-abstract]
    subdivision = build(config["subdivision"], Subdivision, trust=trust, sde=sde)
    build(config["branching"], Renoise, trust=trust)
    sampler = build(config["sampler"], Sampler, trust=trust)  # type: ignore[type-abstract]
    if config["num_pictured"] and sampler.num_steps < subdivision.num_levels:
        raise ValueError(f"sampler.num_steps={sampler.num_steps} is too few for {subdivision.num_levels} levels")
    torch.manual_seed(config["seed"])  # the network's first weights
    network = build(config["network"], nn.Module, trust=trust)
    clouds = rescaled(Clouds.of(_dataset(config["dataset"], trust)), config["normalization"])
    clouds = fitted_to(network, clouds)
    check_cardinality(clouds, subdivision)
    normalization = Normalization.fit(clouds)
    trainer = Trainer(
        network,
        build(config["objective"], MeanFieldScoreMatching, trust=trust, sde=sde, subdivision=subdivision),
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
    _say(f"trained {trainer.step} steps in {trainer.seconds / 60:.1f} minutes: {last}")
    if config["num_pictured"]:
        _picture(checkpoint.load(last, trust=trust), sampler, config, folder, clouds)


def sample_run(config: dict[str, Any], folder: Path) -> None:
    """Draw clouds as `config` says and write them into `folder`."""
    check_arguments(SampleKeys, config, "")
    device = check_device(f"device={config['device']}", config["device"])
    model = checkpoint.load(config["checkpoint"], device, trust=config["trust"])
    num_particles = config["num_particles"]
    if num_particles is None:
        num_particles = model.subdivision.cardinalities[-1]
    sampler = build(config["sampler"], Sampler, trust=True)  # type: ignore[type-abstract]
    x = draw(model, sampler, config["num_clouds"], num_particles, config["seed"], config["batch_size"])
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "samples.npz", points=x.numpy())
    for index, cloud in enumerate(x):
        write_ply(folder / f"sample-{index:04d}.ply", cloud)
    draw_clouds(folder / "samples.png", grid(list(x)))
    _say(f"{len(x)} clouds of {num_particles} points: {folder / 'samples.npz'}, {folder / 'samples.png'}")


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


def write_ply(path: Path, cloud: Tensor) -> None:
    """Write a cloud (N, 2) or (N, 3) as a binary ply file, whole or not at all; in two dimensions z is 0."""
    import trimesh

    flat = torch.nn.functional.pad(cloud, (0, 3 - cloud.shape[1])).numpy()
    scratch = path.with_name(f".{path.name}.writing")
    scratch.write_bytes(trimesh.PointCloud(flat).export(file_type="ply"))
    scratch.replace(path)


def _picture(
    model: checkpoint.Checkpoint, sampler: Sampler, config: dict[str, Any], folder: Path, clouds: Clouds
) -> None:
    """samples/ and a picture of generated clouds above real ones."""
    count = config["num_pictured"]
    num_particles = model.subdivision.cardinalities[-1]
    x = draw(model, sampler, count, num_particles, config["seed"], batch_size=count)
    (folder / "samples").mkdir(exist_ok=True)
    write_atomically(folder / "samples" / "samples.npz", points=x.numpy())
    real = [cloud[:num_particles] for cloud in clouds.points()[:count]]
    generated, training = grid(list(x)), grid(real)
    titles = ["generated", *[""] * (len(generated) - 1), "training data"]
    path = draw_clouds(folder / "samples.png", generated + training, titles)
    _say(f"picture: {path}")


def _dataset(config: Group, trust: bool) -> CloudDataset:
    """The data set that a configuration names."""
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    if config.get("_target_") == "mfcdm.datasets.open_dataset":  # a function of ours, which `build` does not know
        check_arguments(open_dataset, arguments, "dataset.")
        return open_dataset(**arguments)
    return cast(CloudDataset, build(config, Dataset, trust=trust))


def _normalized(clouds: Clouds, normalization: Normalization) -> Clouds:
    return Clouds.join([normalization.apply(x) for x in clouds.points()], clouds.labels, clouds.categories)


def _describe(folder: Path, config: dict[str, Any]) -> None:
    """Write config.yaml and environment.json: a run folder explains itself."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    about = {
        "mfcdm": __version__,
        "git": _commit(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "command": sys.argv,
    }
    (folder / "environment.json").write_text(json.dumps(about, indent=1))


def _commit() -> str | None:
    """The git commit of the code, None where it is no clone."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _say(line: str) -> None:
    """A line that stays whole however long its paths are."""
    CONSOLE.print(line, soft_wrap=True, markup=False, highlight=False)


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
