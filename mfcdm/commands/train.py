"""train.py: train a network, or go on with a run."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mfcdm import checkpoint
from mfcdm.commands.assembly import Prepared, Start, find_start, on_machine, open_loggers, prepare
from mfcdm.commands.classes import class_names, in_turn, title
from mfcdm.commands.console import Meter, say, warnings_as_lines
from mfcdm.commands.data import of_classes
from mfcdm.commands.drawing import draw
from mfcdm.commands.files import describe, grid, write_samples
from mfcdm.commands.forecast import Outlook
from mfcdm.commands.processes import Crew
from mfcdm.commands.reporting import try_report
from mfcdm.locking import alone_in
from mfcdm.visualize import draw_clouds
from mfcdm.wording import spelled


def train_run(config: dict[str, Any], folder: Path) -> None:
    """Train as `config` says in `folder`, or go on in the folder that `config["resume"]` names.

    Raises:
        BlockingIOError: if another process trains in the folder.
        SystemExit: if Ctrl-C or SIGTERM has stopped the run, with the code that a shell gives to it.
    """
    crew, interrupted, code = Crew(), None, 0
    with crew.one_voice(), _alone(config, folder, crew):
        run = prepare(_start(config, folder, crew), crew)  # all is built and checked before anything is written
        interrupted, code = _trained(run, crew)
    if interrupted is not None and crew.is_first:
        trainer = run.trainer
        last, resume = trainer.checkpoint_folder(trainer.step), spelled("resume", trainer.folder)
        say(f"mfcdm: stopped by {interrupted} after step {trainer.step}, in {last}; python train.py {resume} goes on")
        raise SystemExit(code)


def _alone(config: dict[str, Any], folder: Path, crew: Crew) -> AbstractContextManager[None]:
    """Keep other runs from the folder that this process writes to: they would remove what it is just writing."""
    if config.get("resume") is not None:
        folder = Path(str(config["resume"]))
        if not folder.is_dir():
            return nullcontext()
    return alone_in(folder) if crew.is_first else nullcontext()


def _trained(run: Prepared, crew: Crew) -> tuple[str | None, int]:
    """Train, and show what has come out of it; name and exit code of the signal that has stopped the run, if any."""
    trainer, folder, failed = run.trainer, run.trainer.folder, True
    crew.processes.by_first(lambda: describe(folder, run.start.config))
    crew.name_devices(folder, trainer.options.num_nodes or 1)
    if run.remark and crew.is_first:
        say(run.remark)
    interrupts = crew.interrupts(trainer.stop)
    with warnings_as_lines() if crew.is_first else nullcontext():
        try:
            with interrupts:
                last = _train(run)
            interrupted, code = crew.caught(interrupts)
            if crew.is_first:
                say(f"trained {trainer.step} steps in {trainer.seconds / 60:.1f} minutes: {last}")
                if (shown := trainer.judge.summary()) is not None:
                    say(shown)
            pictured = run.start.config["num_pictured"] and interrupted is None
            drawn = _drawn(run, last, crew) if pictured else None
            if not crew.is_first:
                return interrupted, code
            if drawn is not None:
                _picture(drawn, run)
            failed = interrupted is not None
        finally:
            trainer.loggers.close(failed)
        try_report(folder, run.clouds, stopped=interrupted is not None)
    return interrupted, code


def _start(config: dict[str, Any], folder: Path, crew: Crew) -> Start:
    """Where the run begins, once what a killed part of it left half-written is gone; says what is not as expected."""
    if config.get("resume") is None:
        return find_start(config, folder)
    folder = Path(str(config["resume"]))
    checkpoints = folder / "checkpoints"
    if checkpoints.is_dir() and crew.is_first:
        checkpoint.remove_leftovers(checkpoints)
    newest = checkpoint.newest(checkpoints)
    for path in sorted(checkpoints.glob("step-*")):
        if crew.is_first and (newest is None or path.name > newest.name):
            say(f"{path} is not whole, and left out: {checkpoint.fault(path)}")
    if newest is None and (folder / "config.yaml").is_file() and not list(checkpoints.glob("step-*")):
        if crew.is_first:
            say(f"{folder} was left before its first checkpoint: it begins anew, with its own configuration")
        own = on_machine(checkpoint.read_config(folder) | {"resume": None}, config)
        return replace(find_start(own, folder), trust=config["trust"])
    return find_start(config, folder)


def _train(run: Prepared) -> Path:
    """Open the loggers and train; the last checkpoint."""
    trainer = run.trainer

    def listen() -> None:
        for logger in open_loggers(run.start, trainer.step):
            trainer.loggers.append(logger)

    trainer.processes.by_first(listen)
    if not trainer.processes.is_first:
        return trainer.run()
    with Meter("training") as meter:
        return trainer.run(Outlook(meter, trainer.judge))


@dataclass(frozen=True)
class _Drawn:
    """Clouds for the picture.

    Args:
        model: that they are drawn from.
        clouds: (N, D) each.
        labels: one a cloud, or none; they take the network's classes in turn.
    """

    model: checkpoint.Checkpoint
    clouds: list[Tensor]
    labels: list[int]


def _drawn(run: Prepared, last: Path, crew: Crew) -> _Drawn:
    """Clouds of the last checkpoint, of which each process draws its share."""
    count, seed = run.trainer.config["num_pictured"], run.trainer.config["seed"]
    with crew.processes.together():
        model = checkpoint.load(last, crew.processes.device, trust=run.start.trust)
    sizes, labels = [model.subdivision.cardinalities[-1]], in_turn(range(len(class_names(model))), count)
    parts = model, run.sampler, count, sizes, seed
    return _Drawn(model, draw(*parts, batch_size=count, labels=labels, processes=crew.processes), labels)


def _picture(drawn: _Drawn, run: Prepared) -> None:
    """samples/ and a picture of generated clouds above real ones."""
    folder, num_particles = run.trainer.folder, drawn.model.subdivision.cardinalities[-1]
    (folder / "samples").mkdir(exist_ok=True)
    write_samples(folder / "samples" / "samples.npz", drawn.clouds, drawn.labels)
    rows = grid(drawn.clouds)
    real = of_classes(run.clouds, drawn.labels, len(drawn.clouds))
    titles = [title(class_names(drawn.model), drawn.labels), *[""] * (len(rows) - 1), "training data"]
    path = draw_clouds(folder / "samples.png", rows + grid([cloud[:num_particles] for cloud in real]), titles)
    for logger in run.trainer.loggers:
        logger.clouds(run.trainer.step, "final", drawn.clouds, path)
    say(f"picture: {path}")
