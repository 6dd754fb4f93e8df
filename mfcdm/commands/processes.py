"""Several processes of one command, from the command's side: who speaks, what stops them, and how they end."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from mfcdm.atomic import whole
from mfcdm.commands.interrupts import NAMES, Interrupts
from mfcdm.training.engine import fabric_of, is_started_elsewhere
from mfcdm.training.options import Machine
from mfcdm.training.processes import ALONE, Processes

LAST_WORDS = 60.0  # seconds that the other processes get to end


class Crew:
    """The processes of a command; the first one speaks for all.

    Before `launch` a process knows of others from the environment alone, and has mistakes of its own; those that come
    after it are everybody's.
    """

    def __init__(self) -> None:
        ranks = (os.environ.get(name, "") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
        # A launcher leaves its variables in every shell that it opens, also to a process that is alone.
        alone = "1" in (os.environ.get("WORLD_SIZE"), os.environ.get("SLURM_NTASKS"))
        self._rank = 0 if alone else next((int(rank) for rank in ranks if rank.isdecimal()), 0)
        self.fabric: Any = None
        self.processes: Processes = ALONE
        self._launched = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.processes.is_first if self._launched else self._rank == 0

    def find(self, machine: Machine) -> None:
        """Look for the devices.

        Raises:
            ValueError: if they do not fit what has started this process.
        """
        self.fabric = fabric_of(machine)
        if machine.num_processes > 1 and self.starts_others and {"-m", "--multirun"} & set(sys.argv[1:]):
            raise ValueError(
                f"a multirun works in one process, and {machine.keys}devices={machine.devices or 1} asks for several; "
                "hydra/launcher=submitit_slurm gives each run its own, or start one command a run"
            )

    @property
    def starts_others(self) -> bool:
        """Whether this process starts the others, or is alone: what it finds wrong before is then said once."""
        return not is_started_elsewhere(self.fabric)

    def launch(self) -> None:
        """Start or meet the other processes."""
        self.fabric.launch()
        self.processes, self._launched = Processes(self.fabric), True

    def interrupts(self, ask: Callable[[], None]) -> Interrupts:
        """What catches signals in this process."""
        return Interrupts(ask) if self.is_first else _Silent(ask)

    def caught(self, interrupts: Interrupts) -> tuple[str | None, int]:
        """Name and exit code of a signal that any of the processes has caught; None and 0 for none."""
        code = max(self.processes.objects(interrupts.code))
        return (NAMES[signal.Signals(code - 128)] if code else None), code

    @contextmanager
    def one_voice(self) -> Iterator[None]:
        """A block whose mistakes the first process alone is left with, where they are those of all."""
        with warnings.catch_warnings():
            if not self.is_first:
                warnings.simplefilter("ignore")
            try:
                yield
                self._part()
            except BaseException as error:
                if error is self.processes.shared:
                    self._part()
                    if self.is_first:
                        raise
                elif self.is_first:
                    self._end_others()
                    raise
                elif self._launched and not isinstance(error, ConnectionError):
                    raise
                else:  # the first one says the same, or is gone
                    raise SystemExit(2) from None

    def name_devices(self, folder: Path, num_nodes: int) -> None:
        """Add the devices of all processes to a run's environment.json."""
        device = self.processes.device
        name = f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
        devices = self.processes.objects(name)
        if self.is_first:
            path = folder / "environment.json"
            about = json.loads(path.read_text()) | {"devices": devices, "nodes": num_nodes}
            with whole(path) as scratch:
                scratch.write_text(json.dumps(about, indent=1))

    def _part(self) -> None:
        """Leave the others, and let those that this process has started come to their end."""
        with suppress(ConnectionError):  # one that is gone already needs no parting
            self.processes.leave()
        for process in self._started():
            try:
                process.wait(LAST_WORDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def _end_others(self) -> None:
        """End those that this process has started: they would wait for it."""
        for process in self._started():
            process.kill()

    def _started(self) -> list[Any]:
        return getattr(getattr(self.fabric, "strategy", None) and self.fabric.strategy.launcher, "procs", [])


class _Silent(Interrupts):
    """Those of a process that does not speak."""

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self._caught is None:
            self._caught = signal.Signals(number)
            self._ask()
