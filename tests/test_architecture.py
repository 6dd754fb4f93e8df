"""What may import what, and what the library never does."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mfcdm"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up: a module imports from its own layer (if that is a package) and from those before it.
LAYERS = (
    "version",
    "wording",
    "checks",
    "atomic",
    "locking",
    "randomness",
    "build",
    "outline",
    "sde",
    "subdivision",
    "interaction",
    "networks",
    "branching",
    "samplers",
    "analytic",
    "objective",
    "generate",
    "likelihood",
    "holding",
    "conditioning",
    "interpolation",
    "datasets",
    "metrics",
    "evaluation",
    "checkpoint_text",
    "checkpoint_files",
    "checkpoint",
    "checkpoint_export",
    "visualize",
    "report",
    "training",
    "settings",
    "commands",
    "cli",
)

# Neighbours that the order would allow and the design does not: they meet in `objective` and `samplers`.
APART = {
    "interaction": {"sde", "subdivision", "branching", "build"},
    "networks": {"sde", "subdivision", "branching", "build"},
    "samplers": {"interaction", "subdivision", "branching", "build"},
    "analytic": {"interaction", "networks", "samplers", "build"},
    "likelihood": {"interaction", "networks", "subdivision", "branching", "objective", "generate", "build"},
    "holding": {"interaction", "subdivision", "branching", "objective", "generate", "likelihood", "build"},
    "conditioning": {"interaction", "networks", "objective", "likelihood", "build"},
    "interpolation": {"interaction", "networks", "subdivision", "branching", "objective", "generate", "build"},
    "datasets": {"sde", "networks", "samplers", "objective", "generate", "interaction", "build"},
    "metrics": {"sde", "networks", "samplers", "objective", "generate", "build"},
    "evaluation": {"networks", "objective", "generate", "interaction", "build"},
    "report": {"sde", "networks", "samplers", "objective", "generate", "visualize", "build"},
    "visualize": {"sde", "networks", "samplers", "objective", "generate", "checkpoint", "training", "build"},
}

# Libraries with a single door: the files that may import them.
DOORS = {
    "hydra": {"cli.py", "build.py"},
    "wandb": {"training/loggers.py"},
    "triton": {"interaction/triton_kernels.py"},
    "matplotlib": {"visualize.py"},
    "plotly": {"report/page.py"},
    "lightning": {"training/engine.py"},
    "pytorch3d": {"metrics/pytorch3d_interop.py"},
}

PROGRAM = {"cli", "commands"}  # layers that speak to a person; everything else is the library

# Programs that are run by the name of what they serve, as `python -m mfcdm.datasets.convert`, and their layer.
BY_NAME = {"datasets/convert.py": "commands", "report/__main__.py": "commands"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def layer_of(path: Path) -> str:
    return BY_NAME.get(name_of(path), path.relative_to(PACKAGE).parts[0].removesuffix(".py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_its_layer():
    found = {layer_of(path) for path in FILES} - {"__init__"}
    assert found <= set(LAYERS), f"declare the layer of {found - set(LAYERS)} in LAYERS"


@pytest.mark.parametrize("path", [path for path in FILES if layer_of(path) in LAYERS], ids=name_of)
def test_imports_point_down(path):
    own = layer_of(path)
    below = set(LAYERS[: LAYERS.index(own)]) - APART.get(own, set())
    if (PACKAGE / own).is_dir():
        below.add(own)
    for name in imports(path):
        if name.split(".")[0] == "mfcdm":
            assert name.split(".")[1] in below, f"{name_of(path)} imports {name}"


def test_samplers_know_no_network():
    used = {name for path in (PACKAGE / "samplers").glob("*.py") for name in imports(path)}
    assert all(name.startswith("mfcdm.networks.parametrization.") for name in used if "mfcdm.networks" in name)


@pytest.mark.parametrize("library", DOORS)
def test_libraries_enter_by_one_door(library):
    users = {name_of(path) for path in FILES if any(name.split(".")[0] == library for name in imports(path))}
    assert users <= DOORS[library]


@pytest.mark.parametrize("path", [path for path in FILES if layer_of(path) not in PROGRAM], ids=name_of)
def test_library_neither_prints_nor_reads_the_environment(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input", "exit"), f"line {node.lineno} calls {node.func.id}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("environ", "getenv", "putenv"), f"line {node.lineno} uses os.{node.attr}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
            assert node.attr not in ("stdout", "stderr", "exit", "argv"), f"line {node.lineno} uses sys.{node.attr}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_can_be_read_in_one_go(path):
    assert len(path.read_text().splitlines()) <= 300


def test_no_attic():
    assert not [path for path in FILES if re.search(r"util|helper|misc|common", path.stem)]


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_package_import_is_instant():
    heavy = {
        "torch",
        "numpy",
        "hydra",
        "omegaconf",
        "wandb",
        "lightning",
        "triton",
        "pytorch3d",
        "matplotlib",
        "plotly",
    }
    assert not heavy & modules_after("import mfcdm")


def test_library_import_brings_no_machinery():
    names = [layer for layer in LAYERS if layer not in ("training", "visualize", "commands", "cli")]
    machinery = {"hydra", "omegaconf", "wandb", "lightning", "triton", "pytorch3d", "matplotlib", "plotly", "rich"}
    # what torch itself brings on this machine does not count
    brought = modules_after(f"from mfcdm import {', '.join(names)}") - modules_after("import torch")
    assert not machinery & brought


def test_no_machine_paths():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git repository")
    machine = re.compile(r"(?<![\w.])/(?:work|root|home|tmp)/")
    found = []
    for name in listed.stdout.splitlines():
        try:
            lines = (ROOT / name).read_text().splitlines()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # a picture, or deleted since
        found += [f"{name}:{number}" for number, line in enumerate(lines, 1) if machine.search(line)]
    assert not found


def test_declared_packages_are_those_that_exist():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert set(setuptools["packages"]) == found | {"mfcdm.configs"}
