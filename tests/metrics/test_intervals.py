import math
from itertools import combinations

import pytest
import torch

from mfcdm.metrics import one_nearest_neighbour_accuracy, one_nearest_neighbour_interval
from mfcdm.metrics.intervals import _permuted_scores, _wilson
from mfcdm.metrics.two_sample import joint_distances, own_set_fraction
from tests.metrics.clouds import generator, normal


def distances(g, r):
    """d_gg, d_rr and d_gr of points, from differences."""
    return tuple((a[:, None] - b).norm(dim=-1) for a, b in ((g, g), (r, r), (g, r)))


def repeated(draw, num_points, repetitions=200):
    """Intervals of independent repetitions of one experiment."""
    g = generator(7)
    found = []
    for _ in range(repetitions):
        points = distances(*draw(num_points, g))
        found.append(one_nearest_neighbour_interval(*points, num_permutations=200, num_subsamples=300, generator=g))
    return found


def one_law(num_points, g):
    return torch.randn(2, num_points, 3, generator=g, dtype=torch.float64)


def shifted(num_points, g):
    x, y = one_law(num_points, g)
    return x + 1.5 / math.sqrt(3), y  # by one and a half standard deviations


@pytest.fixture(scope="module")
def null():
    return repeated(one_law, 60)


def test_for_one_law_the_interval_holds_the_null_value(null):
    mean = 59 / 119
    assert all(result.null_mean == pytest.approx(mean, rel=1e-15) for result in null)
    # The demand. True coverage is about 95 %; 200 repetitions scatter it by 1.5 %.
    assert 0.92 <= sum(result.low <= mean <= result.high for result in null) / 200 <= 0.98
    assert 0.92 <= sum(result.low <= 0.5 <= result.high for result in null) / 200 <= 0.98


def test_for_one_law_the_score_lies_where_the_null_says(null):
    # 5 % of 200 p-values below 0.05, give or take 3 standard deviations of 1.5 %, and scores of a grid of 1/120
    assert sum(result.p_value <= 0.05 for result in null) / 200 <= 0.05 + 0.046
    assert sum(result.null_low <= result.score <= result.null_high for result in null) / 200 >= 0.95 - 0.046
    # and p-values are not all large either: half of them lie below 0.55 (ties on the grid push them up a little)
    assert 0.35 <= sum(result.p_value <= 0.55 for result in null) / 200 <= 0.65


def test_the_interval_is_as_wide_as_the_score_scatters(null):
    scores = torch.tensor([result.score for result in null], dtype=torch.float64)
    assert float(scores.mean()) == pytest.approx(59 / 119, abs=0.013)  # 3 standard errors of 0.06 / sqrt(200)
    halves = sum((result.high - result.low) / 2 for result in null) / 200
    # 1.96 standard deviations, of which 200 scores know 5 %, three times that either way
    assert 0.85 <= halves / (1.96 * float(scores.std())) <= 1.15


def test_for_two_laws_the_interval_holds_the_mean_score():
    found = repeated(shifted, 60)
    mean = sum(result.score for result in found) / 200
    assert mean > 0.6  # the laws do differ; or nothing new would be tested
    assert 0.92 <= sum(result.low <= mean <= result.high for result in found) / 200 <= 0.985
    assert sum(result.p_value <= 0.05 for result in found) / 200 > 0.7  # and the permutations see it


def test_permutations_alone_give_an_interval_that_holds_the_mean_score():
    for draw in (one_law, shifted):
        g = generator(11)
        found = []
        for _ in range(200):
            points = distances(*draw(60, g))
            found.append(
                one_nearest_neighbour_interval(*points, num_permutations=200, generator=g, design="permutation")
            )
        mean = sum(result.score for result in found) / 200
        assert 0.92 <= sum(result.low <= mean <= result.high for result in found) / 200 <= 0.985


def test_the_noise_floor_at_a_hundred_clouds():
    result = one_nearest_neighbour_interval(*distances(*normal(2, 100, 3)))
    # the standard deviation known for clouds, 4.5 points, and for independent answers 3.5; 1,000 permutations
    spread = (result.null_high - result.null_low) / (2 * 1.96)
    assert 0.037 <= spread <= 0.050


def test_a_bootstrap_would_be_wrong_and_is_not_what_this_is():
    g = generator()
    d_gg, d_rr, d_gr = distances(*normal(2, 80, 3))
    i, j = torch.randint(80, (2, 80), generator=g)  # with replacement: duplicates are each other's neighbours
    naive = one_nearest_neighbour_accuracy(d_gg[i][:, i], d_rr[j][:, j], d_gr[i][:, j])
    result = one_nearest_neighbour_interval(d_gg, d_rr, d_gr)
    assert naive > result.high
    assert result.low < 0.5 < result.high


