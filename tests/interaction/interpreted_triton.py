"""The Triton backend through Triton's interpreter, on the CPU; `test_triton.py` runs this file in a process of its own.

The interpreter is chosen by TRITON_INTERPRET=1 before Triton is imported. It is exact in float32; its bfloat16 is not.
"""

from dataclasses import replace

import pytest
import torch
from triton.runtime import interpreter

from mfcdm.interaction import BackendUnavailable, available_backends, ball_convolution, triton_backend, triton_launch
from mfcdm.interaction.reference import ball_convolution_reference, sharpness
from mfcdm.interaction.triton_backend import ball_convolution_triton
from tests.interaction.interaction_laws import (
    assert_a_self_interaction_pulls_as_much_as_it_is_pulled,
    assert_each_gradient_alone_is_the_one_in_company,
    assert_half_precision_values_round_once_at_the_end,
    assert_kernel_normalisation_near_and_beyond_underflow,
    assert_padding_never_matters,
)
from tests.interaction.interaction_problems import (
    assert_as_exact_as_dense,
    build,
    output_and_gradients,
    random_problem,
    upstream,
)

NORMALIZATIONS = ("mean", "kernel")
_patch_tensor = interpreter._patch_lang_tensor


def _patch_tensor_for_new_numpy(tensor, scope):
    """Bounds of loops are arrays of one element, which numpy 2.4 no longer takes for integers."""
    _patch_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


interpreter._patch_lang_tensor = _patch_tensor_for_new_numpy


def problem_of(*arguments, **keywords):
    return random_problem(*arguments, dtype=torch.float32, **keywords)


def convolve(problem, normalize="mean", **keywords):
    arguments = {**problem.keywords, **keywords}
    return ball_convolution_triton(problem.x, problem.v, problem.bandwidth, **arguments, normalize=normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("num_queries", [1, 17, 33, 65])
@pytest.mark.parametrize("num_sources", [None, 1, 40])
def test_it_is_as_exact_as_the_dense_reference(normalize, dim, num_queries, num_sources):
    problem = problem_of(num_queries, num_queries, num_sources, dim=dim, padded=True)
    assert_as_exact_as_dense(ball_convolution_triton, problem, normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 33])
def test_it_is_as_exact_at_the_edges_of_tiles(normalize, num_sources):
    lengths = torch.tensor([0, 1, 31, 32, 33])
    problem = problem_of(0, 33, num_sources, num_clouds=5)
    source_lengths = None if num_sources is None else lengths.flip(0)
    problem = replace(problem, lengths=lengths, source_lengths=source_lengths)
    assert_as_exact_as_dense(ball_convolution_triton, problem.with_padding(torch.nan), normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 50])
@pytest.mark.parametrize("radius", [1e-3, 0.3, 100.0])
@pytest.mark.parametrize("duplicates", [False, True])
def test_it_is_as_exact_where_nobody_or_everybody_is_near(normalize, num_sources, radius, duplicates):
    problem = problem_of(1, 65, num_sources, radius=radius, duplicates=duplicates)
    assert_as_exact_as_dense(ball_convolution_triton, problem, normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize(("num_heads", "num_channels"), [(1, 1), (3, 16), (2, 20), (1, 33), (3, 65), (1, 130)])
@pytest.mark.parametrize("num_sources", [None, 20])
def test_it_is_as_exact_with_any_heads_and_channels(normalize, num_heads, num_channels, num_sources):
    problem = problem_of(2, 40, num_sources, num_heads=num_heads, num_channels=num_channels, padded=True)
    assert_as_exact_as_dense(ball_convolution_triton, problem, normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize(("scale", "offset"), [(1e-20, 0.0), (1e15, 0.0), (1.0, 1e3)])
def test_it_is_as_exact_at_any_scale(normalize, scale, offset):
    assert_as_exact_as_dense(ball_convolution_triton, problem_of(3, 50, scale=scale, offset=offset), normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 70])
@pytest.mark.parametrize("padding", [torch.nan, torch.inf, 1e30])
def test_padding_never_matters(normalize, num_sources, padding):
    problem = problem_of(4, 80, num_sources, num_clouds=3, padded=True)
    assert_padding_never_matters(ball_convolution_triton, problem, normalize, padding)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 40])
def test_each_gradient_alone_is_the_one_in_company(normalize, num_sources):
    problem, eps = problem_of(0, 50, num_sources, padded=True), 1e-5  # float32 sums of up to 50^2 terms
    assert_each_gradient_alone_is_the_one_in_company(ball_convolution_triton, problem, normalize, eps)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_a_self_interaction_pulls_as_much_as_it_is_pulled(normalize):
    problem = problem_of(0, 60, radius=0.8)
    assert_a_self_interaction_pulls_as_much_as_it_is_pulled(ball_convolution_triton, problem, normalize)


