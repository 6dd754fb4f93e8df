"""The files of a checkpoint, read and checked: nothing in them is trusted to be whole, or to be meant well."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mfcdm.build import build
from mfcdm.checkpoint_text import one_line, parsed, read_plain, shown
from mfcdm.outline import outline_of

T = TypeVar("T")

FORMAT_VERSION = 1
BRANCHING_FILE = "branching.safetensors"
EXPORTED = ".safetensors"  # ends the name of a checkpoint that is a single file
METADATA = "mfcdm"  # names our entry in the header of such a file
PARTS = ("network.", "branching.")  # begin the names of its tensors
MORE_WEIGHTS = 1000  # that a part may make than a file has, so that one of ours that lacks some is compared by name

# Names of types in a safetensors file. It knows others, which no network here has.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TrainingState:
    """What training needs beyond the model to go on exactly.

    Args:
        tensors: current weights and optimizer state by name.
        numbers: anything that fits JSON.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, by the rest of their names."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}


class DamagedTensors(ValueError):
    """A file of tensors cannot be read, whatever the configuration says."""


@dataclass(frozen=True)
class Tensors:
    """The tensors of a safetensors file, or those of them whose names begin with a prefix.

    Args:
        path: of the file.
        prefix: of the names; they are known by the rest.
    """

    path: Path
    prefix: str = ""

    def there(self) -> bool:
        """Whether there is anything to read, whole or not."""
        return self.path.is_file() and (not self.prefix or bool(self.outline()))

    def missing(self) -> FileNotFoundError:
        """What to say where there is nothing."""
        what = f"tensors {self.prefix}*" if self.prefix else self.path.name
        place = self.path if self.prefix else self.path.parent
        return FileNotFoundError(f"{place} is not a whole checkpoint: it has no {what}")

    def outline(self) -> dict[str, Tensor]:
        """Shapes and types alone, as tensors on the device meta: only the header is read.

        Raises:
            FileNotFoundError: if the file is missing.
            ValueError: if it is damaged.
        """
        return self._each(_outlined)

    def read(self) -> dict[str, Tensor]:
        """The tensors.

        Raises:
            FileNotFoundError: if the file is missing.
            ValueError: if it is damaged, or holds NaN or infinite numbers.
        """
        self.outline()
        tensors = self._each(lambda file, name: file.get_tensor(name))
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise DamagedTensors(f"{self.path} is damaged: {name} holds NaN or infinite numbers")
        return tensors

    def _each(self, take: Callable[[Any, str], Tensor]) -> dict[str, Tensor]:
        if not self.path.is_file():
            raise self.missing()
        try:
            with safe_open(self.path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith(self.prefix)]  # noqa: SIM118
                return {name.removeprefix(self.prefix): take(file, name) for name in names}
        except (SafetensorError, ValueError, TypeError, RuntimeError, OSError) as error:
            raise DamagedTensors(f"{self.path} is damaged: {one_line(error)}") from error


@dataclass(frozen=True)
class Stored:
    """What a checkpoint holds, read and checked as far as that goes without building anything.

    Args:
        state: format_version, step, mean, std, categories and, in a folder, training.
        config: resolved configuration of the run.
        network: its averaged weights.
        branching: those of a learned branching.
        state_path: where the state stands, for complaints.
        config_path: where the configuration stands.
    """

    state: dict[str, Any]
    config: dict[str, Any]
    network: Tensors
    branching: Tensors
    state_path: Path
    config_path: Path

    @classmethod
    def of(cls, source: Path) -> "Stored":
        """Read a checkpoint's folder, or the one file of an exported checkpoint.

        Raises:
            FileNotFoundError: if there is no such folder or file, or the folder lacks a file.
            ValueError: if a file is damaged, or of another format.
        """
        if source.suffix == EXPORTED and not source.is_dir():
            return cls._of_file(source)
        state, config = read_state(source), read_config(source)
        network, branching = Tensors(source / "network.safetensors"), Tensors(source / BRANCHING_FILE)
        return cls(state, config, network, branching, source / "state.json", source / "config.yaml")

    @classmethod
    def _of_file(cls, path: Path) -> "Stored":
        if not path.is_file():
            raise FileNotFoundError(f"{path} is neither a checkpoint folder nor a file")
        outline = Tensors(path).outline()
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA)
        if text is None:
            raise ValueError(f"{path} is not an exported checkpoint: its header has no {METADATA!r}")
        state = _checked_state(parsed(text, json.loads, path), path)
        if foreign := [name for name in outline if not name.startswith(PARTS)]:
            raise ValueError(
                f"{path} is damaged: it has a tensor {shown(foreign[0])}, of neither {' nor '.join(PARTS)}"
            )
        config = _checked_config(state.pop("config", None), path)
        network, branching = (Tensors(path, prefix) for prefix in PARTS)
        return cls(state, config, network, branching, path, path)


