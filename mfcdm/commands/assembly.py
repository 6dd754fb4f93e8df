"""The objects of a training run, from its configuration."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mfcdm import checkpoint
from mfcdm.branching import Branching
from mfcdm.build import build, check_arguments
from mfcdm.commands.data import (
    NothingHeldOut,
    batches_of,
    held_out_clouds,
    normalized,
    read_augmentation,
    read_clouds,
)
from mfcdm.commands.processes import Crew
from mfcdm.datasets import Clouds, Normalization, rescaled
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.samplers import Sampler
from mfcdm.sde import SDE
from mfcdm.settings import (
    TrainKeys,
    check_cardinality,
    check_device,
    check_dimension,
    check_extent,
    check_numbers,
    check_steps,
    fitted_to,
)
from mfcdm.subdivision import Subdivision
from mfcdm.training.batches import Batches
from mfcdm.training.engine import Trainer
from mfcdm.training.loggers import JsonLines, Logger
from mfcdm.training.options import TrainerOptions
from mfcdm.training.same_data import place_of
from mfcdm.training.validation import Validation, ValidationOptions
from mfcdm.wording import spelled

DEFAULT_MINUTES = 30.0  # of a run without a bound of its own
MACHINE = ("devices", "num_nodes", "accumulate")  # trainer.* that a resumed run may change: it learns the same


@dataclass(frozen=True)
class Start:
    """Where a run begins."""

    config: dict[str, Any]
    folder: Path
    trust: bool
    checkpoint: Path | None = None  # to go on from


@dataclass(frozen=True)
class Parts:
    """What a configuration stands for, apart from its data."""

    sde: SDE
    subdivision: Subdivision
    branching: Branching
    sampler: Sampler
    network: nn.Module
    objective: MeanFieldScoreMatching


@dataclass(frozen=True)
class Material:
    """What a run learns from, and with."""

    parts: Parts
    clouds: Clouds  # of training, in the scale of the configured normalisation
    normalization: Normalization
    batches: Batches
    validation: Validation | None
    remark: str  # for the user, or ""


@dataclass(frozen=True)
class Prepared:
    """A run that only has to be started."""

    start: Start
    trainer: Trainer
    sampler: Sampler
    clouds: Clouds  # of training, in the scale of the configured normalisation
    remark: str  # for the user, or ""


def find_start(config: dict[str, Any], folder: Path) -> Start:
    """The run that a configuration begins, or the one that it resumes."""
    check_arguments(TrainKeys, config, "")
    if config["resume"] is None:
        if (old := checkpoint.newest(folder / "checkpoints")) is not None:
            raise FileExistsError(
                f"{folder} already holds {old.name}; {spelled('resume', folder)} goes on, another folder starts anew"
            )
        if damaged := sorted((folder / "checkpoints").glob("step-*")):
            raise FileExistsError(
                f"{folder} already holds {damaged[-1].name}, which is not whole: {checkpoint.fault(damaged[-1])}; "
                "another folder starts anew"
            )
        return Start(config, folder, trust=True)  # the user's own configuration
    folder, trust = Path(config["resume"]), config["trust"]
    newest = checkpoint.newest(folder / "checkpoints")
    if newest is None:
        raise FileNotFoundError(f"resume={folder}: it holds no whole checkpoint to go on from")
    own = checkpoint.read_config(newest)
    check_arguments(TrainKeys, own, f"{newest / 'config.yaml'}: ")
    return Start(on_machine(own, config), folder, trust, newest)


def on_machine(own: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A resumed run's own configuration, with the machine's keys as they are given, where they are."""
    chosen = {key: given["trainer"].get(key) for key in MACHINE}
    return own | {"trainer": own["trainer"] | {key: value for key, value in chosen.items() if value is not None}}


def prepare(start: Start, crew: Crew | None = None) -> Prepared:
    """Build a run and read its data, together with the other processes that train it.

    A process that starts the others itself reads and checks everything before: a mistake is then its own alone.

    Raises:
        FileNotFoundError: if data are not there.
        ValueError: if a key, the data or the checkpoint does not fit.
    """
    crew, (options, _) = crew or Crew(), read_options(start.config)
    crew.find(options.machine)
    material = read_material(start) if crew.starts_others else None
    crew.launch()
    start = crew.processes.objects(start)[0]  # a folder may be named after the time
    with crew.processes.together():  # a block of its own: one that fails here meets none of the exchanges below
        material = material or read_material(start)
    with crew.processes.together():
        trainer = Trainer(
            material.parts.network,
            material.parts.objective,
            material.batches,
            material.normalization,
            options,
            start.config,
            start.folder,
            categories=material.clouds.categories,
            fabric=crew.fabric,
            validation=material.validation,
            branching=material.parts.branching,
        )
        if start.checkpoint is not None:
            trainer.resume(start.checkpoint)
    return Prepared(start, trainer, material.parts.sampler, material.clouds, material.remark)


