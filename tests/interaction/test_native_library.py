"""The library of the native backend: built once, kept, refused where it is not to be trusted, in many processes."""

import shutil
import subprocess
import sys

import pytest
import torch

from mfcdm.interaction import (
    BackendUnavailable,
    available_backends,
    ball_convolution,
    dispatch,
    native,
    native_library,
)
from mfcdm.interaction.native import ball_convolution_native
from mfcdm.interaction.tiled import ball_convolution_tiled
from tests.interaction.interaction_problems import (
    assert_as_exact_as_dense,
    random_problem,
)

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, native_library.COMPILERS)), reason="there is no C compiler on the search path"
)

FORK = """
import os, signal, torch
from mfcdm.interaction import BallGeometry, ball_convolution
torch.set_num_threads(2)
x, v = torch.randn(4, 300, 3), torch.randn(4, 2, 300, 4, requires_grad=True)
geometry = BallGeometry.build(x, 0.5)  # torch itself, with two threads, hangs in a child
def run():
    out = ball_convolution(x, v, torch.ones(2), radius=0.5, geometry=geometry, backend="native")
    return torch.autograd.grad(out.sum(), v)[0]
expected = run()  # with two threads, which the child does not have
if (child := os.fork()) == 0:
    signal.alarm(600)
    os._exit(0 if torch.equal(run(), expected) else 1)
assert os.waitpid(child, 0)[1] == 0
"""

BUILD = """
import sys
from pathlib import Path
from mfcdm.interaction import native_library
native_library.cache_folders = lambda: [Path(sys.argv[1])]
assert not isinstance(native_library.library(), str), native_library.library()
"""


def start(script, *arguments):
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], stderr=subprocess.PIPE, text=True)


def test_a_forked_child_does_not_hang():
    child = start(FORK)
    _, complaint = child.communicate(timeout=600)
    assert child.returncode == 0, complaint


def test_two_processes_may_build_at_once(tmp_path):
    folder = tmp_path / "cache"
    for child in [start(BUILD, folder) for _ in range(2)]:
        _, complaint = child.communicate(timeout=600)
        assert child.returncode == 0, complaint
    assert {path.suffix for path in folder.iterdir()} == {".so"}  # one, where the compiler repeats itself
    assert folder.stat().st_mode & 0o777 == 0o700


def test_loading_it_does_not_flush_subnormal_numbers():
    assert native.reason_unavailable() is None
    assert float("1e-310") / 2 > 0
    assert (torch.full((64,), 1e-40) / 2 > 0).all()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A fresh cache folder, and a process that has not looked for the library yet."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(native_library, "cache_folders", lambda: [folder])
    monkeypatch.setattr(native_library, "_library", None)
    dispatch._warn_once.cache_clear()
    yield folder
    dispatch._warn_once.cache_clear()


def without_compiler(monkeypatch):
    monkeypatch.setattr(native_library.shutil, "which", lambda name: None)
    monkeypatch.setattr(native_library, "_library", None)


def compiler_that(tmp_path, monkeypatch, line):
    """Put a script in front of the compiler."""
    script = tmp_path / "cc"
    script.write_text(f'#!/bin/sh\n{line}\nexec {shutil.which("cc") or shutil.which("gcc")} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(native_library.shutil, "which", lambda name: str(script))


def test_without_a_compiler_auto_takes_tiled_and_warns_once(cache, monkeypatch):
    without_compiler(monkeypatch)
    assert available_backends() == ("reference", "tiled")
    problem = random_problem(0, 600, radius=0.5)
    arguments = (problem.x, problem.v, problem.bandwidth)
    with pytest.warns(UserWarning, match="'tiled' and not 'native': there is no C compiler") as caught:
        results = [ball_convolution(*arguments, radius=0.5) for _ in range(3)]
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "\n" not in str(caught[0].message)
    assert torch.equal(results[0], ball_convolution_tiled(*arguments, radius=0.5))
    with pytest.raises(BackendUnavailable, match=r"'native' cannot run here; .* reference, tiled: there is no C comp"):
        ball_convolution(*arguments, radius=0.5, backend="native")


def test_a_binary_outlives_its_compiler(cache, monkeypatch):
    assert native.reason_unavailable() is None
    without_compiler(monkeypatch)
    assert native.reason_unavailable() is None


@pytest.mark.parametrize("unknown", ["-fopenmp", "-march=native", "-f*|-m*"])
def test_a_compiler_that_knows_less_will_do(cache, tmp_path, monkeypatch, unknown):
    compiler_that(
        tmp_path, monkeypatch, f'for a in "$@"; do case $a in {unknown.replace("-f*", "-fopenmp")}) exit 1;; esac; done'
    )
    assert native.reason_unavailable() is None
    assert_as_exact_as_dense(ball_convolution_native, random_problem(0, 70, dtype=torch.float32), "kernel")


def test_a_compiler_that_fails_is_quoted(cache, tmp_path, monkeypatch):
    compiler_that(tmp_path, monkeypatch, "echo 'error: out of ideas' >&2; exit 1")
    assert native.reason_unavailable() == f"{tmp_path / 'cc'} cannot build ball.c: error: out of ideas"
    assert list(cache.iterdir()) == []


def test_what_others_may_write_is_not_loaded(cache, monkeypatch):
    assert native.reason_unavailable() is None
    (binary,) = cache.iterdir()
    binary.chmod(0o722)
    assert not native_library._is_whole(binary)
    without_compiler(monkeypatch)
    assert "no C compiler" in native.reason_unavailable()
    binary.chmod(0o700)
    cache.chmod(0o777)
    monkeypatch.undo()
    monkeypatch.setattr(native_library, "cache_folders", lambda: [cache])
    monkeypatch.setattr(native_library, "_library", None)
    assert "writable for its user alone" in native.reason_unavailable()


def test_a_damaged_binary_is_built_anew(cache, monkeypatch):
    native_library.library()
    (binary,) = cache.iterdir()
    whole = binary.read_bytes()
    binary.unlink()  # it is loaded: its file must not change
    binary.write_bytes(whole[:1000])  # dlopen would end the process
    binary.chmod(0o700)
    monkeypatch.setattr(native_library, "_library", None)
    assert native.reason_unavailable() is None
    assert all(native_library._is_whole(path) for path in cache.iterdir())
