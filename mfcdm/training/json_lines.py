"""metrics.jsonl: a run's numbers, one JSON object a line."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from mfcdm.atomic import whole


class JsonLines:
    """Appends one JSON object a line to metrics.jsonl, each line written at once. Its records are numbers alone.

    Args:
        path: of the file. Records after `first_step` that an earlier, interrupted run left are removed, so that a
            step appears once. Lines that are no record, as a power loss leaves them, are removed with a warning.
        first_step: where this run begins.
    """

    def __init__(self, path: str | Path, first_step: int = 0) -> None:
        path = Path(path)
        kept, damaged = _kept(path, first_step) if first_step else ([], 0)
        with whole(path) as scratch:
            scratch.write_bytes(b"".join(kept))
        if damaged:
            warnings.warn(f"damaged lines of {path} that are left out: {damaged}", stacklevel=2)
        self._file = path.open("a", buffering=1)

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Write {"step": step, **values} as one line."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")

    def clouds(self, step: int, name: str, clouds: Sequence[Tensor], picture: Path) -> None:
        """Nothing: the run's folder has them."""

    def checkpoint(self, folder: Path, aliases: Sequence[str]) -> None:
        """Nothing: the run's folder has it."""

    def close(self, failed: bool = False) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _kept(path: Path, last_step: int) -> tuple[list[bytes], int]:
    """The lines up to a step that an interrupted run wrote to their end, and how many of all are no record."""
    if not path.is_file():
        return [], 0
    with path.open("rb") as file:
        lines = [line for line in file if line.endswith(b"\n")]
    steps = [_step(line) for line in lines]
    kept = [line for line, step in zip(lines, steps, strict=True) if step is not None and step <= last_step]
    return kept, steps.count(None)


def _step(line: bytes) -> int | None:
    """Of a record; None of a line that is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return step if type(step) is int else None
