import pytest
import torch
from scipy.spatial.distance import cdist

from mfcdm.metrics import (
    Draws,
    coverage,
    coverage_interval,
    matching_interval,
    minimum_matching_distance,
    nearest_earth_movers,
    one_nearest_neighbour_accuracy,
    one_nearest_neighbour_interval,
    pairwise,
)
from mfcdm.metrics.jackknife import labellings
from mfcdm.metrics.nearest import _quantiles, _sketched
from mfcdm.metrics.transport import transport_cost
from tests.metrics.clouds import generator, normal, padded


def shapes(count, num_points, seed=0):
    """Ellipsoids of random axes and places, each with points of its own."""
    g = generator(seed)
    points = torch.nn.functional.normalize(torch.randn(count, num_points, 3, generator=g, dtype=torch.float64), dim=2)
    axes = 0.2 + 0.8 * torch.rand(count, 1, 3, generator=g, dtype=torch.float64)
    return points * axes + 0.2 * torch.randn(count, 1, 3, generator=g, dtype=torch.float64)


def full(g, r, lengths_g=None, lengths_r=None):
    return (
        pairwise(g, g, "emd", lengths_a=lengths_g, lengths_b=lengths_g),
        pairwise(r, r, "emd", lengths_a=lengths_r, lengths_b=lengths_r),
        pairwise(g, r, "emd", lengths_a=lengths_g, lengths_b=lengths_r),
    )


def agree(found, matrices, num_nearest=2):
    """What the pruned matrices promise, bit by bit."""
    for part, whole in zip((found.d_gg, found.d_rr, found.d_gr), matrices, strict=True):
        known = part.isfinite()
        assert torch.equal(part[known], whole[known])
    d_gg, d_rr, d_gr = matrices
    assert minimum_matching_distance(found.d_gr) == minimum_matching_distance(d_gr)
    assert coverage(found.d_gr) == coverage(d_gr)
    for one, other in ((found.d_gr, d_gr), (found.d_gr.T, d_gr.T)):
        count = min(num_nearest, one.shape[1])
        assert torch.equal(one.topk(count, largest=False).values, other.topk(count, largest=False).values)
    if d_gg.shape == d_rr.shape:
        ours = one_nearest_neighbour_accuracy(found.d_gg, found.d_rr, found.d_gr)
        assert ours == one_nearest_neighbour_accuracy(d_gg, d_rr, d_gr)


@pytest.mark.parametrize(
    ("num_generated", "num_reference", "num_points"), [(12, 12, 40), (9, 14, 30), (1, 3, 5), (5, 5, 1)]
)
def test_nearest_distances_are_those_of_the_full_matrices(num_generated, num_reference, num_points):
    g, r = shapes(num_generated, num_points), shapes(num_reference, num_points, seed=1)
    found = nearest_earth_movers(g, r)
    agree(found, full(g, r))
    assert found.num_pairs == (num_generated + num_reference) * (num_generated + num_reference - 1) // 2


def test_at_a_real_size_with_potentials():
    g, r = shapes(6, 600), shapes(6, 600, seed=1)
    found = nearest_earth_movers(g, r, num_nearest=1)
    agree(found, full(g, r), num_nearest=1)
    assert found.share_saved >= 0.5


def test_ties_are_all_found():
    g = shapes(6, 20)
    r = torch.cat([g[:3, torch.randperm(20, generator=generator())], g[:3], g[3:4], g[3:4]])  # copies, and copies twice
    g = torch.cat([g, g[4:6]])
    found = nearest_earth_movers(g, r)
    agree(found, full(g, r))
    assert minimum_matching_distance(found.d_gr) == 0


def test_sets_that_are_one_set_are_recognised_far_from_the_origin():
    g = shapes(7, 15) + 1000.0
    found = nearest_earth_movers(g, g[:, torch.randperm(15, generator=generator())])
    assert one_nearest_neighbour_accuracy(found.d_gg, found.d_rr, found.d_gr) == 0
    assert coverage(found.d_gr) == 1


def test_clouds_of_mixed_cardinality():
    (g, lengths_g), (r, lengths_r) = (
        padded([shapes(1, size, seed=seed + size)[0] for size in (6, 12, 9, 12, 4)]) for seed in (0, 50)
    )
    found = nearest_earth_movers(g, r, lengths_generated=lengths_g, lengths_reference=lengths_r)
    agree(found, full(g, r, lengths_g, lengths_r))


def test_threads_change_neither_distances_nor_the_work(monkeypatch):
    g, r = shapes(10, 30), shapes(10, 30, seed=1)
    one = nearest_earth_movers(g, r)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    three = nearest_earth_movers(g, r)
    assert torch.equal(one.d_gr, three.d_gr)
    assert one.num_solved == three.num_solved


