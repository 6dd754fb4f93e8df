"""A warm process that forks for every job: an import takes seconds and a fork none."""

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self

ROOT = Path(__file__).resolve().parents[2]


def leave(run: Callable[[], int]) -> NoReturn:
    """End a forked process with the code that its work returns, 1 where that fails."""
    code = 1
    try:
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Warm:
    """The process from outside, which reads a job a line and answers with a line; use it in a `with`.

    Args:
        module: run by `python -m`.
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __enter__(self) -> Self:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command, pipes = [sys.executable, "-m", self._module], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=600)

    def send(self, value: Any) -> None:
        """Write a line."""
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer to a job."""
        self.send(job)
        return json.loads(self._process.stdout.readline())