@pytest.mark.parametrize("exponent", [50.0, 85.0, 1e3])
def test_kernel_normalisation_near_and_beyond_underflow(exponent):
    assert_kernel_normalisation_near_and_beyond_underflow(ball_convolution_triton, exponent)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_half_precision_values_round_once_at_the_end(normalize):
    """float16 only: the interpreter's bfloat16 is wrong."""
    assert_half_precision_values_round_once_at_the_end(ball_convolution_triton, torch.float16, normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_strides_and_a_shared_geometry_change_no_bit(normalize):
    problem = problem_of(0, 45, 37, padded=True)
    g, geometry = upstream(problem), build(problem)
    plain = output_and_gradients(ball_convolution_triton, problem, g, normalize=normalize)

    def strided(x, v, bandwidth, y, **keywords):
        x, y = x.mT.contiguous().mT, y.mT.contiguous().mT
        v = v.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
        kappa_of = bandwidth[:, None].expand(-1, 2)[:, 0]
        return ball_convolution_triton(x, v, kappa_of, y=y, geometry=geometry, **keywords)

    again = output_and_gradients(strided, problem, g.mT.contiguous().mT, normalize=normalize)
    assert all(torch.equal(again[name], value) for name, value in plain.items())


def test_an_expanded_gradient_is_read_as_it_is():
    problem = problem_of(0, 45)
    v = problem.v.clone().requires_grad_()
    out = convolve(replace(problem, v=v))
    (expanded,) = torch.autograd.grad(out.sum(), v, retain_graph=True)
    (full,) = torch.autograd.grad(out, v, torch.ones_like(out))
    assert torch.equal(expanded, full)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("coordinate", [torch.nan, torch.inf])
def test_a_point_that_diverged_stays_visible(normalize, coordinate):
    problem = problem_of(0, 70, radius=0.5)
    problem.x[1, 3, 0] = coordinate
    out = convolve(problem, normalize)
    assert out[1, :, 3].isnan().all()
    assert coordinate == torch.inf or out[1].isnan().all()
    assert out[0].isfinite().all()


@pytest.mark.parametrize(("num_clouds", "num_queries", "num_sources"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_nothing_is_a_cloud_too(num_clouds, num_queries, num_sources):
    x = torch.ones(num_clouds, num_queries, 3, requires_grad=True)
    y = torch.ones(num_clouds, num_sources, 3, requires_grad=True)
    v = torch.ones(num_clouds, 2, num_sources, 5, requires_grad=True)
    for normalize in NORMALIZATIONS:
        out = ball_convolution(x, v, torch.ones(2), radius=1.0, y=y, normalize=normalize, backend="triton")
        assert torch.equal(out, torch.zeros(num_clouds, 2, num_queries, 5))
        for leaf, gradient in zip((x, y, v), torch.autograd.grad(out.sum(), (x, y, v)), strict=True):
            assert torch.equal(gradient, torch.zeros_like(leaf))


@pytest.mark.parametrize(("kernel", "num_sources"), [(False, None), (True, 40)])
def test_torch_accepts_the_operators(kernel, num_sources):
    problem = problem_of(0, 37, num_sources, padded=True)
    geometry = build(problem)
    flat = [geometry.query_order, geometry.source_order, geometry.query_lengths, geometry.source_lengths]
    flat += [part for near in (geometry, geometry.transpose) for part in (near.near_offsets, near.near_tiles)]
    kappa = sharpness(problem.bandwidth, problem.radius)
    inputs = (problem.x, problem.y, problem.v, kappa)
    leaves = [None if t is None else t.clone().requires_grad_() for t in inputs]
    torch.library.opcheck(triton_backend._average, (*leaves, flat, problem.radius, kernel))
    out, inverse_z = triton_backend._average(*inputs, flat, problem.radius, kernel)
    saved = (torch.ones_like(out), out if kernel else None, inverse_z)
    for wanted in ([True, num_sources is not None, True, True], [False, False, False, True]):
        torch.library.opcheck(triton_backend._sweep, (*saved, *inputs, flat, problem.radius, wanted))


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 40])
def test_torch_compile_keeps_it_whole(normalize, num_sources):
    problem = problem_of(0, 37, num_sources, padded=True)
    g, geometry = upstream(problem), build(problem)
    torch._dynamo.reset()
    compiled = torch.compile(ball_convolution_triton, fullgraph=True, backend="aot_eager")
    eager = output_and_gradients(ball_convolution_triton, problem, g, geometry=geometry, normalize=normalize)
    again = output_and_gradients(compiled, problem, g, geometry=geometry, normalize=normalize)
    for name, value in eager.items():
        assert torch.equal(again[name], value), name


def test_autocast_does_not_lower_the_precision():
    problem = problem_of(0, 40)
    g = upstream(problem)
    wide = output_and_gradients(ball_convolution, problem, g, backend="triton")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = output_and_gradients(ball_convolution, problem, g, backend="triton")
    assert all(torch.equal(cast[name], value) for name, value in wide.items())


def test_it_is_available_on_request_only():
    assert triton_launch.reason_unavailable() is None
    assert "triton" in available_backends()
    problem = problem_of(0, 40)
    out = ball_convolution(problem.x, problem.v, problem.bandwidth, radius=problem.radius, backend="triton")
    expected = ball_convolution_reference(problem.x, problem.v, problem.bandwidth, radius=problem.radius)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)  # float32 means of 40 numbers of order 1
    for change in ({"x": problem.x.double()}, {"v": problem.v.double()}, {"bandwidth": problem.bandwidth.double()}):
        arguments = {"x": problem.x, "v": problem.v, "bandwidth": problem.bandwidth, **change}
        with pytest.raises(BackendUnavailable, match=r"computes in float32, but the arguments need torch\.float64"):
            ball_convolution(**arguments, radius=1.0, backend="triton")
        assert ball_convolution(**arguments, radius=1.0).dtype == arguments["v"].dtype
