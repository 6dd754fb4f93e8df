"""A built wheel, installed where no clone is, works from an empty folder."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "mfcdm", "configs")
TINY = (
    "dataset=shapes",
    "dataset.num_clouds=8",
    "dataset.num_points=64",
    "subdivision.num_particles=64",
    "network=tiny",
    "trainer.max_steps=3",
    "sampler.num_steps=8",
    "num_pictured=2",
    "hydra.run.dir=run",
)


def quietly(*command, cwd):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The bin folder of an environment that has the wheel and borrows everything else from this one."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy: setuptools leaves a build folder beside its sources.
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    quietly(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = folder.glob("mfcdm-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    site = Path(quietly(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder))
    # A path file adds folders, but not the path files in them: the editable clone stays out of sight.
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    quietly(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    return python.parent


def test_wheel_works_in_an_empty_folder(installed, tmp_path):
    where = quietly(installed / "python", "-c", "import mfcdm; print(mfcdm.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(installed.parent)
    quietly(installed / "mfcdm-train", *TINY, cwd=tmp_path)
    assert (tmp_path / "run" / "samples.png").is_file()
    options = ("checkpoint=run/checkpoints/last", "num_clouds=2", "sampler.num_steps=8", "output=drawn")
    quietly(installed / "mfcdm-sample", *options, cwd=tmp_path)
    with np.load(tmp_path / "drawn" / "samples.npz") as samples:
        assert samples["points"].shape == (2, 64, 3)


def test_wheel_holds_every_file_of_the_package(installed):
    package = Path(quietly(installed / "python", "-c", "import mfcdm; print(*mfcdm.__path__)", cwd=installed))
    wanted = {path.relative_to(ROOT / "mfcdm") for path in (ROOT / "mfcdm").rglob("*") if path.is_file()}
    wanted |= {Path("configs") / path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    found = {path.relative_to(package) for path in package.rglob("*") if path.is_file()}
    assert {path for path in wanted if "__pycache__" not in path.parts} <= found
