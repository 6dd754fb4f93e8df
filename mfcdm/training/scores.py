"""Scores of a finished run's clouds, in the W&B run that its training was recorded in."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfcdm import checkpoint
from mfcdm.build import build
from mfcdm.training.loggers import Wandb

WANDB = f"{Wandb.__module__}.{Wandb.__qualname__}"
HERE = f"{__name__}.Reopened"


class Reopened(Wandb):
    """A W&B run that has ended, taken up again for scores alone; arguments as for `Wandb`."""

    def scores(self, step: int, values: dict[str, Any]) -> None:
        """Record what was found out about the checkpoint of a step, in a row of its own behind all others.

        The row takes the number that a resumed training would give its next step.
        """
        self._attempt(self._scores, step, values)

    def _scores(self, step: int, values: dict[str, Any]) -> None:
        row = max(step, self._first)
        self._run.log({"trainer/step": step, **values}, step=row)
        self._note.add(row)


@dataclass(frozen=True)
class RecordedRun:
    """A training run whose W&B run is known.

    Args:
        folder: of the run.
        step: of the checkpoint that scores belong to.
        logger: its configuration, which names the project, the mode and so on.
        config: of the run.
    """

    folder: Path
    step: int
    logger: Mapping[str, Any]
    config: dict[str, Any]

    @classmethod
    def of(cls, path: str | Path) -> "RecordedRun":
        """The run in a folder, with the step of its newest checkpoint; or that of one of its checkpoints.

        Raises:
            FileNotFoundError: if there is no run or checkpoint, or no W&B run has recorded it.
            ValueError: if a file is damaged.
        """
        path = Path(path).resolve()
        is_checkpoint = path.parent.name == "checkpoints" and (path / "state.json").is_file()
        folder = path.parent.parent if is_checkpoint else path
        newest = checkpoint.newest(folder / "checkpoints")
        if newest is None:
            raise FileNotFoundError(f"{path} is neither a run's folder nor one of its checkpoints")
        chosen = path if is_checkpoint else newest
        config = checkpoint.read_config(chosen)
        logger = config.get("logger")
        if not (folder / "wandb.json").is_file() or not isinstance(logger, Mapping) or logger.get("_target_") != WANDB:
            raise FileNotFoundError(f"{folder} was recorded by no W&B run")
        return cls(folder, checkpoint.read_state(chosen)["step"], logger, config)

    def log(self, values: Mapping[str, float], on_failure: Callable[[str], None]) -> bool:
        """Record scores under the run's id, in the mode of its training; offline they wait for `wandb sync`.

        Args:
            values: by name; those that are not finite are left out.
            on_failure: told the one sentence when W&B fails.

        Returns:
            whether they are recorded.
        """
        said: list[str] = []
        arguments = {**self.logger, "_target_": HERE, "checkpoints": False}
        try:
            run = build(arguments, Reopened, folder=self.folder, config=self.config, on_failure=said.append)
            run.scores(self.step, {name: value for name, value in values.items() if math.isfinite(value)})
            run.close()
        except ValueError as error:  # W&B refuses the mode, or the configuration is another version's
            said.append(str(error))
        for sentence in said:
            on_failure(sentence)
        return not said
