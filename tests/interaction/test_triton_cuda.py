"""The Triton backend on a GPU, at real sizes."""

import warnings
from dataclasses import replace

import pytest
import torch

from mfcdm.interaction import (
    BallGeometry,
    available_backends,
    ball_convolution,
    dispatch,
    triton_backend,
    triton_launch,
)
from mfcdm.interaction.reference import ball_convolution_reference, sharpness
from mfcdm.interaction.triton_backend import ball_convolution_triton
from tests.interaction.interaction_laws import (
    assert_each_gradient_alone_is_the_one_in_company,
    assert_padding_never_matters,
)
from tests.interaction.interaction_problems import (
    assert_as_exact_as_dense,
    build,
    output_and_gradients,
    random_problem,
    rounding_floor,
    upstream,
)

NORMALIZATIONS = ("mean", "kernel")
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or triton_launch.reason_unavailable() is not None,
    reason="there is no CUDA device on which Triton runs",
)


def moved(problem, device="cuda"):
    tensors = ("x", "v", "bandwidth", "y", "lengths", "source_lengths")
    there = {name: getattr(problem, name) for name in tensors}
    return replace(problem, **{name: None if t is None else t.to(device) for name, t in there.items()})


def through_cuda(function):
    """Take a function of tensors on the CPU through the GPU, gradients too."""

    def there_and_back(x, v, bandwidth, **keywords):
        keywords = {
            name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in keywords.items()
        }
        return function(x.cuda(), v.cuda(), bandwidth.cuda(), **keywords).cpu()

    return there_and_back


on_cuda = through_cuda(ball_convolution_triton)


