"""What can be checked of the Triton backend without a GPU: choices, refusals, the interpreter, and the compiler."""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mfcdm.interaction import BackendUnavailable, ball_convolution, dispatch, triton_launch
from tests.interaction.interaction_problems import random_problem

ROOT = Path(__file__).resolve().parents[2]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed: pip install --no-deps triton==3.6.0",
)


def run(*arguments: str, **environment: str) -> str:
    """Run Python in a process of its own, from the root, and return what it printed."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_triton
def test_it_keeps_every_law_in_the_interpreter():
    options = ("-p", "no:cacheprovider", "-p", "no:xdist")
    assert " passed" in run("-m", "pytest", *options, "tests/interaction/interpreted_triton.py", TRITON_INTERPRET="1")


@needs_triton
def test_every_kernel_compiles_for_every_architecture(tmp_path):
    """One block and dtype; the whole table is benchmarks/compile_triton.csv."""
    table = tmp_path / "table.csv"
    options = ("--blocks", "32", "--dtypes", "float32", "--normalizations", "kernel", "--output", str(table))
    run("benchmarks/compile_triton.py", *options)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    kernels = {"lay_out_tile", "average_tile", "sweep_tile"}
    for architecture in triton_launch.CONFIGURATIONS:
        assert {row["kernel"] for row in rows if row["architecture"] == str(architecture)} == kernels
    assert max(int(row["stack_bytes"]) for row in rows) <= 64  # 16 registers at most are spilled
    assert max(int(row["shared_bytes"]) for row in rows) <= 48 * 1024  # what every architecture grants unasked


def test_channels_are_cut_into_slabs_that_hold_them():
    assert [triton_launch.block_of(num_channels) for num_channels in (1, 16, 17, 32, 33, 64, 65, 1000)] == [
        *(16, 16, 32, 32),
        *(64, 64, 64, 64),
    ]


def test_an_architecture_between_two_takes_the_older():
    table = triton_launch.CONFIGURATIONS
    taken = {80: 80, 86: 80, 89: 80, 90: 90, 100: 100, 103: 100, 120: 100}
    for own, known in taken.items():
        for block, kernels in table[known].items():
            for name, expected in kernels.items():
                assert triton_launch.configuration(name, own, block) is expected


@pytest.mark.parametrize(
    ("x", "dtype", "reason"),
    [
        (torch.zeros(1, 2, 3), torch.float64, "it computes in float32, but the arguments need torch.float64"),
        (torch.zeros(1, 2, 4), torch.float32, "it takes up to 3 dimensions, but x has 4"),
    ],
)
def test_a_refusal_says_what_it_takes(x, dtype, reason):
    assert triton_launch.reason_unavailable(x, dtype) == reason


def test_a_request_that_cannot_run_is_refused_by_name():
    problem = random_problem(0, 5, dim=7, dtype=torch.float32)
    with pytest.raises(BackendUnavailable, match=r"backend 'triton' cannot run here; .*: it takes up to 3 dimensions"):
        ball_convolution(problem.x, problem.v, problem.bandwidth, radius=1.0, backend="triton")


class OnCuda:
    """What the choice looks at: the shape and the device of queries that are nowhere."""

    def __init__(self, num_queries, dim=3):
        self.shape, self.device = (1, num_queries, dim), torch.device("cuda:0")


@pytest.mark.parametrize("runs", [False, True])
def test_auto_takes_triton_on_cuda_where_it_runs(monkeypatch, runs):
    reason = None if runs else "Triton is not installed"
    monkeypatch.setattr(triton_launch, "_reason_against", lambda device: reason)
    monkeypatch.setattr(dispatch, "_warn_once", lambda fastest, reason: warned.append((fastest, reason)))
    for queries, dtype, expected, warnings in (
        (OnCuda(512), torch.float32, "reference", []),  # 2^18 pairs
        (OnCuda(513), torch.float32, "triton" if runs else "tiled", [] if runs else [("triton", reason)]),
        (OnCuda(513), torch.float64, "tiled", []),
        (OnCuda(513, dim=4), torch.float32, "tiled", []),
    ):
        warned = []
        assert dispatch._choose(queries, None, dtype) == expected
        assert warned == warnings
