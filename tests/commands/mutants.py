"""Hostile files by seeded rules, each read in a forked process of its own: `python -m tests.commands.mutants`.

A warm process (`tests.commands.warm`), which computes nothing itself, forks for every mutant. It reads one job a line
from stdin, {"reader", "path", "folder"}, and answers with one line, {"code", "said", "mebibytes"}: code 0 where the
file was read and all numbers are finite, 2 for one sentence to the user, anything else is a failure.
"""

import json
import os
import resource
import signal
import sys
import tempfile
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from tests.commands.warm import Warm, leave

MOST_SECONDS = 10  # of the processor: a busy machine does not count
MOST_MEMORY = 2 * 2**30  # bytes beyond what the warm process has
# What reading may never do; the rest of what a hostile file could wish for begins with one of these.
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.", "shutil.", "os.rename")
FORBIDDEN += ("os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.chmod", "os.truncate", "pickle.")


def read_checkpoint(path: Path) -> bool:
    """Whether all numbers of a checkpoint that was read are finite."""
    from mfcdm import checkpoint

    model = checkpoint.load(path)
    numbers = [*model.network.parameters(), model.normalization.mean, model.normalization.std]
    return all(bool(x.isfinite().all()) for x in numbers)


def read_clouds(path: Path) -> bool:
    """Whether all points of an archive or a folder that was read are finite."""
    from mfcdm.datasets import Clouds, open_dataset

    return all(bool(cloud.isfinite().all()) for cloud in Clouds.of(open_dataset(path, num_points=64)).points())


READERS = {"checkpoint": read_checkpoint, "clouds": read_clouds}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if event.startswith(FORBIDDEN) or (writes and arguments[0] != os.devnull):
        print(f"FORBIDDEN {event} {arguments}", file=sys.stderr, flush=True)
        os._exit(3)


def _read(job: dict[str, str], err: int, virtual: int) -> int:
    """Read the mutant as a command would, in a process of its own; the code that it ends with."""
    os.chdir(job["folder"])
    os.dup2(err, 1)
    os.dup2(err, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MOST_MEMORY, virtual + MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(600)  # for what waits without computing
    warnings.simplefilter("ignore")  # the commands show them as lines of their own
    from mfcdm import cli

    errors = cli.user_errors()
    sys.addaudithook(_audit)
    try:
        return 0 if READERS[job["reader"]](Path(job["path"])) else 4
    except errors as error:
        print(cli.sentence(error), file=sys.stderr)
        return 2


def main() -> None:
    """Read whole files, so that everything is imported, then answer jobs until stdin is closed."""
    sys.dont_write_bytecode = True
    from mfcdm import cli

    cli.user_errors()  # every fork has what it imports
    for reader, path in json.loads(sys.stdin.readline()):
        assert READERS[reader](Path(path)), path
    page, own = os.sysconf("SC_PAGE_SIZE"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for line in sys.stdin:
        job = json.loads(line)
        virtual = int(Path("/proc/self/statm").read_text().split()[0]) * page
        with tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                leave(partial(_read, job, err.fileno(), virtual))
            _, status, used = os.wait4(pid, 0)
            err.seek(0)
            said = err.read().decode(errors="replace")
        answer = {"code": os.waitstatus_to_exitcode(status), "said": said, "mebibytes": (used.ru_maxrss - own) // 1024}
        print(json.dumps(answer), flush=True)


@dataclass(frozen=True)
class Ended:
    """How the reading of a mutant ended: the code, what it wrote to stderr, MiB beyond the warm process."""

    code: int
    said: str
    mebibytes: int

    def fault(self) -> str | None:
        """What is wrong with such an end; None where it is one that a user may meet."""
        if self.code not in (0, 2):
            return f"ended with {self.code}: {self.said[-1500:]}"
        if self.mebibytes * 2**20 > MOST_MEMORY:
            return f"took {self.mebibytes} MiB"
        lines = [line for line in self.said.splitlines() if line.strip()]
        if self.code == 2 and not (len(lines) == 1 and 10 < len(lines[0]) < 2000):
            return f"one sentence expected, got {len(lines)} lines: {self.said[:1500]}"
        return None


class Mutants(Warm):
    """The warm process, from outside. `whole` are pairs (reader, path) that it can read."""

    def __init__(self, whole: list[tuple[str, Path]]) -> None:
        super().__init__("tests.commands.mutants")
        self._whole = [(reader, str(path)) for reader, path in whole]

    def __enter__(self) -> Self:
        super().__enter__()
        self.send(self._whole)
        return self

    def read(self, reader: str, path: Path, folder: Path) -> Ended:
        """Read a mutant, standing in `folder`."""
        return Ended(**self.ask({"reader": reader, "path": str(path), "folder": str(folder)}))


if __name__ == "__main__":
    main()
