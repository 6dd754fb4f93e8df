import math
from dataclasses import replace

import pytest
import torch

from mfcdm.interaction.reference import ball_convolution_reference
from tests.interaction.interaction_laws import assert_padding_never_matters
from tests.interaction.interaction_problems import output_and_gradients, random_problem

NORMALIZATIONS = ("mean", "kernel")


def convolve(problem, normalize="mean"):
    return ball_convolution_reference(problem.x, problem.v, problem.bandwidth, **problem.keywords, normalize=normalize)


def double_loop(problem, normalize):
    """The formula, number by number."""
    sources, source_lengths = problem.sources
    (num_clouds, num_heads, _, num_channels), num_queries = problem.v.shape, problem.x.shape[1]
    x, y, v, bandwidth = problem.x.tolist(), sources.tolist(), problem.v.tolist(), problem.bandwidth.tolist()
    out = torch.zeros(num_clouds, num_heads, num_queries, num_channels, dtype=torch.float64)
    for b in range(num_clouds):
        n = num_queries if problem.lengths is None else int(problem.lengths[b])
        m = sources.shape[1] if source_lengths is None else int(source_lengths[b])
        for h in range(num_heads):
            for i in range(n):
                r = [math.dist(x[b][i], y[b][j]) for j in range(m)]
                w = [
                    math.exp(-(r_j**2) / (2 * bandwidth[h] ** 2)) * max(0.0, 1 - r_j**2 / problem.radius**2) ** 2
                    for r_j in r
                ]
                z = m if normalize == "mean" else sum(w)
                for c in range(num_channels):
                    total = sum(w[j] * v[b][h][j][c] for j in range(m))
                    out[b, h, i, c] = total / z if z > 0 else 0.0
    return out


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 5])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_it_is_the_formula(normalize, num_sources, padded, dim):
    for seed in range(3):
        problem = random_problem(seed, 7, num_sources, num_clouds=3, dim=dim, radius=1.7, padded=padded)
        # float64, at most 7 terms of order 1, exponents below 32: the error is below 100 eps = 2e-14
        torch.testing.assert_close(convolve(problem, normalize), double_loop(problem, normalize), rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 4])
def test_gradients_are_those_of_finite_differences(normalize, num_sources):
    problem = random_problem(4, 5, num_sources, num_channels=2, radius=2.0, padded=True)

    def function(x, v, bandwidth, y):
        return convolve(replace(problem, x=x, v=v, bandwidth=bandwidth, y=y), normalize)

    inputs = (problem.x, problem.v, problem.bandwidth, problem.y)
    assert torch.autograd.gradcheck(function, [t if t is None else t.requires_grad_() for t in inputs])


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_only_the_empirical_measure_of_the_sources_matters(normalize):
    problem = random_problem(0, 6, 9, radius=2.0)
    twice = replace(problem, y=problem.y.repeat(1, 2, 1), v=problem.v.repeat(1, 1, 2, 1))
    # a sum of 18 numbers of order 1 in place of 9
    torch.testing.assert_close(convolve(twice, normalize), convolve(problem, normalize), rtol=0, atol=1e-14)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("exponent", [-80, 60])
def test_powers_of_two_in_all_lengths_change_no_bit(normalize, exponent):
    problem = random_problem(0, 12, radius=1.3, dtype=torch.float32)
    factor = 2.0**exponent  # in float32, r^2 would underflow or overflow
    scaled = replace(
        problem, x=problem.x * factor, bandwidth=problem.bandwidth * factor, radius=problem.radius * factor
    )
    g = torch.ones_like(problem.v)
    before = output_and_gradients(ball_convolution_reference, problem, g, normalize=normalize)
    after = output_and_gradients(ball_convolution_reference, scaled, g, normalize=normalize)
    assert before["out"].abs().min() > 0
    assert torch.equal(after["out"], before["out"])
    assert torch.equal(after["v"], before["v"])
    assert torch.equal(after["x"] * factor, before["x"])


def test_kernel_normalisation_reproduces_constants_where_somebody_is_near():
    problem = random_problem(0, 40, 10, radius=0.8)
    out = convolve(replace(problem, v=torch.ones_like(problem.v)), "kernel")
    near = (torch.cdist(problem.x, problem.y) < problem.radius).any(-1)[:, None, :, None].expand_as(out)
    assert 0 < near.sum() < near.numel()
    torch.testing.assert_close(out[near], torch.ones_like(out[near]), rtol=1e-13, atol=0)
    assert (out[~near] == 0).all()


def test_nobody_near_gives_zero_gradients():
    problem = random_problem(0, 4, 5, radius=1.0)
    problem = replace(problem, y=problem.y + 100)
    for normalize in NORMALIZATIONS:
        result = output_and_gradients(ball_convolution_reference, problem, torch.ones(2, 2, 4, 3), normalize=normalize)
        assert all((value == 0).all() for value in result.values())


@pytest.mark.parametrize("exponent", [50.0, 85.0, 1e3])
def test_kernel_normalisation_near_and_beyond_underflow(exponent):
    """exp(-85) is a normal float32, just above the smallest; exp(-1000) is 0, and then nobody is near."""
    x, y, v = torch.zeros(1, 1, 2), torch.tensor([[[0.3, 0.4]]]), torch.tensor([[[[7.0]]]])
    bandwidth = torch.tensor([0.5 / math.sqrt(2 * exponent)])
    for t in (x, y, v, bandwidth):
        t.requires_grad_()
    out = ball_convolution_reference(x, v, bandwidth, radius=1.0, y=y, normalize="kernel")
    # one source: w v / w, two roundings
    assert out.item() == pytest.approx(7.0 if exponent < 100 else 0.0, rel=2 * torch.finfo(torch.float32).eps)
    out.sum().backward()
    assert v.grad.item() == pytest.approx(1.0 if exponent < 100 else 0.0, rel=2 * torch.finfo(torch.float32).eps)
    assert all(t.grad.isfinite().all() for t in (x, y, bandwidth))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_half_precision_values_round_once_at_the_end(dtype, normalize):
    problem = random_problem(0, 20, dtype=torch.float32)
    halved = replace(problem, v=problem.v.to(dtype))
    expected = convolve(replace(problem, v=halved.v.float()), normalize).to(dtype)
    assert convolve(halved, normalize).dtype == dtype
    assert torch.equal(convolve(halved, normalize), expected)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 70])
@pytest.mark.parametrize("padding", [torch.nan, torch.inf, 1e30])
def test_padding_never_matters(normalize, num_sources, padding):
    problem = random_problem(4, 80, num_sources, num_clouds=3, padded=True, dtype=torch.float32)
    assert_padding_never_matters(ball_convolution_reference, problem, normalize, padding)