def read_material(start: Start) -> Material:
    """Build what a configuration names, and read its data; see `prepare`."""
    config = start.config
    options, validation_options = read_options(config)
    augmentation = read_augmentation(config)
    parts = build_parts(config, start.trust)
    raw = read_clouds(config["dataset"], start.trust)
    check_dimension(raw, place_of(config["dataset"]))
    clouds = fitted_to(parts.network, rescaled(raw, config["normalization"]))
    check_cardinality(clouds, parts.subdivision)
    normalization = Normalization.fit(clouds)
    num_particles = parts.subdivision.cardinalities[-1]
    ready = normalized(clouds, normalization)
    batches = batches_of(ready, options.batch_size, config["seed"], num_particles, augmentation)
    validation, remark = None, ""
    if validation_options.num_clouds > 0:
        try:
            validation = build_validation(start, parts, validation_options, raw, clouds, normalization)
        except NothingHeldOut as reason:
            remark = f"no validation: {reason}"
    return Material(parts, clouds, normalization, batches, validation, remark)


def read_options(config: dict[str, Any]) -> tuple[TrainerOptions, ValidationOptions]:
    """How to train and validate; a run without a bound gets one, which is written into the configuration."""
    check_numbers(config)
    check_arguments(TrainerOptions, config["trainer"], "trainer.")
    validation = config.get("validation") or {"num_clouds": 0}
    check_arguments(ValidationOptions, validation, "validation.")
    if config["trainer"].get("max_steps") is None and config["trainer"].get("max_minutes") is None:
        config["trainer"]["max_minutes"] = DEFAULT_MINUTES
    options = TrainerOptions(**config["trainer"])
    device = check_device(f"trainer.accelerator={options.accelerator}", options.accelerator)
    if device == "cuda" and (options.devices or 1) > torch.cuda.device_count():
        raise ValueError(f"trainer.devices={options.devices}: torch sees {torch.cuda.device_count()} CUDA devices")
    return options, ValidationOptions(**validation)


def build_parts(config: dict[str, Any], trust: bool) -> Parts:
    """Build everything that a configuration names, apart from its data; the network's first weights follow the seed."""
    sde = build(config["sde"], SDE, trust=trust)  # type: ignore[type-abstract]
    subdivision = build(config["subdivision"], Subdivision, trust=trust, sde=sde)
    sampler = build(config["sampler"], Sampler, trust=trust)  # type: ignore[type-abstract]
    if config["num_pictured"]:
        check_steps(f"sampler.num_steps={sampler.num_steps}", sampler.num_steps, subdivision)
    if not trust:  # a run of somebody else, whose sizes may be meant to exhaust the machine
        check_extent("network", config["network"], nn.Module)
        check_extent("branching", config["branching"], Branching)
    torch.manual_seed(config["seed"])
    network = build(config["network"], nn.Module, trust=trust)
    branching = build(config["branching"], Branching, trust=trust)  # type: ignore[type-abstract]
    objective = build(config["objective"], MeanFieldScoreMatching, trust=trust, sde=sde, subdivision=subdivision)
    return Parts(sde, subdivision, branching, sampler, network, objective)


def build_validation(
    start: Start, parts: Parts, options: ValidationOptions, raw: Clouds, clouds: Clouds, normalization: Normalization
) -> Validation:
    """The comparison with the data set's split `val`; `NothingHeldOut` where it has none."""
    config = start.config
    held_out = held_out_clouds(config["dataset"], start.trust, raw, options.num_clouds, config["seed"])
    held_out = fitted_to(parts.network, rescaled(held_out, config["normalization"]))
    if held_out.labels is not None and held_out.categories != clouds.categories:
        raise ValueError(
            f"split val has the categories {', '.join(held_out.categories)}, training {', '.join(clouds.categories)}: "
            "their labels do not fit together; validation.num_clouds=0 switches validation off"
        )
    return Validation(
        held_out,
        normalization,
        parts.sde,
        parts.sampler,
        parts.subdivision,
        parts.branching,
        options,
        config["seed"],
        config["trainer"].get("batch_size", TrainerOptions.batch_size),
    )


def open_loggers(start: Start, step: int) -> Iterator[Logger]:
    """metrics.jsonl, and what the configuration adds."""
    yield JsonLines(start.folder / "metrics.jsonl", step)
    chosen = start.config.get("logger") or {}
    if chosen.get("_target_") is not None:
        about = {"folder": start.folder, "config": start.config}
        yield build(chosen, Logger, trust=start.trust, **about)  # type: ignore[type-abstract]
