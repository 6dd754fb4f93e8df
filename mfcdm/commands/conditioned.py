"""sample.py with complete, densify, interpolate or likelihood: a checkpoint and the clouds of a file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mfcdm import checkpoint
from mfcdm.build import build
from mfcdm.commands.classes import chosen_labels
from mfcdm.commands.completing import completed, densified
from mfcdm.commands.console import say, warnings_as_lines
from mfcdm.commands.fetched import checkpoint_folder, loaded
from mfcdm.commands.given import Given, scheme_of
from mfcdm.commands.interpolating import interpolated
from mfcdm.commands.outputs import prepare_folder
from mfcdm.commands.tasks import Conditioning, Task
from mfcdm.commands.weighing import weighed
from mfcdm.samplers import Sampler

# What each makes and writes into a folder, when all is made.
TASKS: dict[str, Callable[[Task, Path], None]] = {
    "complete": completed,
    "densify": densified,
    "interpolate": interpolated,
    "likelihood": weighed,
}
# Keys of free samples alone, and what they are when nobody asks.
UNFIT = {"num_real": 0, "evaluate": None, "devices": None, "num_nodes": None}


def chosen_task(config: dict[str, Any]) -> str | None:
    """Which of the four a configuration asks for, None for free samples.

    Raises:
        ValueError: if it asks for two, or for something that goes with free samples alone.
    """
    chosen = [name for name in TASKS if config[name] is not None]
    if not chosen:
        return None
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(f'{name}={config[name]}' for name in chosen)} exclude each other; give one")
    name = chosen[0]
    for key, neutral in UNFIT.items():
        if config[key] != neutral:
            raise ValueError(f"{key}={config[key]} goes with free samples, not with {name}={config[name]}")
    if isinstance(config["num_particles"], list):
        raise ValueError(f"{name}={config[name]} takes one num_particles, got num_particles={config['num_particles']}")
    if name == "likelihood" and config["guidance"] != 1:
        raise ValueError(
            f"guidance={config['guidance']} leads samples away from the law that likelihood={config[name]} weighs by; "
            "leave it at 1"
        )
    return name


def conditioned_run(name: str, config: dict[str, Any], folder: Path, device: str) -> None:
    """Do one of the four and write what comes of it into `folder`."""
    options = Conditioning.of(config["conditioning"])
    given = Given.read(config[name], options.split, options.num_points)
    with warnings_as_lines():
        sampler = build(config["sampler"], Sampler, trust=True)  # type: ignore[type-abstract]
        model = loaded(checkpoint_folder(config["checkpoint"], folder), device, config)
        rescale = _rescales(name, model, options)
        task = Task(
            name=name,
            model=model,
            sampler=sampler,
            given=given.placed(model, rescale=rescale, farthest=options.farthest),
            options=options,
            labels=chosen_labels(model, config["class"], config["guidance"]),
            guidance=config["guidance"],
            num_clouds=config["num_clouds"],
            num_particles=config["num_particles"],
            seed=config["seed"],
            batch_size=config["batch_size"],
        )
        prepare_folder(folder)
        TASKS[name](task, folder)


def _rescales(name: str, model: checkpoint.Checkpoint, options: Conditioning) -> bool:
    """Whether each cloud of the file is scaled by itself, as training may have done with its own.

    A whole cloud shows its centre and size. A part does not, so it has to lie in the frame of its whole already.
    """
    scheme = scheme_of(model)
    if scheme == "global" and options.rescale:
        raise ValueError("conditioning.rescale=true: training scaled no cloud by itself (normalization=global)")
    if scheme != "global" and options.rescale is None and name == "complete":
        say(
            f"warning: training scaled each cloud by itself (normalization={scheme}), and a part does not show the "
            "centre and size of its whole; the file is taken to lie where samples of this checkpoint lie; "
            "conditioning.rescale=true takes a part's own centre and size for the whole's"
        )
        return False
    return True if options.rescale is None else options.rescale