def problem_of(*arguments, **keywords):
    return random_problem(*arguments, **{"dtype": torch.float32, **keywords})


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("num_queries", [1, 17, 33, 257, 1025])
@pytest.mark.parametrize("num_sources", [None, 1, 700])
def test_it_is_as_exact_as_the_dense_reference(normalize, dim, num_queries, num_sources):
    problem = problem_of(num_queries, num_queries, num_sources, num_clouds=3, dim=dim, padded=True, radius=0.7)
    assert_as_exact_as_dense(on_cuda, problem.with_padding(torch.nan), normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("radius", [0.2, 20.0])
@pytest.mark.parametrize("num_sources", [None, 2049])
def test_it_is_as_exact_on_clouds_of_many_tiles(normalize, radius, num_sources):
    num_queries = 4097 if num_sources is None else 3001
    problem = problem_of(0, num_queries, num_sources, num_clouds=1, num_heads=1, radius=radius, duplicates=True)
    assert_as_exact_as_dense(on_cuda, problem, normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize(("num_heads", "num_channels"), [(1, 1), (4, 16), (4, 20), (2, 33), (3, 65), (1, 130)])
@pytest.mark.parametrize("num_sources", [None, 90])
def test_it_is_as_exact_with_any_heads_and_channels(normalize, num_heads, num_channels, num_sources):
    problem = problem_of(2, 300, num_sources, num_heads=num_heads, num_channels=num_channels, padded=True)
    assert_as_exact_as_dense(on_cuda, problem, normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize(("scale", "offset"), [(1e-20, 0.0), (1e15, 0.0), (1.0, 1e3)])
def test_it_is_as_exact_at_any_scale(normalize, scale, offset):
    assert_as_exact_as_dense(on_cuda, problem_of(3, 200, scale=scale, offset=offset), normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_sources", [None, 700])
@pytest.mark.parametrize("positions", [torch.float32, torch.bfloat16])
def test_half_precision_values_are_as_exact_as_in_torch(normalize, dtype, num_sources, positions):
    """At most twice the error of the dense reference on the same values, or what rounding owes anyway.

    Both compute in float32 and round the output and the gradients once, so that the two may end in neighbouring numbers
    of the narrow dtype: half its eps each.
    """
    problem = problem_of(1, 1025, num_sources, num_clouds=1, radius=0.7)
    y = None if problem.y is None else problem.y.to(positions)
    problem = replace(problem, x=problem.x.to(positions), y=y, v=problem.v.to(dtype))
    g = upstream(problem)
    exact = output_and_gradients(ball_convolution_reference, problem.to(torch.float64), g, normalize=normalize)
    dense = output_and_gradients(ball_convolution_reference, problem, g, normalize=normalize)
    ours = output_and_gradients(on_cuda, problem, g, normalize=normalize)
    floor = rounding_floor(problem, g, normalize, torch.float32)
    for name, value in exact.items():
        assert ours[name].dtype == dense[name].dtype
        narrow = torch.finfo(dense[name].dtype)
        allowed = 2 * (dense[name] - value).abs() + floor[name] + narrow.eps * value.abs() + narrow.tiny * narrow.eps
        error = (ours[name] - value).abs()
        assert (error <= allowed).all(), f"{name}: beyond the bound by {(error - allowed).max()}"


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 1500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_call_gives_the_same_bits(normalize, num_sources, dtype):
    problem = moved(problem_of(0, 4097, num_sources, num_channels=20, radius=0.5, padded=True))
    problem = replace(problem, v=problem.v.to(dtype))
    g, geometry = upstream(moved(problem, "cpu")).cuda(), build(problem)
    first = output_and_gradients(ball_convolution_triton, problem, g, normalize=normalize)
    for shared in (geometry, geometry, None):
        again = output_and_gradients(ball_convolution_triton, problem, g, normalize=normalize, geometry=shared)
        assert all(torch.equal(again[name], value) for name, value in first.items())


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 700])
@pytest.mark.parametrize("padding", [torch.nan, torch.inf, 1e30])
def test_padding_never_matters(normalize, num_sources, padding):
    assert_padding_never_matters(
        on_cuda, problem_of(4, 800, num_sources, num_clouds=3, padded=True), normalize, padding
    )


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 300])
def test_each_gradient_alone_is_the_one_in_company(normalize, num_sources):
    eps = 400 * torch.finfo(torch.float32).eps  # sums of up to 400^2 terms: about sqrt(400^2) roundings
    assert_each_gradient_alone_is_the_one_in_company(
        on_cuda, problem_of(0, 400, num_sources, padded=True), normalize, eps
    )


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_a_point_that_diverged_stays_visible(normalize):
    problem = problem_of(0, 1000, radius=0.5)
    problem.x[1, 3, 0] = torch.nan
    out = on_cuda(problem.x, problem.v, problem.bandwidth, radius=0.5, normalize=normalize)
    assert out[1].isnan().all()
    assert out[0].isfinite().all()


@pytest.mark.parametrize(("num_clouds", "num_queries", "num_sources"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_nothing_is_a_cloud_too(num_clouds, num_queries, num_sources):
    shape = {"device": "cuda", "requires_grad": True}
    x, y = torch.ones(num_clouds, num_queries, 3, **shape), torch.ones(num_clouds, num_sources, 3, **shape)
    v = torch.ones(num_clouds, 2, num_sources, 5, **shape)
    for normalize in NORMALIZATIONS:
        out = ball_convolution_triton(x, v, torch.ones(2, device="cuda"), radius=1.0, y=y, normalize=normalize)
        assert torch.equal(out, out.new_zeros(num_clouds, 2, num_queries, 5))
        for leaf, gradient in zip((x, y, v), torch.autograd.grad(out.sum(), (x, y, v)), strict=True):
            assert torch.equal(gradient, torch.zeros_like(leaf))


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("num_sources", [None, 300])
def test_torch_accepts_the_operators(kernel, num_sources):
    problem = moved(problem_of(0, 257, num_sources, padded=True))
    geometry = build(problem)
    flat = [geometry.query_order, geometry.source_order, geometry.query_lengths, geometry.source_lengths]
    flat += [part for near in (geometry, geometry.transpose) for part in (near.near_offsets, near.near_tiles)]
    inputs = (problem.x, problem.y, problem.v, sharpness(problem.bandwidth, problem.radius))
    leaves = [None if t is None else t.clone().requires_grad_() for t in inputs]
    torch.library.opcheck(triton_backend._average, (*leaves, flat, problem.radius, kernel))
    out, inverse_z = triton_backend._average(*inputs, flat, problem.radius, kernel)
    saved, wanted = (
        (torch.ones_like(out), out if kernel else None, inverse_z),
        [True, num_sources is not None, True, True],
    )
    torch.library.opcheck(triton_backend._sweep, (*saved, *inputs, flat, problem.radius, wanted))


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 700])
def test_torch_compile_keeps_it_whole(normalize, num_sources):
    problem = moved(problem_of(0, 1025, num_sources, padded=True))
    g, geometry = upstream(moved(problem, "cpu")).cuda(), build(problem)
    torch._dynamo.reset()
    compiled = torch.compile(ball_convolution_triton, fullgraph=True)
    eager = output_and_gradients(ball_convolution_triton, problem, g, geometry=geometry, normalize=normalize)
    again = output_and_gradients(compiled, problem, g, geometry=geometry, normalize=normalize)
    for name in ("out", "v", "x"):
        assert torch.equal(again[name], eager[name]), name
    # the fused formula of kappa may round otherwise: R^2 / bandwidth^3 and its factors, a few units in the last place
    torch.testing.assert_close(again["bandwidth"], eager["bandwidth"], rtol=1e-6, atol=0)


