"""What the commands write, each file whole or not at all."""

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from mfcdm.atomic import whole
from mfcdm.version import __version__


def write_samples(path: Path, clouds: list[Tensor], labels: Sequence[int] = ()) -> None:
    """Write clouds (N_i, D) as an npz: `points` (B, max N_i, D), 0 on padding.

    Where N_i differs `lengths` (B,) are added, and where the clouds have classes `labels` (B,).
    """
    arrays = {"points": torch.nn.utils.rnn.pad_sequence(clouds, batch_first=True).numpy()}
    lengths = np.array([len(cloud) for cloud in clouds])
    if len(set(lengths.tolist())) > 1:
        arrays["lengths"] = lengths
    if labels:
        arrays["labels"] = np.array(labels, dtype=np.int64)
    with whole(path) as scratch, scratch.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def write_ply(path: Path, cloud: Tensor) -> None:
    """Write a cloud (N, 2) or (N, 3) as a binary ply file; in two dimensions z is 0."""
    import trimesh

    flat = torch.nn.functional.pad(cloud, (0, 3 - cloud.shape[1])).numpy()
    with whole(path) as scratch:
        scratch.write_bytes(trimesh.PointCloud(flat).export(file_type="ply"))


def grid(clouds: list[Tensor], width: int = 8) -> list[list[Tensor]]:
    """Clouds in rows of at most `width`."""
    return [clouds[start : start + width] for start in range(0, len(clouds), width)]


def describe(folder: Path, config: dict[str, Any]) -> None:
    """Write config.yaml and environment.json: a run folder explains itself."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / "config.yaml") as scratch:
        scratch.write_text(yaml.safe_dump(config, sort_keys=False))
    about = {
        "mfcdm": __version__,
        "git": _commit(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "command": sys.argv,
    }
    with whole(folder / "environment.json") as scratch:
        scratch.write_text(json.dumps(about, indent=1))


def _commit() -> str | None:
    """The git commit of the code, None where it is no clone; a clone that it is merely installed inside is another."""
    code = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(code), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    top, commit = done.stdout.splitlines()
    return commit if Path(top) == code else None
