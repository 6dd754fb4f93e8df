"""A run's loggers: one that fails is said, and ends nothing."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mfcdm.training.loggers import Logger


class Audience(list[Logger]):
    """Loggers that are told everything together, as if they were one.

    Each is asked again after a failure: a full disk may have room later. The first failure of each is a warning.
    """

    def __init__(self, loggers: Sequence[Logger] = ()) -> None:
        super().__init__(loggers)
        self._failed: set[int] = set()

    def log(self, step: int, values: dict[str, Any]) -> None:
        """As `Logger.log`."""
        self._tell("log", step, values)

    def clouds(self, step: int, name: str, clouds: Sequence[Tensor], picture: Path) -> None:
        """As `Logger.clouds`."""
        self._tell("clouds", step, name, clouds, picture)

    def checkpoint(self, folder: Path, aliases: Sequence[str]) -> None:
        """As `Logger.checkpoint`."""
        self._tell("checkpoint", folder, aliases)

    def close(self, failed: bool = False) -> None:
        """As `Logger.close`."""
        self._tell("close", failed)

    def _tell(self, what: str, *arguments: Any) -> None:
        for logger in self:
            try:
                getattr(logger, what)(*arguments)
            except Exception as error:  # of any kind: a record is worth less than the run
                if id(logger) not in self._failed:
                    self._failed.add(id(logger))
                    reason = " ".join(str(error).split()) or type(error).__name__
                    name = type(logger).__name__
                    warnings.warn(f"{name} failed to {what}, and the run goes on: {reason}", stacklevel=3)
