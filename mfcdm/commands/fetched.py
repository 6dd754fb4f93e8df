"""Where the checkpoint lies that a command is given."""

from pathlib import Path

WANDB = "wandb:"  # begins the name of a checkpoint that lies there


def checkpoint_folder(name: str, folder: Path) -> Path:
    """The folder of a checkpoint; one that lies at W&B is fetched into `folder`/checkpoint first."""
    if not name.startswith(WANDB):
        return Path(name)
    from mfcdm.training.loggers import fetch_checkpoint

    return fetch_checkpoint(name, folder / "checkpoint")
