"""What every backend keeps, whatever computes it; `function` is called as `ball_convolution` is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.interaction.interaction_problems import Problem, output_and_gradients, random_problem, upstream

Function = Callable[..., Tensor]


def assert_gradients_are_those_of_finite_differences(function: Function, num_sources: int | None, normalize: str):
    """More than one tile on each side, lengths, everything at once."""
    problem = random_problem(1, 34, num_sources, dim=2, num_channels=1, radius=1.0)
    source_lengths = None if num_sources is None else torch.tensor([35, 33])
    keywords = {"radius": 1.0, "lengths": torch.tensor([33, 5]), "source_lengths": source_lengths}

    def value(x, v, bandwidth, y):
        return function(x, v, bandwidth, y=y, normalize=normalize, **keywords)

    inputs = (problem.x, problem.v, problem.bandwidth, problem.y)
    assert torch.autograd.gradcheck(value, [t if t is None else t.requires_grad_() for t in inputs])


def assert_padding_never_matters(function: Function, problem: Problem, normalize: str, padding: float):
    """Neither a value of the output nor one of a gradient; on padding all are 0."""
    g, num_queries = upstream(problem), problem.x.shape[1]
    query_padding = torch.arange(num_queries) >= problem.lengths[:, None]
    assert 0 < query_padding.sum() < query_padding.numel()
    dirty_g = torch.where(query_padding[:, None, :, None], torch.nan, g)
    clean = output_and_gradients(function, problem.with_padding(0.0), g, normalize=normalize)
    dirty = output_and_gradients(function, problem.with_padding(padding), dirty_g, normalize=normalize)
    for name, value in clean.items():
        assert torch.equal(dirty[name], value), name
    assert (dirty["out"].transpose(1, 2)[query_padding] == 0).all()
    assert (dirty["x"][query_padding] == 0).all()
    sources, source_lengths = problem.sources
    source_padding = torch.arange(sources.shape[1]) >= source_lengths[:, None]
    assert (dirty["v"].transpose(1, 2)[source_padding] == 0).all()


def assert_each_gradient_alone_is_the_one_in_company(function: Function, problem: Problem, normalize: str, eps: float):
    """Up to `eps` of the largest entry, the rounding of sums in another association."""
    g = upstream(problem)
    together = output_and_gradients(function, problem, g, normalize=normalize)
    for wanted in set(together) - {"out"}:
        leaf = getattr(problem, wanted).clone().requires_grad_()
        alone = replace(problem, **{wanted: leaf})
        out = function(alone.x, alone.v, alone.bandwidth, **alone.keywords, normalize=normalize)
        (found,) = torch.autograd.grad(out, leaf, g)
        assert (found - together[wanted]).abs().max() <= eps * together[wanted].abs().max(), wanted


def assert_a_self_interaction_pulls_as_much_as_it_is_pulled(function: Function, problem: Problem, normalize: str):
    """The output does not change under a translation, so the gradients of x sum to 0 over each cloud."""
    dx = output_and_gradients(function, problem, upstream(problem), normalize=normalize)["x"]
    assert dx.abs().max() > 0.01
    # both directions of a pair are summed apart, each to one rounding for each of the N terms
    assert dx.sum(1).abs().max() < dx.shape[1] * torch.finfo(dx.dtype).eps * dx.abs().sum(1).max()


def assert_half_precision_values_round_once_at_the_end(function: Function, dtype: torch.dtype, normalize: str):
    problem = random_problem(0, 70, dtype=torch.float32)
    halved = replace(problem, v=problem.v.to(dtype))
    g = upstream(halved)
    wide = output_and_gradients(function, replace(problem, v=halved.v.float()), g, normalize=normalize)
    half = output_and_gradients(function, halved, g, normalize=normalize)
    assert half["out"].dtype == half["v"].dtype == dtype
    assert half["x"].dtype == torch.float32
    for name in ("out", "v", "x", "bandwidth"):
        assert torch.equal(half[name], wide[name].to(half[name].dtype)), name


def assert_kernel_normalisation_near_and_beyond_underflow(function: Function, exponent: float):
    x, y, v = torch.zeros(1, 1, 2), torch.tensor([[[0.3, 0.4]]]), torch.tensor([[[[7.0]]]])
    bandwidth = torch.tensor([0.5 / (2 * exponent) ** 0.5])
    for t in (x, y, v, bandwidth):
        t.requires_grad_()
    out = function(x, v, bandwidth, radius=1.0, y=y, normalize="kernel")
    out.sum().backward()
    somebody = float(exponent < 100)  # one source: w v / w or w v times 1 / w, three roundings at most
    assert out.item() == pytest.approx(7.0 * somebody, rel=2 * torch.finfo(torch.float32).eps)
    assert v.grad.item() == pytest.approx(somebody, rel=2 * torch.finfo(torch.float32).eps)
    assert all(t.grad.isfinite().all() for t in (x, y, bandwidth))
