"""metrics.jsonl: a run's numbers, one JSON object a line."""

import json
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
            step appears once.
        first_step: where this run begins.
    """

    def __init__(self, path: str | Path, first_step: int = 0) -> None:
        path = Path(path)
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= first_step] if first_step else []
        with whole(path) as scratch:
            scratch.write_text("".join(kept))
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


def _whole_lines(path: Path) -> list[str]:
    """The lines that an interrupted run wrote to their end."""
    if not path.is_file():
        return []
    with path.open() as lines:
        return [line for line in lines if line.endswith("\n")]
