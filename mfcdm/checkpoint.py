"""Checkpoints: folders that are whole or absent, hold no pickle, and rebuild a model without running anything foreign.

step-00001000/
  network.safetensors    averaged (EMA) weights, ready to sample from
  branching.safetensors  those of a learned branching, where there is one
  training.safetensors   current weights and the optimizers' states, to go on from
  state.json             format_version, step, normalisation, optimizer's numbers
  config.yaml            the resolved configuration of the run
last -> step-00001000    the newest
best -> step-00001000    the one with the best validation, where there is any
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from mfcdm.branching import Branching
from mfcdm.build import build
from mfcdm.checkpoint_files import (
    BRANCHING_FILE,
    FORMAT_VERSION,
    DamagedTensors,
    Stored,
    TrainingState,
    fault,
    filled,
    load_weights,  # noqa: F401
    read_config,  # noqa: F401
    read_state,
    read_tensors,
)
from mfcdm.checkpoint_text import one_line, shown
from mfcdm.datasets.clouds import Normalization
from mfcdm.networks import ScoreNetwork
from mfcdm.sde import SDE
from mfcdm.subdivision import Subdivision


@dataclass(frozen=True)
class Checkpoint:
    """A model read back from a checkpoint.

    Args:
        network: with averaged (EMA) weights, in evaluation mode.
        sde: the forward process.
        subdivision: the levels.
        branching: between levels; one that is learned has averaged weights, in evaluation mode.
        normalization: (mean, std) of the data's coordinates.
        config: the run's resolved configuration.
        step: optimizer steps made.
        categories: names of the classes, where known.
    """

    network: nn.Module
    sde: SDE
    subdivision: Subdivision
    branching: Branching
    normalization: Normalization
    config: dict[str, Any]
    step: int
    categories: tuple[str, ...] = ()


def save(
    folder: str | Path,
    *,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    normalization: Normalization,
    step: int,
    training: TrainingState | None = None,
    categories: tuple[str, ...] = (),
    branching: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint, whole or not at all.

    Everything goes to a folder beside it first, is flushed to the disk, and is then renamed.

    Args:
        folder: of the checkpoint; one that exists is replaced.
        weights: averaged weights of the network, by name.
        config: resolved configuration with the keys network, sde, subdivision and branching.
        normalization: of the data.
        step: optimizer steps made.
        training: to resume from; without it the checkpoint can only be sampled.
        categories: names of the classes.
        branching: averaged weights of a learned branching, by name; nothing for one without weights.

    Returns:
        the folder.

    Raises:
        OSError: if it cannot be written.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.parent / f".writing-{folder.name}-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        _write(weights, scratch / "network.safetensors")
        if branching:
            _write(branching, scratch / BRANCHING_FILE)
        if training is not None:
            _write(training.tensors, scratch / "training.safetensors")
        state = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "mean": normalization.mean.tolist(),
            "std": float(normalization.std),
            "categories": list(categories),
            "branching": bool(branching),
            "training": None if training is None else training.numbers,
        }
        (scratch / "state.json").write_text(json.dumps(state, indent=1))
        (scratch / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
        for path in (*scratch.iterdir(), scratch):
            _flush(path)
        _put_in_place(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    _flush(folder.parent)
    return folder


def _put_in_place(scratch: Path, folder: Path) -> None:
    """Rename the finished scratch folder; one that has the name already is replaced."""
    if not folder.exists():
        scratch.rename(folder)
        return
    # rename() replaces no folder that holds files; the old one steps aside under a name nobody reads.
    aside = folder.parent / f".old-{folder.name}-{os.getpid()}"
    folder.rename(aside)
    try:
        scratch.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def point_at(folder: Path, name: str) -> None:
    """Make `name`, beside the checkpoint, a link to it; a reader sees the old one or the new one, never none."""
    link, scratch = folder.parent / name, folder.parent / f".link-{name}-{os.getpid()}"
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(folder.name, target_is_directory=True)
    scratch.replace(link)
    _flush(folder.parent)


def newest(folder: str | Path) -> Path | None:
    """The newest whole checkpoint in a run's `checkpoints` folder, or None; unfinished ones have other names."""
    return next((path for path in sorted(Path(folder).glob("step-*"), reverse=True) if fault(path) is None), None)


