from dataclasses import replace

import pytest
import torch

from mfcdm.interaction import ball_convolution, tiled
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
@pytest.mark.parametrize("num_sources", [None, 700])
def test_it_is_as_exact_on_clouds_of_many_tiles(normalize, num_sources):
    problem = random_problem(0, 1000, num_sources, num_clouds=1, radius=0.3, dtype=torch.float32)
    geometry = build(problem)
    assert len(geometry.near_tiles) < 0.9 * geometry.query_tiles * geometry.source_tiles  # something is skipped
    assert_as_exact_as_dense(ball_convolution_tiled, problem, normalize)


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


@pytest.mark.parametrize("num_sources", [None, 90])
def test_the_same_call_gives_the_same_bits_with_a_shared_geometry_too(num_sources):
    problem = random_problem(0, 200, num_sources, radius=0.5, dtype=torch.float32)
    g, geometry = upstream(problem), build(problem)
    first = output_and_gradients(ball_convolution_tiled, problem, g)
    for shared in (geometry, geometry, None):
        again = output_and_gradients(ball_convolution_tiled, problem, g, geometry=shared)
        assert all(torch.equal(again[name], value) for name, value in first.items())


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
