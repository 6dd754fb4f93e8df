import os
import shutil
import threading
import warnings
from dataclasses import replace

import pytest
import torch

from mfcdm.interaction import (
    BackendUnavailable,
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
