"""What the tiled and the native backend both keep."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mfcdm.interaction import native
from mfcdm.interaction.native import ball_convolution_native
from mfcdm.interaction.tiled import ball_convolution_tiled
from tests.interaction.interaction_laws import (
    assert_a_self_interaction_pulls_as_much_as_it_is_pulled,
    assert_each_gradient_alone_is_the_one_in_company,
    assert_gradients_are_those_of_finite_differences,
    assert_half_precision_values_round_once_at_the_end,
    assert_kernel_normalisation_near_and_beyond_underflow,
    assert_padding_never_matters,
)
from tests.interaction.interaction_problems import assert_as_exact_as_dense, random_problem

FUNCTIONS = [
    ball_convolution_tiled,
    pytest.param(
        ball_convolution_native,
        marks=pytest.mark.skipif(native.reason_unavailable() is not None, reason="the native backend cannot run here"),
    ),
]
pytestmark = pytest.mark.parametrize("function", FUNCTIONS)
of_either_sum = pytest.mark.parametrize("normalize", ["mean", "kernel"])
SIZES = st.sampled_from([1, 2, 17, 31, 32, 33, 64, 129])


@settings(max_examples=250, deadline=None)
@given(
    problem=st.builds(
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
    normalize=st.sampled_from(["mean", "kernel"]),
)
def test_it_is_as_exact_as_the_dense_reference(function, problem, normalize):
    assert_as_exact_as_dense(function, problem, normalize)


@of_either_sum
@pytest.mark.parametrize("num_sources", [None, 35])
def test_gradients_are_those_of_finite_differences(function, num_sources, normalize):
    assert_gradients_are_those_of_finite_differences(function, num_sources, normalize)


@of_either_sum
@pytest.mark.parametrize("num_sources", [None, 70])
@pytest.mark.parametrize("padding", [torch.nan, torch.inf, 1e30])
def test_padding_never_matters(function, num_sources, normalize, padding):
    problem = random_problem(4, 80, num_sources, num_clouds=3, padded=True, dtype=torch.float32)
    assert_padding_never_matters(function, problem, normalize, padding)


@of_either_sum
@pytest.mark.parametrize("num_sources", [None, 90])
def test_each_gradient_alone_is_the_one_in_company(function, num_sources, normalize):
    problem, eps = random_problem(0, 100, num_sources, radius=0.9, padded=True), 1e-11  # float64, sums of 100^2 terms
    assert_each_gradient_alone_is_the_one_in_company(function, problem, normalize, eps)


@of_either_sum
def test_a_self_interaction_pulls_as_much_as_it_is_pulled(function, normalize):
    assert_a_self_interaction_pulls_as_much_as_it_is_pulled(function, random_problem(0, 100, radius=0.8), normalize)


@of_either_sum
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_values_round_once_at_the_end(function, dtype, normalize):
    assert_half_precision_values_round_once_at_the_end(function, dtype, normalize)


@pytest.mark.parametrize("exponent", [50.0, 85.0, 1e3])
def test_kernel_normalisation_near_and_beyond_underflow(function, exponent):
    assert_kernel_normalisation_near_and_beyond_underflow(function, exponent)


@of_either_sum
@pytest.mark.parametrize(("num_heads", "num_channels"), [(0, 3), (2, 0)])
def test_without_heads_or_channels_the_positions_have_no_gradient(function, num_heads, num_channels, normalize):
    x = torch.randn(2, 35, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for y in (None, torch.randn(2, 17, 3)):
        num_sources = 35 if y is None else 17
        v = torch.ones(2, num_heads, num_sources, num_channels, requires_grad=True)
        out = function(x, v, torch.ones(num_heads), radius=1.3, y=y, normalize=normalize)
        assert out.shape == (2, num_heads, 35, num_channels)
        (gradient,) = torch.autograd.grad(out.sum(), x)
        assert not gradient.any()


def test_a_bandwidth_far_below_the_radius_sees_coinciding_points_alone(function):
    x = torch.tensor([[[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]])
    out = function(x, torch.tensor([[[[1.0], [5.0]]]]), torch.tensor([1e-20]), radius=1.0, normalize="kernel")
    assert out.flatten().tolist() == [1.0, 5.0]