@pytest.mark.parametrize(("num_generated", "num_reference"), [(14, 14), (5, 11)])
@pytest.mark.parametrize("copies", [0, 4])
def test_under_labellings_scores_are_those_of_the_full_matrices(num_generated, num_reference, copies):
    g, r = shapes(num_generated, 30), shapes(num_reference, 30, seed=1)
    g[:copies] = r[:copies]  # ties
    draws = Draws(num_permutations=40)
    labels = labellings(num_generated, num_reference, draws)
    found = nearest_earth_movers(g, r, labellings=labels)
    matrices = full(g, r)
    agree(found, matrices)
    joint, whole = (
        torch.cat([torch.cat([d_gg, d_gr], dim=1), torch.cat([d_gr.T, d_rr], dim=1)])
        for d_gg, d_rr, d_gr in ((found.d_gg, found.d_rr, found.d_gr), matrices)
    )
    assert bool(joint.isinf().any())  # something is saved
    for first in labels:
        pruned, complete = joint[first][:, ~first], whole[first][:, ~first]
        assert minimum_matching_distance(pruned) == minimum_matching_distance(complete)
        assert coverage(pruned) == coverage(complete)
    for interval in (matching_interval, coverage_interval):
        ours = interval(found.d_gr, found.d_gg, found.d_rr, draws, nearest_only=True)
        assert ours == interval(matrices[2], matrices[0], matrices[1], draws)
        assert ours.null_low is not None


def test_labellings_ask_for_a_few_neighbours_more():
    g, r = shapes(40, 16), shapes(40, 16, seed=1)
    few = nearest_earth_movers(g, r).num_solved
    found = nearest_earth_movers(g, r, labellings=labellings(40, 40, Draws(num_permutations=200)))
    # A cloud's k nearest have its own label with probability 2^-k: 200 labellings of 80 clouds ask for 14 of the 79
    # others at most, and pairs are often asked for by both.
    assert few < found.num_solved < 0.5 * found.num_pairs


def test_labellings_of_one_label_ask_for_nothing():
    g, r = shapes(6, 10), shapes(6, 10, seed=1)
    one = torch.stack([torch.ones(12, dtype=torch.bool), torch.zeros(12, dtype=torch.bool)])
    assert nearest_earth_movers(g, r, labellings=one).num_solved == nearest_earth_movers(g, r).num_solved


def test_labellings_that_do_not_fit_are_refused():
    g = shapes(3, 4)
    with pytest.raises(ValueError, match=r"labellings must be \(P, 6\) bool, .* but are \(2, 5\) torch.bool"):
        nearest_earth_movers(g, g, labellings=torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"but are \(2, 6\) torch.int64"):
        nearest_earth_movers(g, g, labellings=torch.ones(2, 6, dtype=torch.int64))


def test_sketches_are_lower_bounds_for_any_sizes():
    clouds = [shapes(1, size, seed=size)[0].numpy() for size in (3, 50, 128, 200)]
    bound, guess = _sketched(clouds)
    for i, x in enumerate(clouds):
        for j, y in enumerate(clouds):
            assert bound[i, j] <= transport_cost(x, y) + 1e-12
    assert (bound >= cdist(*[[cloud.mean(axis=0) for cloud in clouds]] * 2) - 1e-12).all()
    assert (guess.argmin(axis=1) == range(4)).all()


def test_quantile_means_are_exact_for_whole_bins():
    x = normal(256, 2).numpy()
    expected = torch.from_numpy(x).sort(dim=0).values.view(128, 2, 2).mean(dim=1).T.numpy()
    torch.testing.assert_close(_quantiles(x), expected, rtol=1e-12, atol=1e-14)
    # a single point is the quantile function everywhere
    torch.testing.assert_close(_quantiles(x[:1]), x[:1].T.repeat(128, axis=1), rtol=1e-12, atol=0)


def test_progress_rises_to_all_pairs():
    seen = []
    g, r = shapes(6, 10), shapes(6, 10, seed=1)
    nearest_earth_movers(g, r, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (66, 66)


def test_intervals_from_nearest_distances_need_permutations():
    found = nearest_earth_movers(shapes(20, 12), shapes(20, 12, seed=1))
    points = found.d_gg, found.d_rr, found.d_gr
    assert bool(found.d_gg.isinf().any())
    with pytest.raises(ValueError, match="subsampling needs all neighbours"):
        one_nearest_neighbour_interval(*points)
    result = one_nearest_neighbour_interval(*points, design="permutation")
    assert result.low < result.score < result.high
    whole = full(shapes(20, 12), shapes(20, 12, seed=1))
    assert result == one_nearest_neighbour_interval(*whole, design="permutation")


def test_unfit_sets_are_refused():
    g = shapes(3, 4)
    with pytest.raises(ValueError, match="at least one cloud, got 0 and 3"):
        nearest_earth_movers(g[:0], g)
    with pytest.raises(ValueError, match="num_nearest must be >= 1, but is 0"):
        nearest_earth_movers(g, g, num_nearest=0)
    with pytest.raises(ValueError, match="cloud 1 of reference has NaN"):
        nearest_earth_movers(g, g.index_fill(0, torch.tensor([1]), torch.nan))
    with pytest.raises(ValueError, match="one dimension, but have 3 and 2"):
        nearest_earth_movers(g, g[..., :2])
