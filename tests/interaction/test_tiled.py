from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mfcdm.interaction import ball_convolution, tiled
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


def convolve(problem, normalize="mean", **keywords):
    arguments = {**problem.keywords, **keywords}
    return ball_convolution_tiled(problem.x, problem.v, problem.bandwidth, **arguments, normalize=normalize)


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


SIZES = st.sampled_from([1, 2, 17, 31, 32, 33, 64, 129])


@settings(max_examples=200, deadline=None)
@given(
    st.builds(
        random_problem,
        seed=st.integers(0, 10**6),
        num_queries=SIZES,
        num_sources=st.none() | SIZES,
        num_clouds=st.integers(1, 3),
        dim=st.sampled_from([1, 2, 3]),
        num_heads=st.sampled_from([1, 2, 3]),
        num_channels=st.sampled_from([1, 4, 5]),
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
    assert_as_exact_as_dense(ball_convolution_tiled, problem, normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 700])
def test_it_is_as_exact_on_clouds_of_many_tiles(normalize, num_sources):
    problem = random_problem(0, 1000, num_sources, num_clouds=1, radius=0.3, dtype=torch.float32)
    geometry = build(problem)
    assert len(geometry.near_tiles) < 0.9 * geometry.query_tiles * geometry.source_tiles  # something is skipped
    assert_as_exact_as_dense(ball_convolution_tiled, problem, normalize)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 70])
@pytest.mark.parametrize("function", [ball_convolution_reference, ball_convolution_tiled])
@pytest.mark.parametrize("padding", [torch.nan, torch.inf, 1e30])
def test_padding_never_matters(normalize, num_sources, function, padding):
    problem = random_problem(4, 80, num_sources, num_clouds=3, padded=True, dtype=torch.float32)
    g = upstream(problem)
    query_padding = torch.arange(80) >= problem.lengths[:, None]
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


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_permuting_the_particles_permutes_the_outputs_and_gradients(normalize):
    problem = random_problem(0, 150, radius=0.8)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(1))
    permuted = replace(problem, x=problem.x[:, order], v=problem.v[:, :, order])
    g = upstream(problem)
    before = output_and_gradients(ball_convolution_tiled, problem, g, normalize=normalize)
    after = output_and_gradients(ball_convolution_tiled, permuted, g[:, :, order], normalize=normalize)
    # float64; equal points of the curve's cells may change places, so sums of 150 terms of order 1 are reordered
    close = {"rtol": 0, "atol": 1e-11}
    torch.testing.assert_close(after["out"], before["out"][:, :, order], **close)
    torch.testing.assert_close(after["v"], before["v"][:, :, order], **close)
    torch.testing.assert_close(after["x"], before["x"][:, order], **close)
    torch.testing.assert_close(after["bandwidth"], before["bandwidth"], **close)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_a_self_interaction_pulls_as_much_as_it_is_pulled(normalize):
    """The output does not change under a translation, so the gradients of x sum to 0 over each cloud."""
    problem = random_problem(0, 100, radius=0.8)
    dx = output_and_gradients(ball_convolution_tiled, problem, upstream(problem), normalize=normalize)["x"]
    assert dx.abs().max() > 0.01
    assert dx.sum(1).abs().max() < 100 * torch.finfo(torch.float64).eps * dx.abs().sum(1).max()


@pytest.mark.parametrize("num_sources", [None, 90])
def test_the_same_call_gives_the_same_bits_with_a_shared_geometry_too(num_sources):
    problem = random_problem(0, 200, num_sources, radius=0.5, dtype=torch.float32)
    g, geometry = upstream(problem), build(problem)
    first = output_and_gradients(ball_convolution_tiled, problem, g)
    for shared in (geometry, geometry, None):
        again = output_and_gradients(ball_convolution_tiled, problem, g, geometry=shared)
        assert all(torch.equal(again[name], value) for name, value in first.items())


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("num_sources", [None, 90])
@pytest.mark.parametrize("wanted", ["x", "v", "bandwidth", "y"])
def test_each_gradient_alone_is_the_one_in_company(normalize, num_sources, wanted):
    problem = random_problem(0, 100, num_sources, radius=0.9, padded=True)
    if getattr(problem, wanted) is None:
        return
    g = upstream(problem)
    together = output_and_gradients(ball_convolution_tiled, problem, g, normalize=normalize)[wanted]
    leaf = getattr(problem, wanted).clone().requires_grad_()
    (alone,) = torch.autograd.grad(convolve(replace(problem, **{wanted: leaf}), normalize), leaf, g)
    # float64 sums of about 100 terms of order 1, in another association
    torch.testing.assert_close(alone, together, rtol=1e-11, atol=1e-11)


