"""Commands in forked processes that can be killed at an exact place: `python -m tests.commands.forks`.

A warm process (`tests.commands.warm`), which computes nothing itself, forks for every command. It reads one job a line
from stdin, {"arguments": of train.py, "folder": to stand in, "signal": number or null, "at": place, "delay": seconds},
and answers with one line, {"code", "err", "places"}.

Places are everything that a process does to the file system, before it is done, and the beginning of every training
step. At place number `at` the process sends itself the signal; without a place it gets it after `delay` seconds.
"""

import json
import os
import signal
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.commands.warm import Warm, leave

CHANGES = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.symlink", "os.link")


class Places:
    """Numbers the places that this process passes, writes their names down, and sends itself a signal at one."""

    def __init__(self, log: Path, number: int | None, at: int | None) -> None:
        self._log, self._signal, self._at, self._passed = log.open("w", buffering=1), number, at, 0

    def here(self) -> bool:
        """Whether the next place is the one."""
        return self._passed == self._at

    def passed(self, name: str) -> None:
        self._log.write(f"{name}\n")
        self._passed += 1
        if self._passed - 1 == self._at:
            os.kill(os.getpid(), self._signal)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Called by the interpreter before it does anything."""
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.passed(f"open {arguments[0]}")
        elif event in CHANGES:
            self.passed(" ".join([event, *(str(part) for part in arguments if isinstance(part, str | Path))]))


def _watch(places: Places) -> None:
    """Let the process pass places: also in the midst of a file of tensors, which is not written by the interpreter."""
    from mfcdm import checkpoint
    from mfcdm.training.batches import Batches

    write, draw = checkpoint.save_file, Batches.at

    def written(tensors: Any, path: Path) -> None:
        write(tensors, path)
        if places.here():
            os.truncate(path, path.stat().st_size // 2)
        places.passed(f"tensors {path}")

    def drawn(self: Batches, step: int) -> Any:
        places.passed(f"step {step}")
        return draw(self, step)

    checkpoint.save_file, Batches.at = written, drawn
    sys.addaudithook(places.audit)


def _run(job: dict[str, Any], err: Path, log: Path) -> int:
    """The command, in a process of its own; the code that it ends with."""
    os.setpgid(0, 0)
    os.chdir(job["folder"])
    with err.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.argv = ["train.py", *job["arguments"]]
    from mfcdm import cli

    _watch(Places(log, job["signal"], job["at"]))
    try:
        cli.train()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def main() -> None:
    """Answer jobs until stdin is closed."""
    import torch

    import mfcdm.commands.train  # noqa: F401
    from mfcdm import cli  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        err, log = (Path(job["folder"]) / f".{name}" for name in ("err", "places"))
        pid = os.fork()
        if pid == 0:
            leave(partial(_run, job, err, log))
        timer = None
        if job["signal"] is not None and job["at"] is None:
            timer = threading.Timer(job["delay"], os.kill, (pid, job["signal"]))
            timer.start()
        _, status = os.waitpid(pid, 0)
        if timer is not None:
            timer.cancel()
            timer.join()
        answer = {"code": os.waitstatus_to_exitcode(status), "err": err.read_text(), "places": log.read_text()}
        print(json.dumps(answer), flush=True)


@dataclass(frozen=True)
class Ran:
    """How a forked command ended, and the places that it passed."""

    code: int
    err: str
    places: list[str]


class Forks(Warm):
    """The warm process, from outside."""

    def __init__(self) -> None:
        super().__init__("tests.commands.forks")

    def train(
        self, *arguments: str, folder: Path, sent: int | None = None, at: int | None = None, delay: float = 0.0
    ) -> Ran:
        """Run train.py, and have it get the signal `sent` at a place, or after `delay` seconds."""
        folder.mkdir(parents=True, exist_ok=True)
        job = {"arguments": arguments, "folder": str(folder), "signal": sent, "at": at, "delay": delay}
        answer = self.ask(job)
        return Ran(answer["code"], answer["err"], answer["places"].splitlines())


def killed(ran: Ran) -> bool:
    return ran.code == -signal.SIGKILL


if __name__ == "__main__":
    main()