def test_permutations_have_the_law_of_all_relabellings():
    joint = joint_distances(*distances(*normal(2, 4, 2)))
    every = []
    for kept in combinations(range(8), 4):
        order = torch.tensor([*kept, *(set(range(8)) - set(kept))])
        every.append(own_set_fraction(joint[order][:, order]))
    exact = torch.stack(every)
    assert float(exact.mean()) == pytest.approx(3 / 7, rel=1e-12)
    drawn = _permuted_scores(joint, 20_000, generator())
    assert set(drawn.mul(8).round().tolist()) == set(exact.mul(8).round().tolist())
    # 4 standard errors of a mean and of a standard deviation below 0.25, from 20,000 draws
    assert float(drawn.mean()) == pytest.approx(3 / 7, abs=0.007)
    assert float(drawn.std()) == pytest.approx(float(exact.std(correction=0)), abs=0.005)


def test_extreme_scores_have_a_width():
    apart = distances(normal(30, 3), normal(30, 3, seed=1) + 100)
    result = one_nearest_neighbour_interval(*apart)
    # Wilson's lower end for 60 of 60, 1 / (1 + 1.96^2 / 60), less half a step of 1 / 60
    assert (result.score, result.high) == (1, 1)
    assert result.low == pytest.approx(60 / (60 + 1.959964**2) - 1 / 120, rel=1e-6)
    assert result.p_value == pytest.approx(1 / 1001)  # no permutation is as far
    same = distances(normal(30, 3), normal(30, 3))
    assert one_nearest_neighbour_interval(*same).score == 0


def test_wilson_against_its_equation():
    low, high = _wilson(0.3, 50.0, 0.9)
    z = 1.6448536269514722
    for end in (low, high):  # the ends solve (p - score)^2 = z^2 p (1 - p) / n
        assert (end - 0.3) ** 2 == pytest.approx(z**2 * end * (1 - end) / 50, rel=1e-9)
    assert low < 0.3 < high


def test_draws_are_repeatable_and_the_generators():
    points = distances(*normal(2, 20, 3))
    assert one_nearest_neighbour_interval(*points) == one_nearest_neighbour_interval(*points)
    first = one_nearest_neighbour_interval(*points, generator=generator(1))
    assert first == one_nearest_neighbour_interval(*points, generator=generator(1))
    assert first != one_nearest_neighbour_interval(*points, generator=generator(2))
    assert first.score == one_nearest_neighbour_accuracy(*points)


def test_portions_bound_memory_and_change_nothing_that_matters(monkeypatch):
    points = distances(*normal(2, 20, 3))
    expected = one_nearest_neighbour_interval(*points, num_permutations=3000, num_subsamples=3000)
    monkeypatch.setattr("mfcdm.metrics.intervals.MAX_GATHERED", 2**14)
    found = one_nearest_neighbour_interval(*points, num_permutations=3000, num_subsamples=3000)
    assert found.low == pytest.approx(expected.low, abs=0.02)  # other draws: 3,000 know a variance to 2.6 %
    assert found.null_high == pytest.approx(expected.null_high, abs=0.026)  # one step of the grid of 1/40


def test_more_confidence_is_wider():
    points = distances(*normal(2, 30, 3))
    narrow, wide = (one_nearest_neighbour_interval(*points, confidence=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.score < narrow.high < wide.high
    assert wide.null_low < narrow.null_low < narrow.null_high < wide.null_high


def test_what_makes_no_sense_is_refused():
    points = distances(*normal(2, 5, 3))
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, but is 95"):
        one_nearest_neighbour_interval(*points, confidence=95)
    with pytest.raises(ValueError, match="num_permutations=0"):
        one_nearest_neighbour_interval(*points, num_permutations=0)
    with pytest.raises(ValueError, match="num_subsamples=1"):
        one_nearest_neighbour_interval(*points, num_subsamples=1)
    with pytest.raises(ValueError, match="at least 4 clouds on each side, got 3"):
        one_nearest_neighbour_interval(*distances(*normal(2, 3, 3)))
    with pytest.raises(ValueError, match="equally many generated and reference clouds, got 5 and 4"):
        one_nearest_neighbour_interval(*distances(normal(5, 3), normal(4, 3)))
