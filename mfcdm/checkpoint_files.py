"""The files of a checkpoint, read and checked: nothing in them is trusted to be whole."""

import json
import math
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

FORMAT_VERSION = 1


def read_state(folder: Path) -> dict[str, Any]:
    """Read and check state.json."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a checkpoint folder")
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is not a checkpoint: it has no state.json") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        version = state.get("format_version") if isinstance(state, dict) else None
        raise ValueError(f"{path} has format_version {version!r}; this version reads {FORMAT_VERSION}")
    whole = {
        "step": lambda value: type(value) is int and value >= 0,
        "mean": lambda value: isinstance(value, list) and value and all(map(_finite, value)),
        "std": lambda value: _finite(value) and value > 0,
        "categories": lambda value: isinstance(value, list),
        "training": lambda value: value is None or isinstance(value, dict),
    }
    for key, holds in whole.items():
        if not holds(state.get(key)):
            raise ValueError(f"{path} is damaged: {key} is {state.get(key)!r}")
    return state


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is damaged, or holds NaN or infinite numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not a whole checkpoint: it has no {path.name}")
    try:
        tensors = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{path} is damaged: {name} holds NaN or infinite numbers")
    return tensors


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check config.yaml."""
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is not a whole checkpoint: it has no config.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    parts = ("sde", "network", "subdivision", "branching")
    missing = [key for key in parts if not isinstance(config, dict) or not isinstance(config.get(key), dict)]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return config
