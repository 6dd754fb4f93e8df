import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from mfcdm.metrics import earth_movers_distance, pairwise, sinkhorn_emd
from mfcdm.metrics.duals import rising_bounds, sinkhorn_bracket, tightest
from mfcdm.metrics.transport import MAX_ASSIGNED, WORTH_POTENTIALS, optimal_plan, transport_cost
from tests.metrics.clouds import normal, padded


def surfaces(num_x, num_y, shift=0.0, seed=0):
    """Two ellipsoids of unequal axes: clouds on surfaces, as shapes are."""
    x, y = (torch.nn.functional.normalize(normal(n, 3, seed=seed + s), dim=1) for s, n in enumerate((num_x, num_y)))
    return (x * torch.tensor([1.0, 0.4, 0.2])).numpy(), (y * torch.tensor([0.8, 0.5, 0.3]) + shift).numpy()


def chamfer_bound(cost):
    return cost.min(axis=0).mean()


CASES = [(600, 600, 0.0), (600, 600, 50.0), (96, 64, 0.0), (7, 1, 0.0)]


@pytest.mark.parametrize(("num_x", "num_y", "shift"), CASES)
def test_bounds_rise_from_the_chamfer_towards_the_exact_distance(num_x, num_y, shift):
    x, y = surfaces(num_x, num_y, shift)
    cost, exact = cdist(x, y), transport_cost(x, y)
    bounds = [bound for bound, _, _ in rising_bounds(cost)]
    assert bounds == sorted(bounds)
    assert bounds[0] >= chamfer_bound(cost) - 3e-6 * cost.max()  # what is taken off for float32's rounding
    assert bounds[-1] <= exact
    assert bounds[-1] >= 0.97 * exact  # a percent or two, said the docstring; a bound of 0 would be no bound


@pytest.mark.parametrize(("num_x", "num_y", "shift"), CASES)
def test_potentials_are_feasible(num_x, num_y, shift):
    cost = cdist(*surfaces(num_x, num_y, shift))
    for _, u, v in rising_bounds(cost):
        # float32: 6e-8 for every one of three roundings
        assert (cost - u[:, None] - v).min() >= -3e-7 * (cost.max() + np.abs(v).max())
    u, v = tightest(cost)
    assert (cost - u[:, None] - v).min() >= -1e-14 * cost.max()


def test_potentials_change_no_optimum(monkeypatch):
    for seed in range(3):
        x, y = surfaces(WORTH_POTENTIALS, WORTH_POTENTIALS, seed=10 * seed)
        cost = cdist(x, y)
        i, j = linear_sum_assignment(cost)
        assert transport_cost(x, y) == pytest.approx(cost[i, j].mean(), rel=1e-12)
    # and copies of points, where sizes divide
    monkeypatch.setattr("mfcdm.metrics.transport.WORTH_POTENTIALS", 10**9)
    cold = transport_cost(x, y[: WORTH_POTENTIALS // 2])
    monkeypatch.undo()
    assert transport_cost(x, y[: WORTH_POTENTIALS // 2]) == pytest.approx(cold, rel=1e-12)


def test_known_costs_and_potentials_give_the_same_plan():
    x, y = surfaces(600, 600)
    cost = cdist(x, y)
    *_, (_, u, _) = rising_bounds(cost)
    for one, other in zip(optimal_plan(x, y), optimal_plan(x, y, cost, u), strict=True):
        np.testing.assert_array_equal(one, other)


def test_points_that_coincide_have_bounds_of_zero():
    cost = np.zeros((5, 4))
    assert [bound for bound, _, _ in rising_bounds(cost)] == [0.0]
    assert sinkhorn_bracket(cost) == (0.0, 0.0)


@pytest.mark.parametrize(("num_x", "num_y"), [(300, 300), (120, 80), (5, 1)])
def test_the_bracket_holds_the_exact_distance_and_is_narrow(num_x, num_y):
    x, y = (torch.from_numpy(cloud)[None] for cloud in surfaces(num_x, num_y))
    lower, upper = sinkhorn_emd(x, y)
    exact = earth_movers_distance(x, y)
    assert bool((lower <= exact).all() & (exact <= upper * (1 + 1e-12)).all())
    assert float(upper) <= 1.05 * float(lower)  # measured: 3.2, 3.8 and 0.0 %


def test_the_approximate_distance_is_the_lower_bound_in_all_pairs():
    left, right = [normal(n, 3, seed=n) for n in (4, 9)], [normal(n, 3, seed=10 + n) for n in (6, 2, 7)]
    (a, lengths_a), (b, lengths_b) = padded(left), padded(right)
    found = pairwise(a, b, "sinkhorn_emd", lengths_a=lengths_a, lengths_b=lengths_b)
    expected = [[float(sinkhorn_emd(x[None], y[None]).lower) for y in right] for x in left]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert bool((found <= pairwise(a, b, "emd", lengths_a=lengths_a, lengths_b=lengths_b) * (1 + 1e-12)).all())


def test_the_approximate_distance_takes_batches_dtypes_and_nothing():
    x = normal(3, 8, 2).float()
    assert sinkhorn_emd(x, x + 1).upper.shape == (3,)
    assert sinkhorn_emd(x, x + 1).lower.dtype == torch.float32
    assert sinkhorn_emd(x[:0], x[:0]).upper.shape == (0,)


def test_too_many_pairs_of_points_are_refused():
    large = torch.zeros(1, MAX_ASSIGNED + 1, 3)
    with pytest.raises(ValueError, match="draw fewer points of each cloud"):
        sinkhorn_emd(large, large)
