import numpy as np
import pytest
import torch

from mfcdm.metrics import (
    Draws,
    coverage,
    coverage_interval,
    divergence_interval,
    jensen_shannon_divergence,
    matching_interval,
    minimum_matching_distance,
)
from mfcdm.metrics.jackknife import _interval
from mfcdm.metrics.occupancy import divergence, mean_occupancy, occupancies
from tests.metrics.clouds import generator, normal

Z = 1.959963984540054


def matrices(g, r):
    return tuple((a[:, None] - b).norm(dim=-1) for a, b in ((g, r), (g, g), (r, r)))


def without_each(score, d_gr):
    """The definition: the score of every matrix that lacks one row or one column."""
    rows = [score(torch.cat([d_gr[:i], d_gr[i + 1 :]])) for i in range(len(d_gr))]
    columns = [score(torch.cat([d_gr[:, :i], d_gr[:, i + 1 :]], dim=1)) for i in range(d_gr.shape[1])]
    return [np.array(rows), np.array(columns)]


@pytest.mark.parametrize(
    ("score", "interval"), [(minimum_matching_distance, matching_interval), (coverage, coverage_interval)]
)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("num_generated", "num_reference"), [(9, 9), (4, 7), (2, 2)])
def test_leaving_out_each_cloud_is_leaving_it_out(score, interval, ties, num_generated, num_reference):
    d_gr = matrices(normal(num_generated, 2), normal(num_reference, 2, seed=1))[0]
    if ties:
        d_gr = (2 * d_gr).round() / 2
    expected = _interval(score(d_gr), without_each(score, d_gr), [], np.inf if score is not coverage else 1.0, Draws())
    found = interval(d_gr)
    assert found.score == score(d_gr)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)


def test_the_variance_is_that_of_a_mean():
    values = normal(50).abs().numpy()
    leave_one_out = (values.sum() - values) / 49
    found = _interval(values.mean(), [leave_one_out], [], np.inf, Draws())
    assert found.high - found.score == pytest.approx(Z * values.std(ddof=1) / 50**0.5, rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 1.5])
@pytest.mark.parametrize("interval", [matching_interval, coverage_interval])
def test_intervals_hold_the_mean_score(interval, shift):
    g = generator(3)
    found = []
    for _ in range(200):
        a, b = torch.randn(2, 40, 2, generator=g, dtype=torch.float64)
        found.append(interval((a[:, None] + shift - b).norm(dim=-1)))
    mean = sum(result.score for result in found) / 200
    scatter = np.std([result.score for result in found])
    # Efron and Stein: not too narrow, on average; 200 repetitions scatter coverage by 1.5 % and a width by 5 %.
    assert sum(result.low <= mean <= result.high for result in found) / 200 >= 0.95 - 0.035
    assert np.mean([result.high - result.low for result in found]) / (2 * Z) >= 0.9 * scatter
    assert np.mean([result.high - result.low for result in found]) / (2 * Z) <= 2 * scatter  # and not useless


def test_the_null_range_is_where_scores_of_one_law_lie():
    g = generator(5)
    inside = {matching_interval: 0, coverage_interval: 0}
    for _ in range(100):
        d_gr, d_gg, d_rr = matrices(*torch.randn(2, 20, 2, generator=g, dtype=torch.float64))
        for interval in inside:
            found = interval(d_gr, d_gg, d_rr, Draws(num_permutations=100))
            inside[interval] += found.null_low <= found.score <= found.null_high
    # 95 %, less 3 standard deviations of 2.2 %, and 100 permutations know a tail of 2.5 % to 1.6 %
    assert min(inside.values()) >= 85


def test_a_bad_generator_lies_outside_the_null_range():
    d_gr, d_gg, d_rr = matrices(normal(20, 2) * 0.05, normal(20, 2, seed=1))
    assert matching_interval(d_gr, d_gg, d_rr).score > matching_interval(d_gr, d_gg, d_rr).null_high
    assert coverage_interval(d_gr, d_gg, d_rr).score < coverage_interval(d_gr, d_gg, d_rr).null_low


def test_missing_distances_give_no_null_range():
    d_gr, d_gg, d_rr = matrices(normal(8, 2), normal(8, 2, seed=1))
    assert matching_interval(d_gr).null_low is None
    d_gg[0, 1] = torch.inf
    assert coverage_interval(d_gr, d_gg, d_rr).null_high is None


def occupied(seed, count=6, scale=0.3):
    return (scale * normal(count, 40, 3, seed=seed)).clamp(-1, 1)


def test_divergence_by_definition():
    a, b = occupied(0), occupied(1, count=5, scale=0.4)
    p, q = occupancies(a, b, 5, None)
    found = divergence_interval(p, q, Draws(num_permutations=50))
    assert found.score == pytest.approx(jensen_shannon_divergence(a, b, 5), rel=1e-12)

    def without(clouds, other):
        return np.array(
            [jensen_shannon_divergence(torch.cat([clouds[:i], clouds[i + 1 :]]), other, 5) for i in range(len(clouds))]
        )

    expected = _interval(found.score, [without(a, b), without(b, a)], [], 1.0, Draws())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    # the null: relabelled clouds, drawn anew by the same seed
    order = [torch.randperm(11, generator=generator(0))[:6]]
    z = torch.zeros(11, dtype=torch.bool).index_fill(0, order[0], True)
    both = torch.cat([a, b])
    first = jensen_shannon_divergence(both[z], both[~z], 5)
    once = divergence_interval(p, q, Draws(num_permutations=1))
    assert (once.null_low, once.null_high) == pytest.approx((first, first), rel=1e-9)


def test_all_space_outside_the_box_is_one_cell():
    inside, outside = torch.zeros(1, 4, 3), torch.zeros(1, 4, 3)
    outside[0, :2] = torch.tensor([5.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="cloud 0 of b has 2 points outside the box"):
        jensen_shannon_divergence(inside, outside, 3, bounds=(-1, 1))
    found = jensen_shannon_divergence(inside, outside, 3, outside="cell")
    p, q = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    assert found == pytest.approx(float(divergence(p, q)), rel=1e-12)
    # wherever it is outside
    moved = outside.clone()
    moved[0, :2] = torch.tensor([0.0, -1e6, 3.0])
    assert jensen_shannon_divergence(outside, moved, 3, outside="cell") == 0
    rows, _ = occupancies(outside, inside, 3, None, outside="cell")
    assert mean_occupancy(rows)[-1] == 0.5


def test_what_makes_no_sense_is_refused():
    d_gr = normal(3, 3).abs()
    with pytest.raises(ValueError, match="at least 2 clouds on each side, got 1 and 3"):
        matching_interval(d_gr[:1])
    with pytest.raises(ValueError, match="at least 2 clouds on each side, got 1 and 5"):
        divergence_interval(*occupancies(occupied(0, 1), occupied(1, 5), 3, None))
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, but is 95"):
        Draws(confidence=95)
    with pytest.raises(ValueError, match="num_permutations must be >= 1, but is 0"):
        Draws(num_permutations=0)
    with pytest.raises(ValueError, match=r"d_gr \(3, 3\) does not fit"):
        coverage_interval(d_gr, normal(2, 2).abs(), normal(3, 3).abs())
