"""The checkpoint that a command is given: where it lies, and the model in it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mfcdm import checkpoint
from mfcdm.networks import compiled

WANDB = "wandb:"  # begins the name of a checkpoint that lies there


def checkpoint_folder(name: str, folder: Path) -> Path:
    """The folder of a checkpoint; one that lies at W&B is fetched into `folder`/checkpoint first.

    Raises:
        FileNotFoundError: if it is the folder of a run instead.
    """
    if not name.startswith(WANDB):
        path, last = Path(name), Path(name) / "checkpoints" / "last"
        if last.is_dir() and not (path / "state.json").exists():
            raise FileNotFoundError(f"{path} is the folder of a run; its newest checkpoint is {last}")
        return path
    from mfcdm.training.loggers import fetch_checkpoint

    return fetch_checkpoint(name, folder / "checkpoint")


def loaded(source: Path, device: str, config: Mapping[str, Any]) -> checkpoint.Checkpoint:
    """The model of a checkpoint; `config` says whether to `trust` it, and whether to `compile` its network."""
    model = checkpoint.load(source, device, trust=config["trust"])
    return replace(model, network=compiled(model.network)) if config["compile"] else model
