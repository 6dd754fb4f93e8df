import pytest
import torch

from mfcdm.metrics import chamfer_distance, pairwise
from mfcdm.metrics.chamfer import _nearest_by_differences, _nearest_by_tree, squared_distances
from tests.metrics.clouds import chamfer_by_definition, generator, normal, padded

EXACT = {"rtol": 1e-12, "atol": 0.0}  # float64 sums of at most 100 terms in another order


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
@pytest.mark.parametrize(("num_x", "num_y"), [(1, 1), (1, 6), (7, 7), (9, 4)])
def test_it_is_its_definition(num_x, num_y, dim):
    x, y = normal(3, num_x, dim), normal(3, num_y, dim, seed=1)
    expected = [chamfer_by_definition(a, b) for a, b in zip(x, y, strict=True)]
    torch.testing.assert_close(chamfer_distance(x, y), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_two_hand_computed_clouds():
    x = torch.tensor([[[0.0], [2.0]]])
    y = torch.tensor([[[1.0], [2.0], [5.0]]])
    # x to y: 1, 0; y to x: 1, 0, 9
    assert float(chamfer_distance(x, y)) == pytest.approx(1 / 2 + 10 / 3, rel=1e-6)


def test_a_translated_grid_moves_by_twice_its_square():
    axis = torch.arange(5, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis, axis)[None]
    shift = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)  # less than half a cell: every point's copy is nearest
    assert float(chamfer_distance(x, x + shift)) == pytest.approx(2 * 0.14, rel=1e-12)


def test_far_apart_it_is_the_squared_gap():
    x, y = normal(1, 50, 3), normal(1, 60, 3, seed=1)
    y[..., 0] += 1e6  # the clouds' own spread, a few units, is 1e-5 of the gap
    assert float(chamfer_distance(x, y)) == pytest.approx(2e12, rel=1e-4)


def test_identical_clouds_in_another_order_are_at_exactly_zero():
    x = normal(2, 33, 3).float()
    assert torch.equal(chamfer_distance(x, x[:, torch.randperm(33, generator=generator())]), torch.zeros(2))


def test_it_ignores_order_and_is_symmetric():
    x, y = normal(2, 20, 3), normal(2, 30, 3, seed=1)
    expected = chamfer_distance(x, y)
    order = torch.randperm(20, generator=generator())
    torch.testing.assert_close(chamfer_distance(x[:, order], y), expected, **EXACT)
    torch.testing.assert_close(chamfer_distance(y, x), expected, **EXACT)


def test_padding_never_matters():
    left = [normal(n, 3, seed=n) for n in (4, 9, 1)]
    right = [normal(n, 3, seed=10 + n) for n in (7, 2, 5)]
    (x, lengths_x), (y, lengths_y) = padded(left), padded(right)
    expected = torch.cat([chamfer_distance(a[None], b[None]) for a, b in zip(left, right, strict=True)])
    assert torch.equal(chamfer_distance(x, y, lengths_x, lengths_y), expected)


def test_float32_far_from_the_origin_keeps_its_digits():
    x, y = (1000 + 0.1 * normal(1, 500, 3)).float().split(250, dim=1)
    # Against the same coordinates in float64: differences of near coordinates are exact in float32, squares and sums
    # round at 6e-8 a step. |x|^2 + |y|^2 - 2xy would be wrong by 0.1 to 0.5 where the distance is 0.001.
    assert float(chamfer_distance(x, y)) == pytest.approx(float(chamfer_distance(x.double(), y.double())), rel=1e-6)


def test_half_precision_is_computed_in_float32():
    x, y = normal(1, 40, 3).half(), normal(1, 40, 3, seed=1).half()
    assert chamfer_distance(x, y).dtype == torch.float32
    assert torch.equal(chamfer_distance(x, y), chamfer_distance(x.float(), y.float()))


def test_the_gradient_is_that_of_the_definition():
    x, y = normal(1, 6, 2).requires_grad_(), normal(1, 5, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(chamfer_distance, (x, y))


def test_all_differences_find_the_same_neighbours_as_the_tree(monkeypatch):
    monkeypatch.setattr("mfcdm.metrics.chamfer.MAX_DIFFERENCES", 150)  # blocks of 3 rows
    x, y = normal(40, 3), normal(50, 3, seed=1)
    assert torch.equal(_nearest_by_differences(x, y), _nearest_by_tree(x, y))
    expected = (x[:, None] - y[None]).square().sum(-1)
    torch.testing.assert_close(squared_distances(x, y), expected, **EXACT)


def test_many_queries_use_threads_with_the_same_answer(monkeypatch):
    x, y = normal(1, 300, 3), normal(1, 200, 3, seed=1)
    expected = chamfer_distance(x, y)
    monkeypatch.setattr("mfcdm.metrics.chamfer.QUERIES_WORTH_THREADS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.equal(chamfer_distance(x, y), expected)


def test_an_empty_batch_has_no_distances():
    assert chamfer_distance(torch.zeros(0, 4, 3), torch.zeros(0, 5, 3)).shape == (0,)


NAN = torch.full((1, 4, 3), torch.nan)
CLOUD = torch.zeros(1, 4, 3)


@pytest.mark.parametrize("distance", [chamfer_distance, pairwise])
@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (CLOUD, torch.zeros(1, 4, 2), "one dimension, but have 3 and 2"),
        (CLOUD[0], CLOUD, r"must be \(B, N, D\)"),
        (CLOUD.long(), CLOUD, "floating-point"),
        (CLOUD, NAN, "cloud 0 of [yb] has NaN"),
        (CLOUD / 0, CLOUD, "cloud 0 of [xa] has NaN"),
        (torch.zeros(1, 0, 3), CLOUD, "must own 1 to 0 points, but owns 0"),
    ],
)
def test_unfit_clouds_are_refused(distance, x, y, sentence):
    with pytest.raises(ValueError, match=sentence):
        distance(x, y)


def test_unfit_batches_and_lengths_are_refused():
    with pytest.raises(ValueError, match="equally many clouds, but hold 1 and 2"):
        chamfer_distance(CLOUD, torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match="cloud 0 of x must own 1 to 4 points, but owns 5"):
        chamfer_distance(CLOUD, CLOUD, lengths_x=torch.tensor([5]))
    with pytest.raises(ValueError, match="cloud 0 of y must own 1 to 4 points, but owns 0"):
        chamfer_distance(CLOUD, CLOUD, lengths_y=torch.tensor([0]))
    with pytest.raises(ValueError, match="lengths of x"):
        chamfer_distance(CLOUD, CLOUD, lengths_x=torch.tensor([4, 4]))
    with pytest.raises(ValueError, match="lengths of x"):
        chamfer_distance(CLOUD, CLOUD, lengths_x=torch.tensor([4.0]))