def test_positions_that_need_no_gradient_cost_none(monkeypatch):
    asked, gradient_sums = [], tiled._gradient_sums

    def spy(*arguments, **wanted):
        asked.append(wanted)
        return gradient_sums(*arguments, **wanted)

    monkeypatch.setattr(tiled, "_gradient_sums", spy)
    for num_sources in (None, 50):
        problem = random_problem(0, 40, num_sources)
        convolve(replace(problem, v=problem.v.requires_grad_())).sum().backward()
        assert asked.pop() == {"positions": False, "carried": 3, "sharpness": False}
        assert not asked


@pytest.mark.parametrize("radius", [0.3, 100.0])
def test_blocks_visit_every_near_pair_once_within_the_memory_bound(monkeypatch, radius):
    problem = random_problem(0, 500, 700, radius=radius, padded=True)
    geometry = build(problem)
    empty = len(geometry.source_low)
    pair_bytes = 4 * geometry.tile_size**2
    for block_bytes in (1, 7 * pair_bytes, 100 * pair_bytes):
        monkeypatch.setitem(tiled.BLOCK_BYTES, "cpu", block_bytes)
        visited = []
        for tiles, near in tiled._blocks(geometry, 4):
            assert near.numel() * pair_bytes <= max(block_bytes, pair_bytes)
            assert near.numel() <= 2 * (near != empty).sum() + 1  # not filled up for the most part
            visited += [
                (tile, source)
                for tile, sources in zip(tiles.tolist(), near.tolist(), strict=True)
                for source in sources
                if source != empty
            ]
        query = torch.repeat_interleave(torch.arange(len(geometry.near_offsets) - 1), geometry.near_offsets.diff())
        assert sorted(visited) == list(zip(query.tolist(), geometry.near_tiles.tolist(), strict=True))


@pytest.mark.parametrize("num_sources", [None, 200])
def test_the_size_of_the_blocks_changes_rounding_only(monkeypatch, num_sources):
    problem = random_problem(0, 150, num_sources, radius=1.0)
    g = upstream(problem)
    whole = output_and_gradients(ball_convolution_tiled, problem, g, normalize="kernel")
    monkeypatch.setitem(tiled.BLOCK_BYTES, "cpu", 1)
    cut = output_and_gradients(ball_convolution_tiled, problem, g, normalize="kernel")
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-11, atol=1e-11)  # float64, reordered sums of 200 terms


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_half_precision_values_round_once_at_the_end(dtype, normalize):
    problem = random_problem(0, 70, dtype=torch.float32)
    halved = replace(problem, v=problem.v.to(dtype))
    g = upstream(halved)
    wide = output_and_gradients(ball_convolution_tiled, replace(problem, v=halved.v.float()), g, normalize=normalize)
    half = output_and_gradients(ball_convolution_tiled, halved, g, normalize=normalize)
    assert half["out"].dtype == half["v"].dtype == dtype
    assert half["x"].dtype == torch.float32
    for name in ("out", "v", "x", "bandwidth"):
        assert torch.equal(half[name], wide[name].to(half[name].dtype)), name


@pytest.mark.parametrize("exponent", [50.0, 85.0, 1e3])
def test_kernel_normalisation_near_and_beyond_underflow(exponent):
    x, y, v = torch.zeros(1, 1, 2), torch.tensor([[[0.3, 0.4]]]), torch.tensor([[[[7.0]]]])
    bandwidth = torch.tensor([0.5 / (2 * exponent) ** 0.5])
    for t in (x, y, v, bandwidth):
        t.requires_grad_()
    out = ball_convolution_tiled(x, v, bandwidth, radius=1.0, y=y, normalize="kernel")
    out.sum().backward()
    somebody = float(exponent < 100)  # one source: w v / w, two roundings
    assert out.item() == pytest.approx(7.0 * somebody, rel=2 * torch.finfo(torch.float32).eps)
    assert v.grad.item() == pytest.approx(somebody, rel=2 * torch.finfo(torch.float32).eps)
    assert all(t.grad.isfinite().all() for t in (x, y, bandwidth))


def test_a_backward_pass_under_autocast_keeps_its_precision():
    problem = random_problem(0, 64, dtype=torch.float32)
    g = upstream(problem)
    wide = output_and_gradients(ball_convolution, problem, g, backend="tiled")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = output_and_gradients(ball_convolution, problem, g, backend="tiled")
    for name in ("out", "v", "x"):
        assert torch.equal(cast[name], wide[name]), name


def test_a_point_that_diverged_stays_visible():
    problem = random_problem(0, 100, radius=0.5)
    problem.x[1, 3, 0] = torch.nan
    for normalize in NORMALIZATIONS:
        out = convolve(problem, normalize)
        assert out[1].isnan().all()
        assert out[0].isfinite().all()
