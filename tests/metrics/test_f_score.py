import pytest
import torch

from mfcdm.metrics import f_score
from tests.metrics.clouds import generator, normal, padded


def by_definition(x, y, threshold):
    distances = torch.cdist(x, y)
    precision = float((distances.min(dim=1).values <= threshold).double().mean())
    recall = float((distances.min(dim=0).values <= threshold).double().mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("threshold", [0.05, 0.5, 1.0, 10.0])
def test_it_is_its_definition_for_mixed_cardinality(threshold):
    left, right = [normal(n, 3, seed=n) for n in (4, 30, 1)], [normal(n, 3, seed=10 + n) for n in (7, 20, 5)]
    (x, lengths_x), (y, lengths_y) = padded(left), padded(right)
    expected = [by_definition(a, b, threshold) for a, b in zip(left, right, strict=True)]
    found = f_score(x, y, threshold, lengths_x, lengths_y)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_hand_computed():
    x, y = torch.tensor([[[0.0], [1.0], [5.0]]]), torch.tensor([[[0.25], [9.0]]])
    # at 0.5: one of three points of x is near, one of two of y: 2 / (3 + 2)
    assert float(f_score(x, y, 0.5)) == pytest.approx(2 / 5, rel=1e-6)
    assert float(f_score(x, y, 0.25)) == pytest.approx(2 / 5, rel=1e-6)  # "at most" counts the boundary


def test_copies_score_one_and_strangers_zero():
    x = normal(2, 20, 3).float()
    assert torch.equal(f_score(x, x[:, torch.randperm(20, generator=generator())], 1e-6), torch.ones(2))
    assert torch.equal(f_score(x, x + 100, 1.0), torch.zeros(2))
    assert f_score(x[:0], x[:0], 1.0).shape == (0,)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
def test_thresholds_that_are_no_distance_are_refused(threshold):
    with pytest.raises(ValueError, match=f"threshold must be a positive distance, but is {threshold}"):
        f_score(normal(1, 2, 3), normal(1, 2, 3), threshold)
