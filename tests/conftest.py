import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mfcdm import cli

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line of complaint on stderr; progress bars do not count."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        complaints = [line for line in lines if not line.startswith(("training ", "sampling "))]
        assert len(complaints) == 1, f"one sentence expected on stderr, got:\n{self.err}"
        assert "Traceback" not in self.err
        return complaints[0]


@pytest.fixture(scope="session")
def start():
    """Start train.py or sample.py in a process of its own."""

    def start(name: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
        # One thread: runs are bit-equal, and tests that run side by side do not fight over cores.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(ROOT / name), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=cwd, env=environment, text=True, **pipes)

    return start


@pytest.fixture(scope="session")
def script(start):
    """Run train.py or sample.py as a user does."""

    def run(name: str, *arguments: str, cwd: Path) -> Ended:
        with start(name, *arguments, cwd=cwd) as process:
            out, err = process.communicate(timeout=600)
        return Ended(process.returncode, out, err)

    return run


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run a command within this process, which saves the seconds that an import takes."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, *arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", [f"mfcdm-{command}", *arguments])
        capsys.readouterr()
        code = 0
        try:
            getattr(cli, command)()
        except SystemExit as end:
            code = int(end.code or 0)
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def no_wandb_account(monkeypatch, tmp_path):
    """Neither the settings nor the key of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    import wandb

    wandb.teardown()
