"""sample.py: draw clouds from a checkpoint."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfcdm import checkpoint
from mfcdm.build import build, check_arguments
from mfcdm.commands.classes import chosen_labels, class_names, in_turn, title
from mfcdm.commands.comparison import Comparison, recorded_run
from mfcdm.commands.conditioned import chosen_task, conditioned_run
from mfcdm.commands.console import say, warnings_as_lines
from mfcdm.commands.data import clouds_to_show
from mfcdm.commands.drawing import draw, in_words
from mfcdm.commands.fetched import checkpoint_folder, loaded
from mfcdm.commands.files import grid, write_samples
from mfcdm.commands.outputs import PICTURE, SAMPLES, check_kept, prepare_folder, remove_earlier, write_plies
from mfcdm.commands.processes import Crew
from mfcdm.commands.scoring import Opened, read_protocol
from mfcdm.evaluation import Protocol
from mfcdm.samplers import Sampler
from mfcdm.settings import SampleKeys, check_device, check_numbers, check_steps
from mfcdm.training.options import Machine
from mfcdm.training.processes import ALONE, Processes
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
    for key in ("evaluate", "complete", "densify", "interpolate"):
        if config[key] is not None:
            check_kept(key, config[key], folder)
    if task is not None:
        conditioned_run(task, config, folder, device)
        return
    _free_run({**config, "num_clouds": config["num_clouds"] or NUM_CLOUDS}, folder, device, protocol)


@dataclass(frozen=True)
class Plan:
    """What is to be drawn, once all is read and checked.

    Args:
        source: of the checkpoint.
        model: to draw from.
        sampler: with its number of steps.
        sizes: cardinalities, which the clouds take in turn.
        labels: one a cloud, or none.
        rows: of real clouds, for the picture.
        titles: of those rows.
        comparison: with a file, None for none.
    """

    source: Path
    model: checkpoint.Checkpoint
    sampler: Sampler
    sizes: Sequence[int]
    labels: Sequence[int]
    rows: list[list[Tensor]]
    titles: list[str]
    comparison: Comparison | None


def _free_run(config: dict[str, Any], folder: Path, device: str, protocol: Protocol) -> None:
    """Draw clouds, in as many processes as are asked for; score them where a file to compare with is given."""
    machine = machine_of(config, device)
    if machine.num_processes > 1:
        plan = _run_together(machine, config, folder, device, protocol)
    else:
        with warnings_as_lines():
            plan = _planned(config, checkpoint_folder(config["checkpoint"], folder), device, protocol)
            prepare_folder(folder)
            clouds = _drawn(plan, config)
        _write(plan, clouds, config, folder)
    if plan is not None and plan.comparison is not None:
        plan.comparison.finish(folder)


def _run_together(
    machine: Machine, config: dict[str, Any], folder: Path, device: str, protocol: Protocol
) -> Plan | None:
    """Draw and write clouds with several processes, of which all but the first have ended then; its plan."""
    crew, plan = Crew(), None
    with crew.one_voice(), warnings_as_lines() if crew.is_first else nullcontext():
        crew.find(machine)
        if crew.starts_others:  # a mistake is then this process' own alone
            plan = _planned(config, checkpoint_folder(config["checkpoint"], folder), device, protocol)
        crew.launch()
        early, processes = plan, crew.processes
        source = processes.by_first(
            lambda: checkpoint_folder(config["checkpoint"], folder) if early is None else early.source
        )
        with processes.together():
            plan = early or _planned(config, source, str(processes.device), protocol)
        processes.by_first(lambda: prepare_folder(folder))
        clouds = _drawn(plan, config, processes)
        processes.by_first(lambda: _write(plan, clouds, config, folder))  # a process that ends removes an empty folder
    return plan if crew.is_first else None


def machine_of(config: Mapping[str, Any], device: str) -> Machine:
    """What clouds are drawn on.

    Args:
        config: with the keys devices and num_nodes.
        device: "cpu", "cuda" or, for one process alone, "cuda:1".

    Raises:
        ValueError: if there are not so many devices.
    """
    kind, _, index = device.partition(":")
    machine = Machine(kind, config["devices"], config["num_nodes"])
    if machine.num_processes > 1 and index:
        raise ValueError(f"device={device} names one device, and {machine}; device={kind} leaves the choice open")
    if kind == "cuda" and (machine.devices or 1) > torch.cuda.device_count():
        raise ValueError(f"devices={machine.devices}: torch sees {counted(torch.cuda.device_count(), 'CUDA device')}")
    return machine


def _planned(config: dict[str, Any], source: Path, device: str, protocol: Protocol) -> Plan:
    """Read and check everything; nothing is drawn or written yet."""
    model = loaded(source, device, config)
    sampler = build(config["sampler"], Sampler, trust=True)  # type: ignore[type-abstract]
    check_steps(f"sampler.num_steps={sampler.num_steps}", sampler.num_steps, model.subdivision)
    sizes = _sizes(config["num_particles"], model)
    labels = in_turn(chosen_labels(model, config["class"], config["guidance"]), config["num_clouds"])
    rows, titles = _real_rows(model, config["num_real"], max(sizes), config["trust"], labels)
    comparison = _comparison(config, protocol, device, source)
    if comparison is not None:
        comparison.check(model, config["num_clouds"], sizes)
    return Plan(source, model, sampler, sizes, labels, rows, titles, comparison)


def _drawn(plan: Plan, config: dict[str, Any], processes: Processes = ALONE) -> list[Tensor]:
    count, seed, batch_size = (config[key] for key in ("num_clouds", "seed", "batch_size"))
    parts = plan.model, plan.sampler, count, plan.sizes, seed, batch_size
    return draw(*parts, plan.labels, config["guidance"], processes)


def _write(plan: Plan, clouds: list[Tensor], config: dict[str, Any], folder: Path) -> None:
    """Write the clouds, and a picture of them."""
    remove_earlier(folder)
    write_samples(folder / SAMPLES, clouds, plan.labels)
    write_plies(folder, clouds)
    generated, first = grid(clouds), title(class_names(plan.model), plan.labels, config["guidance"])
    titles = [first, *[""] * (len(generated) - 1), *plan.titles]
    draw_clouds(folder / PICTURE, generated + plan.rows, titles)
    say(f"{in_words(len(clouds), plan.sizes)}: {folder / SAMPLES}, {folder / PICTURE}")


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
