import os
import shutil
import subprocess
import sys
import threading
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mfcdm.interaction import (
    BackendUnavailable,
    available_backends,
    ball_convolution,
    dispatch,
    native,
    native_library,
)
from mfcdm.interaction.native import ball_convolution_native
from mfcdm.interaction.reference import ball_convolution_reference
from mfcdm.interaction.tiled import ball_convolution_tiled
from tests.interaction.interaction_problems import (
    assert_as_exact_as_dense,
    build,
    output_and_gradients,
    random_problem,
    upstream,
)

NORMALIZATIONS = ("mean", "kernel")
pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, native_library.COMPILERS)), reason="there is no C compiler on the search path"
)


def convolve(problem, normalize="mean", **keywords):
    arguments = {**problem.keywords, **keywords}
    return ball_convolution_native(problem.x, problem.v, problem.bandwidth, **arguments, normalize=normalize)


SIZES = st.sampled_from([1, 2, 17, 31, 32, 33, 64, 129])


@settings(max_examples=250, deadline=None)
@given(
    st.builds(
        random_problem,
        seed=st.integers(0, 10**6),
        num_queries=SIZES,
        num_sources=st.none() | SIZES,
        num_clouds=st.integers(1, 3),
        dim=st.sampled_from([1, 2, 3]),
        num_heads=st.sampled_from([1, 2, 3]),
        num_channels=st.sampled_from([1, 3, 4, 5, 8, 12, 13, 20]),
        radius=st.sampled_from([1e-3, 0.1, 0.5, 2.0, 100.0]),
        scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e15]),
        offset=st.sampled_from([0.0, 1e3]),
        duplicates=st.booleans(),
        padded=st.booleans(),
        dtype=st.sampled_from([torch.float32, torch.float64]),
    ),
    st.sampled_from(NORMALIZATIONS),
)
def test_it_is_as_exact_as_the_dense_reference(problem, normalize):
    assert_as_exact_as_dense(ball_convolution_native, problem, normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("num_sources", [None, 33])
def test_it_is_as_exact_at_the_edges_of_tiles(normalize, dtype, dim, num_sources):
    lengths = torch.tensor([0, 1, 31, 32, 33])
    problem = random_problem(0, 33, num_sources, num_clouds=5, dim=dim, dtype=dtype)
    source_lengths = None if num_sources is None else lengths.flip(0)
    problem = replace(problem, lengths=lengths, source_lengths=source_lengths)
    assert_as_exact_as_dense(ball_convolution_native, problem.with_padding(torch.nan), normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 700])
@pytest.mark.parametrize("radius", [0.3, 20.0])
def test_it_is_as_exact_on_clouds_of_many_tiles(normalize, num_sources, radius):
    problem = random_problem(0, 1000, num_sources, num_clouds=1, radius=radius, dtype=torch.float32)
    assert_as_exact_as_dense(ball_convolution_native, problem, normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 35])
def test_gradients_are_those_of_finite_differences(normalize, num_sources):
    """More than one tile on each side, lengths, everything at once."""
    problem = random_problem(1, 34, num_sources, dim=2, num_channels=1, radius=1.0)
    source_lengths = None if num_sources is None else torch.tensor([35, 33])
    problem = replace(problem, lengths=torch.tensor([33, 5]), source_lengths=source_lengths)

    def function(x, v, bandwidth, y):
        return convolve(replace(problem, x=x, v=v, bandwidth=bandwidth, y=y), normalize)

    inputs = (problem.x, problem.v, problem.bandwidth, problem.y)
    assert torch.autograd.gradcheck(function, [t if t is None else t.requires_grad_() for t in inputs])


@pytest.mark.parametrize(("dtype", "last"), [(torch.float32, 86.0), (torch.float64, 700.0)])
def test_weights_are_exact_to_two_units_in_the_last_place(dtype, last):
    """At r = R / 2 every step before the exponential is exact; beyond the normal numbers the weight is 0."""
    exponent = torch.linspace(1e-3, last, 5000, dtype=torch.float64)
    bandwidth = torch.cat([(0.125 / exponent).sqrt(), torch.tensor([0.005, 1e-15])]).to(dtype)  # exponents 5e3, 1e29
    kappa = (0.5 * (1 / bandwidth) ** 2).double()
    x, y, v = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 0.5), torch.ones(1, len(bandwidth), 1, 1)
    out = ball_convolution_native(x.to(dtype), v.to(dtype), bandwidth, radius=1.0, y=y.to(dtype)).flatten()
    assert (out[-2:] == 0).all()
    expected = torch.exp(-kappa / 4)[:-2] * 0.75**2
    torch.testing.assert_close(out[:-2].double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 70])
