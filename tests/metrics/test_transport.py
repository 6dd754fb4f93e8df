import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist

from mfcdm.metrics import earth_movers_distance, pairwise
from mfcdm.metrics import transport as transport_module
from mfcdm.metrics.transport import optimal_plan, transport_cost
from tests.metrics.clouds import generator, normal, padded

EXACT = {"rtol": 1e-12, "atol": 0.0}  # float64 sums of at most 100 terms in another order


def assigned(x, y):
    cost = cdist(x, y)
    return cost[linear_sum_assignment(cost)].mean()


def transported(x, y):
    """The linear program over all pairs at once."""
    n, m = len(x), len(y)
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    mass = np.concatenate([np.full(n, m), np.full(m, n)])  # whole numbers: the solver's tolerances are absolute
    return linprog(cdist(x, y).ravel(), A_eq=np.concatenate([rows, columns]), b_eq=mass).fun / (n * m)


@pytest.mark.parametrize("num_points", [1, 2, 5])
def test_it_is_the_least_over_all_permutations(num_points):
    x, y = normal(2, num_points, 3), normal(2, num_points, 3, seed=1)
    expected = [
        min(float((a - b[list(order)]).norm(dim=1).mean()) for order in itertools.permutations(range(num_points)))
        for a, b in zip(x, y, strict=True)
    ]
    torch.testing.assert_close(earth_movers_distance(x, y), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_it_is_the_assignment_of_scipy():
    x, y = normal(2, 100, 3), normal(2, 100, 3, seed=1)
    expected = torch.tensor([assigned(a, b) for a, b in zip(x, y, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(earth_movers_distance(x, y), expected, **EXACT)


def test_a_translation_moves_by_its_length():
    x = normal(1, 64, 3)
    shift = torch.tensor([3.0, 4.0, 12.0], dtype=torch.float64)  # of length 13
    assert float(earth_movers_distance(x, x + shift)) == pytest.approx(13.0, rel=1e-12)


@pytest.mark.parametrize(("num_x", "num_y"), [(1, 5), (5, 10), (4, 6), (7, 5)])
def test_different_cardinalities_are_the_linear_program(num_x, num_y):
    x, y = normal(num_x, 2), normal(num_y, 2, seed=1)
    # HiGHS ends within 1e-7 of the optimum
    assert float(earth_movers_distance(x[None], y[None])) == pytest.approx(transported(x, y), rel=1e-6)


def test_different_cardinalities_on_a_line_have_a_closed_form():
    x, y = normal(1, 30, 1), normal(1, 42, 1, seed=1)
    # integral of |F^-1 - G^-1|, constant on the pieces of length 1/210
    level = (torch.arange(210) + 0.5) / 210
    quantiles = [z[0, :, 0].sort().values[(level * z.shape[1]).long()] for z in (x, y)]
    expected = float((quantiles[0] - quantiles[1]).abs().mean())
    assert float(earth_movers_distance(x, y)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("num_x", "num_y", "gap"), [(30, 40, 0.0), (45, 36, 100.0), (1, 9, 1.0), (64, 96, 0.5)])
def test_the_program_agrees_with_the_assignment_of_copies(num_x, num_y, gap, monkeypatch):
    x, y = normal(num_x, 3).numpy(), normal(num_y, 3, seed=1).numpy() + gap
    by_copies = transport_cost(x, y)
    monkeypatch.setattr(transport_module, "MAX_COPIES", 0)
    monkeypatch.setattr(transport_module, "max", lambda *sizes: 0, raising=False)  # not even where M divides N
    i, j, w = optimal_plan(x, y)
    # stops within 1e-9 of the longest distance; the shortest mean here is a fifth of it
    assert transport_cost(x, y) == pytest.approx(by_copies, rel=1e-8)
    np.testing.assert_allclose(np.bincount(i, w, num_x), 1 / num_x, rtol=1e-9)  # 1e-10 is HiGHS's tolerance here
    np.testing.assert_allclose(np.bincount(j, w, num_y), 1 / num_y, rtol=1e-9)


def test_the_program_survives_clouds_that_coincide():
    plan = transport_module._program(np.zeros((3, 4)))
    assert plan[2].sum() == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize(("num_x", "num_y"), [(100, 100), (600, 600), (90, 70), (300, 512)])
def test_it_is_the_distance_of_pot(num_x, num_y):
    ot = pytest.importorskip("ot", reason="POT is not installed (extra `benchmarks`)")
    x, y = normal(num_x, 3).numpy(), normal(num_y, 3, seed=1).numpy()
    expected = ot.emd2(np.full(num_x, 1 / num_x), np.full(num_y, 1 / num_y), cdist(x, y), numItermax=10**7)
    assert transport_cost(x, y) == pytest.approx(expected, rel=1e-6)  # the demand; POT stops at its own tolerance


def test_identical_clouds_in_another_order_are_at_exactly_zero():
    x = normal(2, 33, 3).float()
    assert torch.equal(earth_movers_distance(x, x[:, torch.randperm(33, generator=generator())]), torch.zeros(2))


def test_it_ignores_order_and_is_symmetric():
    x, y = normal(2, 20, 3), normal(2, 30, 3, seed=1)
    expected = earth_movers_distance(x, y)
    order = torch.randperm(20, generator=generator())
    torch.testing.assert_close(earth_movers_distance(x[:, order], y), expected, **EXACT)
    torch.testing.assert_close(earth_movers_distance(y, x), expected, **EXACT)


def test_padding_never_matters():
    left = [normal(n, 3, seed=n) for n in (4, 9, 1)]
    right = [normal(n, 3, seed=10 + n) for n in (4, 6, 5)]
    (x, lengths_x), (y, lengths_y) = padded(left), padded(right)
    expected = torch.cat([earth_movers_distance(a[None], b[None]) for a, b in zip(left, right, strict=True)])
    assert torch.equal(earth_movers_distance(x, y, lengths_x, lengths_y), expected)


def test_float32_far_from_the_origin_keeps_its_digits():
    x, y = (1000 + 0.1 * normal(1, 100, 3)).float().split(50, dim=1)
    # differences of near coordinates are exact in float32; norms and the sum round at 6e-8 a step
    exact = float(earth_movers_distance(x.double(), y.double()))
    assert float(earth_movers_distance(x, y)) == pytest.approx(exact, rel=1e-6)


def test_the_gradient_holds_the_plan_fixed():
    x, y = normal(1, 4, 2).requires_grad_(), normal(1, 6, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(earth_movers_distance, (x, y))


def test_clouds_that_are_too_large_are_refused_before_any_work():
    large, small = torch.zeros(1, 20_000, 3), torch.zeros(1, 4_999, 3)
    with pytest.raises(ValueError, match="at most 11,585 points, got 20,000 and 20,000"):
        earth_movers_distance(large, large)
    with pytest.raises(ValueError, match="20,000 and 4,999 points is a linear program"):
        pairwise(large, small, "emd")


def test_the_largest_common_case_of_two_cardinalities_is_accepted():
    assert math.lcm(1500, 2048) > transport_module.MAX_COPIES  # so this is the program
    transport_module.check_size(1500, 2048)
    transport_module.check_size(2048, 8192)
