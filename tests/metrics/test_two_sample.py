import pytest
import torch

from mfcdm.metrics import coverage, minimum_matching_distance, one_nearest_neighbour_accuracy, pairwise
from tests.metrics.clouds import generator, normal


def matrix(rows):
    return torch.tensor(rows, dtype=torch.float64)


def on_a_line(generated, reference):
    """d_gg, d_rr and d_gr of numbers."""
    g, r = matrix(generated), matrix(reference)
    return (g[:, None] - g).abs(), (r[:, None] - r).abs(), (g[:, None] - r).abs()


def test_hand_computed_matching_and_coverage():
    d_gr = matrix([[1.0, 2.0, 9.0], [0.5, 3.0, 8.0]])  # both generated clouds are nearest to the first reference
    assert minimum_matching_distance(d_gr) == pytest.approx((0.5 + 2 + 8) / 3, rel=1e-15)
    assert coverage(d_gr) == pytest.approx(1 / 3, rel=1e-15)


def test_references_equally_near_are_both_covered():
    assert coverage(matrix([[1.0, 1.0, 2.0, 3.0]])) == 0.5


def test_hand_computed_neighbours():
    # 0 -> 1 own, 1 -> 0 own, 10 -> 11.5 other; 2.5 -> 3 own, 3 -> 2.5 own, 11.5 -> 10 other
    assert one_nearest_neighbour_accuracy(*on_a_line([0, 1, 10], [2.5, 3, 11.5])) == pytest.approx(4 / 6, rel=1e-15)


def test_ties_count_by_their_share():
    # 0 -> 1 own, 1 -> 0 or 2: 1/2, 10 -> 11 other; 2 -> 1 or 3: 1/2, 3 -> 2 own, 11 -> 10 other
    assert one_nearest_neighbour_accuracy(*on_a_line([0, 1, 10], [2, 3, 11])) == pytest.approx(3 / 6, rel=1e-15)
    # all at one place: of 2n - 1 others n - 1 are one's own, which is the null mean
    zero = torch.zeros(5, 5)
    assert one_nearest_neighbour_accuracy(zero, zero, zero) == pytest.approx(4 / 9, rel=1e-15)


@pytest.mark.parametrize("metric", ["cd", "emd"])
def test_identical_sets(metric):
    a = normal(6, 7, 3).float()
    shuffled = a[:, torch.randperm(7, generator=generator())]
    d_gg, d_rr, d_gr = pairwise(a, a, metric), pairwise(shuffled, shuffled, metric), pairwise(a, shuffled, metric)
    assert minimum_matching_distance(d_gr) == 0
    assert coverage(d_gr) == 1
    assert one_nearest_neighbour_accuracy(d_gg, d_rr, d_gr) == 0


def test_a_collapsed_generator_is_found_out():
    g, r = torch.zeros(6), normal(6).abs() + 1
    d_gg, d_rr, d_gr = on_a_line(g.tolist(), r.tolist())
    assert coverage(d_gr) == pytest.approx(1 / 6, rel=1e-15)
    assert one_nearest_neighbour_accuracy(d_gg, d_rr, d_gr + 10) == 1


def test_order_does_not_matter_and_the_diagonal_is_not_read():
    g, r = normal(9, 2), normal(9, 2, seed=1)
    d_gg, d_rr, d_gr = torch.cdist(g, g), torch.cdist(r, r), torch.cdist(g, r)
    order = torch.randperm(9, generator=generator())
    score = one_nearest_neighbour_accuracy(d_gg, d_rr, d_gr)
    assert one_nearest_neighbour_accuracy(d_gg[order][:, order], d_rr, d_gr[order]) == score
    assert one_nearest_neighbour_accuracy(d_rr, d_gg, d_gr.T) == score
    marked = d_gg.clone().fill_diagonal_(-7)
    assert one_nearest_neighbour_accuracy(marked, d_rr, d_gr) == score


def test_one_cloud_on_each_side():
    one = torch.ones(1, 1)
    assert (minimum_matching_distance(one), coverage(one), one_nearest_neighbour_accuracy(one, one, one)) == (1, 1, 0)


def test_matching_and_coverage_take_sets_of_different_size():
    d_gr = normal(4, 7).abs()
    assert minimum_matching_distance(d_gr) == pytest.approx(float(d_gr.min(dim=0).values.mean()), rel=1e-15)
    assert coverage(d_gr) == len(set(d_gr.argmin(dim=1).tolist())) / 7


def test_unfit_matrices_are_refused():
    square, wide = torch.rand(3, 3, generator=generator()), torch.rand(3, 4, generator=generator())
    with pytest.raises(ValueError, match="equally many generated and reference clouds, got 3 and 4"):
        one_nearest_neighbour_accuracy(square, torch.rand(4, 4, generator=generator()), wide)
    with pytest.raises(ValueError, match=r"d_rr must be \(3, 3\) like d_gr, but has shape \(3, 4\)"):
        one_nearest_neighbour_accuracy(square, wide, square)
    for score in (minimum_matching_distance, coverage):
        with pytest.raises(ValueError, match="d_gr holds 1 distances that are NaN"):
            score(matrix([[1.0, torch.nan]]))
        with pytest.raises(ValueError, match="d_gr must be a matrix"):
            score(torch.zeros(0, 3))
        with pytest.raises(ValueError, match="d_gr must be a matrix"):
            score(torch.zeros(3))