@pytest.mark.parametrize("padding", [torch.nan, torch.inf, 1e30])
def test_padding_never_matters(normalize, num_sources, padding):
    problem = random_problem(4, 80, num_sources, num_clouds=3, padded=True, dtype=torch.float32)
    g = upstream(problem)
    query_padding = torch.arange(80) >= problem.lengths[:, None]
    assert 0 < query_padding.sum() < query_padding.numel()
    dirty_g = torch.where(query_padding[:, None, :, None], torch.nan, g)
    clean = output_and_gradients(ball_convolution_native, problem.with_padding(0.0), g, normalize=normalize)
    dirty = output_and_gradients(ball_convolution_native, problem.with_padding(padding), dirty_g, normalize=normalize)
    for name, value in clean.items():
        assert torch.equal(dirty[name], value), name
    assert (dirty["out"].transpose(1, 2)[query_padding] == 0).all()
    assert (dirty["x"][query_padding] == 0).all()
    sources, source_lengths = problem.sources
    source_padding = torch.arange(sources.shape[1]) >= source_lengths[:, None]
    assert (dirty["v"].transpose(1, 2)[source_padding] == 0).all()


@pytest.mark.parametrize("coordinate", [torch.nan, torch.inf])
def test_a_point_that_diverged_stays_visible(coordinate):
    """NaN is near everybody of its cloud; infinity is far from all but itself, at the distance inf - inf."""
    problem = random_problem(0, 100, radius=0.5)
    problem.x[1, 3, 0] = coordinate
    for normalize in NORMALIZATIONS:
        expected = ball_convolution_reference(problem.x, problem.v, problem.bandwidth, radius=0.5, normalize=normalize)
        out = convolve(problem, normalize)
        assert torch.equal(out.isnan(), expected.isnan())
        assert out[1].isnan().any()
        assert out[0].isfinite().all()


@pytest.mark.parametrize("exponent", [50.0, 85.0, 1e3])
def test_kernel_normalisation_near_and_beyond_underflow(exponent):
    x, y, v = torch.zeros(1, 1, 2), torch.tensor([[[0.3, 0.4]]]), torch.tensor([[[[7.0]]]])
    bandwidth = torch.tensor([0.5 / (2 * exponent) ** 0.5])
    for t in (x, y, v, bandwidth):
        t.requires_grad_()
    out = ball_convolution_native(x, v, bandwidth, radius=1.0, y=y, normalize="kernel")
    out.sum().backward()
    somebody = float(exponent < 100)  # one source: w v times 1 / w, three roundings
    assert out.item() == pytest.approx(7.0 * somebody, rel=2 * torch.finfo(torch.float32).eps)
    assert v.grad.item() == pytest.approx(somebody, rel=2 * torch.finfo(torch.float32).eps)
    assert all(t.grad.isfinite().all() for t in (x, y, bandwidth))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_half_precision_values_round_once_at_the_end(dtype, normalize):
    problem = random_problem(0, 70, dtype=torch.float32)
    halved = replace(problem, v=problem.v.to(dtype))
    g = upstream(halved)
    wide = output_and_gradients(ball_convolution_native, replace(problem, v=halved.v.float()), g, normalize=normalize)
    half = output_and_gradients(ball_convolution_native, halved, g, normalize=normalize)
    assert half["out"].dtype == half["v"].dtype == dtype
    assert half["x"].dtype == torch.float32
    for name in ("out", "v", "x", "bandwidth"):
        assert torch.equal(half[name], wide[name].to(half[name].dtype)), name


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 90])
@pytest.mark.parametrize("wanted", ["x", "v", "bandwidth", "y"])
def test_each_gradient_alone_is_the_one_in_company(normalize, num_sources, wanted):
    problem = random_problem(0, 100, num_sources, radius=0.9, padded=True)
    if getattr(problem, wanted) is None:
        return
    g = upstream(problem)
    together = output_and_gradients(ball_convolution_native, problem, g, normalize=normalize)[wanted]
    leaf = getattr(problem, wanted).clone().requires_grad_()
    (alone,) = torch.autograd.grad(convolve(replace(problem, **{wanted: leaf}), normalize), leaf, g)
    # float64 sums of about 100 terms of order 1, in another association
    torch.testing.assert_close(alone, together, rtol=1e-11, atol=1e-11)


