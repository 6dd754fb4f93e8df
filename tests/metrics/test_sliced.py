import math

import pytest
import torch

from mfcdm.metrics import sliced_wasserstein_distance
from tests.metrics.clouds import normal, padded


def test_a_translation_moves_by_its_length_over_root_dim():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 50, 3, generator=g, dtype=torch.float64)
    shift = torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)  # of length 1.3
    # E <theta, shift>^2 = |shift|^2 / D; 20,000 directions leave 0.6 % of sampling error
    distance = sliced_wasserstein_distance(x, x + shift, num_projections=20_000)
    assert torch.allclose(distance, torch.full((2,), 1.3 / math.sqrt(3), dtype=torch.float64), rtol=0.03)


def test_it_ignores_the_order_and_is_symmetric():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, 17, 3, generator=g)
    assert float(sliced_wasserstein_distance(x, x[:, torch.randperm(17, generator=g)])) == pytest.approx(0.0, abs=1e-6)
    assert float(sliced_wasserstein_distance(x, y)) == pytest.approx(float(sliced_wasserstein_distance(y, x)))


def test_two_gaussians_in_one_dimension_have_their_closed_form():
    n = 100_000
    quantiles = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[None, :, None]
    distance = float(sliced_wasserstein_distance(quantiles, 1 + 3 * quantiles))
    assert distance == pytest.approx(math.sqrt(1 + 4), rel=1e-3)  # sqrt((m - m')^2 + (s - s')^2)


@pytest.mark.parametrize(("num_x", "num_y"), [(6, 4), (5, 1), (12, 18)])
def test_other_cardinalities_are_copies_of_points(num_x, num_y):
    x, y = normal(1, num_x, 3), normal(1, num_y, 3, seed=1)
    copies = math.lcm(num_x, num_y)
    repeated = [z.repeat_interleave(copies // z.shape[1], dim=1) for z in (x, y)]
    expected = sliced_wasserstein_distance(*repeated)
    torch.testing.assert_close(sliced_wasserstein_distance(x, y), expected, rtol=1e-12, atol=0)


def test_padding_never_matters():
    left, right = [normal(n, 3, seed=n) for n in (4, 9, 1)], [normal(n, 3, seed=10 + n) for n in (4, 2, 5)]
    (x, lengths_x), (y, lengths_y) = padded(left), padded(right)
    expected = torch.cat([sliced_wasserstein_distance(a[None], b[None]) for a, b in zip(left, right, strict=True)])
    found = sliced_wasserstein_distance(x, y, lengths_x=lengths_x, lengths_y=lengths_y)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_unfit_clouds_are_refused():
    with pytest.raises(ValueError, match="one dimension, but have 3 and 2"):
        sliced_wasserstein_distance(torch.zeros(1, 2, 3), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="cloud 0 of y has NaN"):
        sliced_wasserstein_distance(torch.zeros(1, 2, 3), torch.full((1, 2, 3), torch.nan))
