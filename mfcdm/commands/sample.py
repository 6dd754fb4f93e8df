"""sample.py: draw clouds from a checkpoint."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfcdm import checkpoint
from mfcdm.build import build, check_arguments
from mfcdm.commands.classes import chosen_labels, class_names, in_turn, title
from mfcdm.commands.comparison import Comparison, recorded_run
from mfcdm.commands.conditioned import chosen_task, conditioned_run
from mfcdm.commands.console import Meter, Pace, say, warnings_as_lines
from mfcdm.commands.data import clouds_to_show
from mfcdm.commands.fetched import checkpoint_folder
from mfcdm.commands.files import grid, write_ply, write_samples
from mfcdm.commands.scoring import Opened, read_protocol
from mfcdm.evaluation import Protocol
from mfcdm.generate import generate
from mfcdm.networks import compiled
from mfcdm.samplers import Sampler
from mfcdm.settings import SampleKeys, check_device, check_numbers, check_steps
from mfcdm.visualize import draw_clouds
from mfcdm.wording import counted

NUM_CLOUDS = 16  # where no number is asked for


def sample_run(config: dict[str, Any], folder: Path) -> None:
    """Do what `config` says, and write what comes of it into `folder`: free samples, or one of `conditioned.TASKS`."""
    check_arguments(SampleKeys, config, "")
    check_numbers({key: value for key, value in config.items() if value is not None})
    device = check_device(f"device={config['device']}", config["device"])
    protocol = read_protocol(config["protocol"])
    task = chosen_task(config)
    if task is not None:
        conditioned_run(task, config, folder, device)
        return
    _free_run({**config, "num_clouds": config["num_clouds"] or NUM_CLOUDS}, folder, device, protocol)


def _free_run(config: dict[str, Any], folder: Path, device: str, protocol: Protocol) -> None:
    """Draw clouds; score them where a file to compare with is given."""
    with warnings_as_lines():
        source = checkpoint_folder(config["checkpoint"], folder)
        model = checkpoint.load(source, device, trust=config["trust"])
        if config["compile"]:
            model = replace(model, network=compiled(model.network))
        sampler = build(config["sampler"], Sampler, trust=True)  # type: ignore[type-abstract]
        check_steps(f"sampler.num_steps={sampler.num_steps}", sampler.num_steps, model.subdivision)
        sizes = _sizes(config["num_particles"], model)
        guidance = config["guidance"]
        labels = in_turn(chosen_labels(model, config["class"], guidance), config["num_clouds"])
        rows, titles = _real_rows(model, config["num_real"], max(sizes), config["trust"], labels)
        comparison = _comparison(config, protocol, device, source)
        if comparison is not None:
            comparison.check(model, config["num_clouds"], sizes)
        folder.mkdir(parents=True, exist_ok=True)  # before the work, which would be lost where nothing can be written
        seed, batch_size = config["seed"], config["batch_size"]
        clouds = draw(model, sampler, config["num_clouds"], sizes, seed, batch_size, labels, guidance)
    write_samples(folder / "samples.npz", clouds, labels)
    for index, cloud in enumerate(clouds):
        write_ply(folder / f"sample-{index:04d}.ply", cloud)
    generated, first = grid(clouds), title(class_names(model), labels, guidance)
    draw_clouds(folder / "samples.png", generated + rows, [first, *[""] * (len(generated) - 1), *titles])
    made = f"{counted(len(clouds), 'cloud')} of {_in_words(sizes)}"
    say(f"{made}: {folder / 'samples.npz'}, {folder / 'samples.png'}")
    if comparison is not None:
        comparison.finish(folder)


def draw(
    model: checkpoint.Checkpoint,
    sampler: Sampler,
    num_clouds: int,
    num_particles: Sequence[int],
    seed: int,
    batch_size: int,
    labels: Sequence[int] = (),
    guidance: float = 1.0,
) -> list[Tensor]:
    """Clouds (N_i, D) on the CPU, in the data's coordinates, with a progress bar.

    Args:
        model: to draw from.
        sampler: with its number of steps.
        num_clouds: B.
        num_particles: cardinalities, which the clouds take in turn: N_i = num_particles[i mod their number].
        seed: cloud i depends on (seed, i), N_i and its label alone.
        batch_size: clouds drawn together, of one cardinality.
        labels: one a cloud, or none for clouds without a label.
        guidance: towards the labels.
    """
    turns = len(num_particles)
    clouds: dict[int, Tensor] = {}
    work = float(sum(num_particles[index % turns] for index in range(num_clouds)))
    done, pace = 0.0, Pace()
    with Meter(f"sampling {counted(num_clouds, 'cloud')} of {_in_words(num_particles)}") as meter:
        for turn, size in enumerate(num_particles[:num_clouds]):
            indices = range(turn, num_clouds, turns)

            def progress(step: int, total: int, done: float = done, part: float = size * len(indices)) -> None:
                share = (done + part * step / total) / work
                speed = pace.add(share, time.monotonic())
                meter.show(share, seconds_left=(1 - share) / speed if speed > 0 else None)

            x = generate(
                model.network,
                model.sde,
                sampler,
                model.subdivision,
                model.branching,
                num_clouds=len(indices),
                num_particles=size,
                label=torch.tensor([labels[index] for index in indices]) if labels else None,
                guidance=guidance,
                seed=seed,
                batch_size=batch_size,
                indices=indices,
                progress=progress,
            )
            clouds |= zip(indices, model.normalization.undo(x).cpu(), strict=True)
            done += size * len(indices)
    return [clouds[index] for index in range(num_clouds)]


def _real_rows(
    model: checkpoint.Checkpoint, count: int, num_points: int, trust: bool, labels: Sequence[int]
) -> tuple[list[list[Tensor]], list[str]]:
    """Rows of real clouds for the picture and their titles, of the same classes; none where none are asked for."""
    if count == 0:
        return [], []
    missing = [key for key in ("dataset", "normalization") if key not in model.config]
    if missing:
        raise ValueError(
            f"num_real={count}: the checkpoint does not say its {missing[0]}; num_real=0 shows no real clouds"
        )
    scheme = model.config["normalization"]
    what, clouds = clouds_to_show(model.config["dataset"], trust, scheme, count, num_points, labels)
    rows = grid(clouds)
    return rows, [what] * bool(rows)


def _sizes(wanted: int | Sequence[int] | None, model: checkpoint.Checkpoint) -> Sequence[int]:
    """The cardinalities that are asked for, that of the training where none is."""
    if wanted is None:
        return [model.subdivision.cardinalities[-1]]
    return [wanted] if isinstance(wanted, int) else wanted


def _comparison(config: dict[str, Any], protocol: Protocol, device: str, source: Path) -> Comparison | None:
    """What `evaluate` asks for, its file read; None where it asks for nothing."""
    if config["evaluate"] is None:
        return None
    reference = Opened.at(config["evaluate"], config["reference_split"] or protocol.split)
    return Comparison(reference, protocol, device, recorded_run(source) if config["log_scores"] else None)


def _in_words(sizes: Sequence[int]) -> str:
    return ", ".join([*map(str, sizes[:-1]), counted(sizes[-1], "point")])