def test_the_public_function_compiles_too():
    problem = moved(problem_of(0, 1025))
    geometry = build(problem)
    torch._dynamo.reset()
    arguments, keywords = (problem.x, problem.v, problem.bandwidth), {"radius": problem.radius, "geometry": geometry}
    eager = ball_convolution(*arguments, **keywords, backend="triton")
    torch.testing.assert_close(torch.compile(ball_convolution)(*arguments, **keywords, backend="triton"), eager)


def test_autocast_does_not_lower_the_precision():
    problem = moved(problem_of(0, 513))
    g = upstream(moved(problem, "cpu")).cuda()
    wide = output_and_gradients(ball_convolution, problem, g, backend="triton")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        cast = output_and_gradients(ball_convolution, problem, g, backend="triton")
    assert all(torch.equal(cast[name], value) for name, value in wide.items())


def test_auto_takes_it_in_float32_only(monkeypatch):
    assert "triton" in available_backends()
    taken = []
    for name, backend in dict(dispatch._BACKENDS).items():
        monkeypatch.setitem(
            dispatch._BACKENDS, name, lambda *a, _name=name, _run=backend, **k: taken.append(_name) or _run(*a, **k)
        )
    for dtype in (torch.float32, torch.float64):
        problem = moved(problem_of(0, 600, dtype=dtype))
        assert ball_convolution(problem.x, problem.v, problem.bandwidth, radius=1.0).dtype == dtype
    assert taken == ["triton", "tiled"]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device only")
def test_it_runs_on_the_device_of_its_arguments():
    problem = problem_of(0, 300)
    first, second = (moved(problem, f"cuda:{index}") for index in (0, 1))
    outputs = [ball_convolution_triton(p.x, p.v, p.bandwidth, radius=p.radius) for p in (first, second)]
    assert torch.equal(outputs[0].cpu(), outputs[1].cpu())


def test_a_geometry_on_the_device_finds_the_same_pairs():
    """Rounding of the device may keep a pair of tiles more or less at the rim, where weights are 0."""
    problem = problem_of(0, 2000, radius=0.3)
    there, here = build(moved(problem)), BallGeometry.build(problem.x, problem.radius)
    assert torch.equal(there.query_order.cpu(), here.query_order)
    assert len(there.near_tiles) == pytest.approx(len(here.near_tiles), rel=1e-3)


@pytest.mark.parametrize("num_sources", [None, 30000])
def test_a_build_makes_the_host_wait_once(num_sources):
    problem = moved(problem_of(0, 40000, num_sources, radius=0.1))
    build(problem)  # what is compiled or allocated on first use may wait
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            _ = build(problem).transpose
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([wait for wait in waits if "synchronizing" in str(wait.message)]) == 1