def prune(folder: Path, keep_last: int) -> None:
    """Remove old checkpoints of a run's `checkpoints` folder.

    Each is renamed before its files are removed: a killed process leaves none in part. What cannot be removed stays.

    Args:
        folder: of the checkpoints.
        keep_last: so many of the newest stay, at least 1, and whatever a link in the folder points to, as `best` does.
    """
    linked = {path.resolve() for path in folder.iterdir() if path.is_symlink()}
    own = sorted(path for path in folder.glob("step-*") if path.is_dir() and not path.is_symlink())
    for path in own[:-keep_last]:
        if path.resolve() not in linked:
            removed = folder / f".removed-{path.name}-{os.getpid()}"
            with suppress(OSError):
                path.rename(removed)
                shutil.rmtree(removed)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half-written in a run's `checkpoints` folder; nobody may be writing there."""
    for path in folder.glob(".old-step-*"):  # killed between two renames: the old checkpoint is whole, and has no name
        if not (own := folder / path.name.removeprefix(".old-").rpartition("-")[0]).exists():
            path.rename(own)
    for path in (*folder.glob(".writing-*"), *folder.glob(".old-step-*"), *folder.glob(".removed-step-*")):
        shutil.rmtree(path)
    for path in folder.glob(".link-*"):
        path.unlink()


def load(source: str | Path, device: torch.device | str = "cpu", *, trust: bool = False) -> Checkpoint:
    """Read a model back. Nothing is unpickled, and only classes of mfcdm are built.

    Args:
        source: folder of the checkpoint, or the one file that it was exported to.
        device: for the network.
        trust: also build classes from outside mfcdm that the configuration names.

    Returns:
        the model, with averaged weights and in evaluation mode.

    Raises:
        FileNotFoundError: if the folder or one of its files is missing.
        ValueError: if a file is damaged, of another format, refused, or does not fit the configuration.
    """
    source = Path(source)
    stored = Stored.of(source)
    state, config, learned = stored.state, stored.config, stored.branching
    try:
        sde = build(config["sde"], SDE, trust=trust)  # type: ignore[type-abstract]
        network = filled(config["network"], nn.Module if trust else ScoreNetwork, stored.network, source, trust)
        subdivision = build(config["subdivision"], Subdivision, trust=trust, sde=sde)
        kind: type = Branching
        branching: Branching = filled(config["branching"], kind, learned, learned.path, trust)
    except DamagedTensors:
        raise
    except ValueError as error:
        raise ValueError(f"{stored.config_path}: {one_line(error)}") from error
    mean = torch.tensor(state["mean"], dtype=torch.float32)
    if len(mean) != getattr(network, "dim", len(mean)):
        raise ValueError(f"{stored.state_path} is damaged: mean is {shown(state['mean'])}, of another dimension")
    return Checkpoint(
        network=network.to(device).eval(),
        sde=sde,
        subdivision=subdivision,
        branching=branching.to(device).eval() if isinstance(branching, nn.Module) else branching,
        normalization=Normalization(mean, torch.tensor(state["std"], dtype=torch.float32)),
        config=config,
        step=state["step"],
        categories=tuple(state["categories"]),
    )


def load_training(folder: Path) -> TrainingState:
    """Read what `save` was given as `training`.

    Raises:
        FileNotFoundError: if the checkpoint was saved without it.
        ValueError: if a file is damaged.
    """
    numbers = read_state(folder)["training"]
    if numbers is None:
        raise FileNotFoundError(f"{folder} holds a model to sample from, but no training state to resume")
    return TrainingState(read_tensors(folder / "training.safetensors"), numbers)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU and contiguous, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        save_file(_plain(tensors), path)
    except SafetensorError as error:  # of the disk's, which it gives its own type
        raise OSError(f"{path}: {error}") from error


def _flush(path: Path) -> None:
    """Have the operating system write a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
