import math
from collections import Counter

import pytest
import torch

from mfcdm.metrics import jensen_shannon_divergence
from tests.metrics.clouds import generator, padded


def uniform(*shape, seed=0):
    return 2 * torch.rand(shape, generator=generator(seed), dtype=torch.float64) - 1


def by_definition(a, b, resolution, low, high):
    """Dictionaries of cells, each cloud of weight one."""

    def occupancy(clouds):
        mass = Counter()
        for cloud in clouds:
            for point in cloud.tolist():
                cell = tuple(min(int((c - low) / (high - low) * resolution), resolution - 1) for c in point)
                mass[cell] += 1 / len(cloud) / len(clouds)
        return mass

    p, q = occupancy(a), occupancy(b)
    m = {cell: (p[cell] + q[cell]) / 2 for cell in p.keys() | q.keys()}
    return sum(
        sum(mass * math.log2(mass / m[cell]) for cell, mass in measure.items() if mass > 0) / 2 for measure in (p, q)
    )


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("resolution", [1, 3, 28])
def test_it_is_its_definition(dim, resolution):
    a, b = uniform(3, 40, dim), 0.5 * uniform(2, 30, dim, seed=1)
    # float64 sums of at most 210 terms of size 1
    assert jensen_shannon_divergence(a, b, resolution) == pytest.approx(
        by_definition(a, b, resolution, -1, 1), abs=1e-13
    )


def test_bounds_place_the_grid():
    a, b = 5 + uniform(3, 40, 2), 5 + 0.5 * uniform(2, 30, 2, seed=1)
    expected = by_definition(a, b, 4, 4, 6)
    assert jensen_shannon_divergence(a, b, 4, bounds=(4, 6)) == pytest.approx(expected, abs=1e-13)
    low, high = torch.tensor([4.0, 4.0]), torch.tensor([6.0, 6.0])
    assert jensen_shannon_divergence(a, b, 4, bounds=(low, high)) == pytest.approx(expected, abs=1e-13)


def test_closed_forms():
    left, right = torch.full((1, 4, 1), -0.5), torch.full((1, 4, 1), 0.5)
    assert jensen_shannon_divergence(left, right) == pytest.approx(1.0, rel=1e-15)  # disjoint: one bit
    assert jensen_shannon_divergence(left, left) == 0.0
    # p = (1, 0), q = (1/2, 1/2): 1/2 [log2(4/3) + 1/2 log2(2/3) + 1/2 log2 2]
    both = torch.cat([left[:, :2], right[:, :2]], dim=1)
    expected = 0.5 * (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5)
    assert jensen_shannon_divergence(left, both, resolution=2) == pytest.approx(expected, rel=1e-12)


def test_it_ignores_order_and_is_symmetric():
    a, b = uniform(3, 40, 3), uniform(4, 30, 3, seed=1)
    expected = jensen_shannon_divergence(a, b, 5)
    shuffled = a[:, torch.randperm(40, generator=generator())].flip(0)
    assert jensen_shannon_divergence(shuffled, b, 5) == pytest.approx(expected, abs=1e-13)
    assert jensen_shannon_divergence(b, a, 5) == pytest.approx(expected, abs=1e-13)


def test_every_cloud_weighs_the_same_and_padding_nothing():
    left, right = [uniform(n, 2, seed=n) for n in (4, 9, 1)], [uniform(n, 2, seed=10 + n) for n in (6, 2)]
    (a, lengths_a), (b, lengths_b) = padded(left), padded(right)
    found = jensen_shannon_divergence(a, b, 3, lengths_a=lengths_a, lengths_b=lengths_b)
    assert found == pytest.approx(by_definition(left, right, 3, -1, 1), abs=1e-13)


def test_points_on_the_faces_are_inside():
    corners = torch.tensor([[[-1.0, -1.0], [1.0, 1.0]]])
    inner = torch.tensor([[[-0.9, -0.9], [0.9, 0.9]]])
    assert jensen_shannon_divergence(corners, inner, resolution=4) == 0.0


def test_clouds_of_any_scale_have_a_box():
    """Beyond (-1, 1) the grid is the smallest cube about both sets: scale and place do not matter."""
    a, b = (torch.randn(5, 40, 3, generator=generator(seed), dtype=torch.float64) for seed in (0, 1))
    low, high = (getattr(torch.cat((a, b)).flatten(0, 1), name)(dim=0) for name in ("amin", "amax"))
    half = (high - low).max() / 2 * (1 + 1e-9)
    bounds = ((low + high) / 2 - half, (low + high) / 2 + half)
    expected = jensen_shannon_divergence(a, b, 4, bounds=bounds)
    assert 0 < expected < 1
    shift = torch.tensor([30.0, -7.0, 2.0], dtype=torch.float64)
    for scale in (1.0, 256.0):
        moved = (scale * (cloud + shift) for cloud in (a, b))
        assert jensen_shannon_divergence(*moved, 4) == pytest.approx(expected, abs=1e-12)
    lone = torch.full((2, 1, 3), 1e6)
    assert jensen_shannon_divergence(lone, lone) == 0


def test_points_outside_are_refused_never_clipped():
    inside, outside = torch.zeros(2, 4, 3), torch.zeros(2, 4, 3)
    outside[1, 2, 0] = 1.5
    with pytest.raises(ValueError, match=r"cloud 1 of b has 1 point outside the box .*\[1.5, 0.0, 0.0\]"):
        jensen_shannon_divergence(inside, outside, bounds=(-1, 1))
    assert jensen_shannon_divergence(inside, outside, bounds=(-2, 2)) > 0
    with pytest.raises(ValueError, match="cloud 1 of a has 1 point outside"):
        jensen_shannon_divergence(outside, inside, bounds=(-1.2, 1.2))


def test_what_makes_no_sense_is_refused():
    x = torch.zeros(1, 4, 3)
    with pytest.raises(ValueError, match="low < high"):
        jensen_shannon_divergence(x, x, bounds=(1, 1))
    with pytest.raises(ValueError, match="low < high"):
        jensen_shannon_divergence(x, x, bounds=(-math.inf, 1))
    with pytest.raises(ValueError, match="resolution must be 1 or more"):
        jensen_shannon_divergence(x, x, 0)
    with pytest.raises(ValueError, match="at most 134,217,728 cells, but is 1000"):
        jensen_shannon_divergence(x, x, 1000)
    with pytest.raises(ValueError, match="at least one cloud, got 1 and 0"):
        jensen_shannon_divergence(x, x[:0])
    with pytest.raises(ValueError, match="one dimension"):
        jensen_shannon_divergence(x, torch.zeros(1, 4, 2))
    with pytest.raises(ValueError, match="cloud 0 of b has NaN"):
        jensen_shannon_divergence(x, x * torch.nan)