def read_state(folder: Path) -> dict[str, Any]:
    """Read and check state.json."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a checkpoint folder, nor a file that ends in {EXPORTED}")
    return _checked_state(read_plain(folder / "state.json", json.loads), folder / "state.json")


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check config.yaml."""
    return _checked_config(read_plain(folder / "config.yaml", yaml.safe_load), folder / "config.yaml")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a whole safetensors file, as `Tensors.read` does."""
    return Tensors(path).read()


def _checked_state(state: Any, path: Path) -> dict[str, Any]:
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        version = state.get("format_version") if isinstance(state, dict) else None
        raise ValueError(f"{path} has format_version {shown(version)}; this version reads {FORMAT_VERSION}")
    whole: dict[str, Callable[[Any], Any]] = {
        "step": lambda value: type(value) is int and value >= 0,
        "mean": lambda value: isinstance(value, list) and value and all(map(_finite, value)),
        "std": lambda value: _finite(value) and value >= torch.finfo(torch.float32).tiny,
        "categories": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "training": lambda value: value is None or isinstance(value, dict),
        "branching": lambda value: value is None or isinstance(value, bool),  # earlier versions have none
    }
    for key, holds in whole.items():
        if not holds(state.get(key)):
            raise ValueError(f"{path} is damaged: {key} is {shown(state.get(key))}")
    return state


def _finite(value: Any) -> bool:
    """Whether a value is a number that float32 can hold."""
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= torch.finfo(torch.float32).max


def _checked_config(config: Any, path: Path) -> dict[str, Any]:
    parts = ("sde", "network", "subdivision", "branching")
    missing = [key for key in parts if not isinstance(config, dict) or not isinstance(config.get(key), dict)]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return config


def _outlined(file: Any, name: str) -> Tensor:
    piece = file.get_slice(name)
    if (kind := piece.get_dtype()) not in DTYPES:
        raise ValueError(f"{shown(name)} is of type {kind}; weights are of {', '.join(DTYPES)}")
    return torch.empty(piece.get_shape(), dtype=DTYPES[kind], device="meta")


def fault(folder: Path) -> str | None:
    """Why a checkpoint is not whole: a file is missing, cut off or unreadable; None where it is whole."""
    name = "state.json"
    try:
        state = read_plain(folder / name, json.loads)
        holds = state if isinstance(state, dict) else {}
        names = {"training.safetensors": holds.get("training") is not None, BRANCHING_FILE: holds.get("branching")}
        for name in ("network.safetensors", *(name for name, there in names.items() if there)):
            with safe_open(folder / name, framework="pt"):  # compares its length with what its header says
                pass
        name = "config.yaml"
        read_config(folder)
    except (OSError, ValueError, SafetensorError) as error:
        return f"{name}: {one_line(error)}"
    return None


def filled(config: dict[str, Any], kind: type[T], tensors: Tensors, place: Path, trust: bool) -> T:
    """Build a part of the model, with its weights where it has any; `place` is named where they do not fit."""
    if not trust:  # sizes are compared where they take no memory: a hostile width is refused, not allocated
        there = len(tensors.outline()) if tensors.there() else 0
        most = 2 * there + MORE_WEIGHTS
        outline = outline_of(config, kind, most, f"it has more than {most} weights, but {tensors.path} has {there}")
        _fill(outline, tensors, place, Tensors.outline)
    made = build(config, kind, trust=trust)
    _fill(made, tensors, place, Tensors.read)
    return made


def _fill(part: object, tensors: Tensors, place: Path, take: Callable[[Tensors], dict[str, Tensor]]) -> None:
    if not isinstance(part, nn.Module):
        return
    if part.state_dict() and not tensors.there():
        raise tensors.missing()
    load_weights(part, take(tensors) if tensors.there() else {}, place)


def load_weights(network: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Copy weights into a network; a ValueError says how names or shapes differ, or what its precision cannot hold."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights in {source} do not fit its configuration: {one_line(error)}") from error
    for name, own in network.state_dict().items():
        if not own.is_meta and not bool(own.isfinite().all()):
            raise DamagedTensors(f"the weights in {source} are too large for {own.dtype}: {name}")
