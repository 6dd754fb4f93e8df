"""Where the checkpoint lies that a command is given."""

from pathlib import Path

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
