"""What a run leaves on the disk to go on from, and how it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mfcdm import checkpoint
from mfcdm.training.kept_numbers import check_kept
from mfcdm.training.optimizers import load_moments, read_moments
from mfcdm.training.refusals import Refusals
from mfcdm.training.same_data import check_same_data, place_of
from mfcdm.training.stepping import diagnosis

if TYPE_CHECKING:
    from mfcdm.training.engine import Trainer


def save(run: Trainer) -> Path:
    """Write a checkpoint of this step, point `last` at it, and `best` where it is the best so far; remove old ones.

    Raises:
        FloatingPointError: if a weight is not finite.
        OSError: if it cannot be written.
    """
    folder = run.processes.by_first(lambda: _write(run))
    run.saved_at = run.step
    return folder


def resume(run: Trainer, folder: Path) -> None:
    """Go on from a checkpoint of this run, exactly; what a killed process left half-written is removed.

    Raises:
        FileNotFoundError: if the checkpoint holds no training state.
        ValueError: if it does not fit the network, or the data are not those that the run began with.
    """
    with run.processes.together():
        _load(run, folder)
    run.processes.by_first(lambda: _tidy(run, folder))


def unwritten(run: Trainer, error: OSError) -> str:
    """That this step's checkpoint could not be written, and which one there is."""
    newest = checkpoint.newest(run.folder / "checkpoints")
    kept = "there is no earlier one" if newest is None else f"the newest whole one is {newest}"
    return f"the checkpoint of step {run.step} could not be written ({error.strerror or error}); {kept}"


def _write(run: Trainer) -> Path:
    tensors = {f"network.{name}": tensor for name, tensor in run.raw.state_dict().items()}
    tensors |= run.branching.tensors()
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise diagnosis(f"{name} overflowed by step {run.step}")
    moments = read_moments(run.raw, run.raw_optimizers)
    tensors |= {f"optimizer.{name}": tensor for name, tensor in moments.items()}
    numbers = {
        "seconds": run.seconds,
        "ema_updates": run.ema.updates,
        "refusals": run.refusals.numbers(),
        "seed": run.batches.seed,
        "num_clouds": len(run.batches.clouds),
        "branching": run.branching.numbers(),
        **run.judge.numbers(),
    }
    folder = checkpoint.save(
        run.checkpoint_folder(run.step),
        weights=run.ema.mean,
        config=run.config,
        normalization=run.normalization,
        step=run.step,
        training=checkpoint.TrainingState(tensors, numbers),
        categories=run.categories,
        branching=run.branching.weights(),
    )
    _point_at(run, folder)
    is_best = run.judge.best is not None and run.judge.best["step"] == run.step
    run.loggers.checkpoint(folder, ("latest", "best") if is_best else ("latest",))
    if run.options.keep_last:
        checkpoint.prune(folder.parent, run.options.keep_last)
    return folder


def _load(run: Trainer, folder: Path) -> None:
    state, whole = checkpoint.load_training(folder), checkpoint.read_state(folder)
    check_kept(state.numbers, run.branching.numbers(), folder / "state.json")
    place = place_of(run.config.get("dataset") or {})
    check_same_data(whole, run.normalization, run.categories, len(run.batches.clouds), place)
    checkpoint.load_weights(run.raw, state.under("network."), folder)
    load_moments(run.raw, run.raw_optimizers, state.under("optimizer."))
    run.branching.load(state, folder)
    averaged = folder / "network.safetensors"
    run.ema.load(checkpoint.read_tensors(averaged), state.numbers["ema_updates"], averaged)
    numbers = state.numbers
    run.step, run.seconds = whole["step"], numbers["seconds"]
    run.refusals = Refusals(**numbers["refusals"]) if "refusals" in numbers else Refusals(numbers["refused"])
    run.judge.load(numbers)


def _tidy(run: Trainer, folder: Path) -> None:
    checkpoint.remove_leftovers(folder.parent)
    _point_at(run, folder)  # a process killed just after it wrote the checkpoint has not


def _point_at(run: Trainer, folder: Path) -> None:
    checkpoint.point_at(folder, "last")
    if run.judge.best is not None and (best := run.checkpoint_folder(run.judge.best["step"])).is_dir():
        checkpoint.point_at(best, "best")