def test_positions_that_need_no_gradient_cost_none(monkeypatch):
    asked, run = [], native._run
    monkeypatch.setattr(native, "_run", lambda *a, **wanted: asked.append(wanted) or run(*a, **wanted))
    problem = random_problem(0, 40)
    convolve(replace(problem, v=problem.v.requires_grad_())).sum().backward()
    assert {name for name in ("dx", "dy", "dv", "dkappa") if asked[-1][name] is not None} == {"dv"}


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 120])
def test_strides_change_no_bit(normalize, num_sources):
    """Values as a network has them, heads within a row, and a gradient that torch expanded from one number."""
    problem = random_problem(0, 150, num_sources, num_channels=7, radius=0.8, dtype=torch.float32)
    strided = replace(
        problem,
        x=problem.x.transpose(1, 2).contiguous().transpose(1, 2),
        v=problem.v.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0),
        y=None if problem.y is None else torch.stack([problem.y, problem.y], -1)[..., 0],
    )
    one = torch.ones(()).expand(upstream(problem).shape)
    geometry, results = build(problem), []
    for case, g in ((problem, one.contiguous()), (strided, one)):
        leaves = [t.detach().requires_grad_() for t in (case.x, case.v, case.bandwidth)]
        out = ball_convolution_native(*leaves, radius=problem.radius, y=case.y, normalize=normalize, geometry=geometry)
        results.append((out, *torch.autograd.grad(out, leaves, g)))
    assert not strided.v.is_contiguous()
    assert all(torch.equal(plain, other) for plain, other in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_sources", [None, 400])
def test_the_number_of_threads_changes_no_bit(dtype, num_sources):
    problem = random_problem(0, 500, num_sources, num_clouds=3, radius=0.5, padded=True, dtype=dtype)
    g, geometry, before = upstream(problem), build(problem), torch.get_num_threads()
    results = []
    try:
        for num_threads in (1, 2, 2, 3):
            torch.set_num_threads(num_threads)
            for normalize in NORMALIZATIONS:
                results.append(
                    output_and_gradients(ball_convolution_native, problem, g, normalize=normalize, geometry=geometry)
                )
    finally:
        torch.set_num_threads(before)
    for k, result in enumerate(results):
        assert all(torch.equal(result[name], value) for name, value in results[k % 2].items())


def test_it_serves_a_graph_twice_and_works_without_one():
    problem = random_problem(0, 100, radius=0.8)
    geometry, x = build(problem), problem.x.requires_grad_()
    v = problem.v.requires_grad_()

    def twice(function):
        first = function(x, v, problem.bandwidth, radius=0.8, normalize="kernel")
        out = function(x, first + v, problem.bandwidth, radius=0.8)
        return [torch.autograd.grad(out.square().sum(), (x, v), retain_graph=True) for _ in range(2)]

    first, again = twice(lambda *a, **k: ball_convolution_native(*a, **k, geometry=geometry))
    expected, _ = twice(ball_convolution_reference)
    for ours, repeated, exact in zip(first, again, expected, strict=True):
        assert torch.equal(ours, repeated)
        torch.testing.assert_close(ours, exact, rtol=1e-10, atol=1e-10)  # float64, sums of 100 terms twice over
    with torch.no_grad():
        assert not convolve(problem).requires_grad


def test_several_python_threads_may_call_it_at_once():
    problem = random_problem(0, 400, radius=0.5, dtype=torch.float32)
    g, geometry = upstream(problem), build(problem)
    expected = output_and_gradients(ball_convolution_native, problem, g, geometry=geometry)
    results = []

    def work():
        for _ in range(5):
            results.append(output_and_gradients(ball_convolution_native, problem, g, geometry=geometry))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 20
    assert all(torch.equal(result[name], value) for result in results for name, value in expected.items())


# What runs in a process of its own.

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
    signal.alarm(30)
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
    _, complaint = child.communicate(timeout=60)
    assert child.returncode == 0, complaint


def test_two_processes_may_build_at_once(tmp_path):
    folder = tmp_path / "cache"
    for child in [start(BUILD, folder) for _ in range(2)]:
        _, complaint = child.communicate(timeout=120)
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


def test_what_it_has_no_kernel_for_is_refused_and_left_to_others():
    problem = random_problem(0, 600, dim=4, radius=0.5)
    arguments = (problem.x, problem.v, problem.bandwidth)
    with pytest.raises(
        BackendUnavailable, match=r"'native' cannot run here; .*: it takes up to 3 dimensions, but x has 4"
    ):
        ball_convolution(*arguments, radius=0.5, backend="native")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(ball_convolution(*arguments, radius=0.5), ball_convolution_tiled(*arguments, radius=0.5))
    meta = [t[..., :3].to("meta") for t in arguments[:2]] + [problem.bandwidth.to("meta")]
    with pytest.raises(BackendUnavailable, match="it runs on the CPU, but x is on meta"):
        ball_convolution(*meta, radius=0.5, backend="native")


def test_auto_takes_it(monkeypatch):
    taken = []
    monkeypatch.setitem(dispatch._BACKENDS, "native", lambda x, *a, **k: taken.append(len(x)) or x)
    problem = random_problem(0, 200)
    ball_convolution(problem.x, problem.v, problem.bandwidth, radius=1.0)
    assert taken == [2]
    assert os.path.basename(native_library.SOURCE) == "ball.c"
