import threading

import pytest
import torch

from mfcdm.metrics import chamfer_distance, earth_movers_distance, pairwise
from mfcdm.metrics.all_pairs import _chamfer_by_blocks
from tests.metrics.clouds import normal, padded

DISTANCES = {"cd": chamfer_distance, "emd": earth_movers_distance}
EXACT = {"rtol": 1e-12, "atol": 0.0}  # float64 sums of at most 100 terms in another order


def one_by_one(a, b, distance):
    return torch.stack([torch.cat([distance(x[None], y[None]) for y in b]) for x in a])


@pytest.mark.parametrize("metric", ["cd", "emd"])
def test_it_is_every_pair(metric):
    a, b = normal(3, 12, 3), normal(5, 8, 3, seed=1)
    torch.testing.assert_close(pairwise(a, b, metric), one_by_one(a, b, DISTANCES[metric]), **EXACT)


@pytest.mark.parametrize("metric", ["cd", "emd"])
def test_clouds_of_mixed_cardinality(metric):
    left, right = [normal(n, 3, seed=n) for n in (4, 9, 1)], [normal(n, 3, seed=10 + n) for n in (6, 2)]
    (a, lengths_a), (b, lengths_b) = padded(left), padded(right)
    found = pairwise(a, b, metric, lengths_a=lengths_a, lengths_b=lengths_b)
    torch.testing.assert_close(found, one_by_one(left, right, DISTANCES[metric]), **EXACT)
    within = pairwise(a, a, metric, lengths_a=lengths_a, lengths_b=lengths_a)
    torch.testing.assert_close(within, one_by_one(left, left, DISTANCES[metric]), **EXACT)


@pytest.mark.parametrize("metric", ["cd", "emd"])
def test_a_set_with_itself_is_symmetric_and_equals_the_full_matrix(metric):
    a = normal(5, 10, 3)
    within = pairwise(a, a, metric)
    assert torch.equal(within, within.T)
    assert torch.equal(within.diagonal(), torch.zeros(5, dtype=a.dtype))
    torch.testing.assert_close(within, pairwise(a, a.clone(), metric), **EXACT)


def test_a_set_with_itself_costs_each_pair_once():
    a = normal(4, 10, 3)
    counts = {}
    pairwise(a, a, "emd", progress=lambda done, total: counts.update(within=(done, total)))
    pairwise(a, a.clone(), "emd", progress=lambda done, total: counts.update(between=(done, total)))
    assert counts == {"within": (6, 6), "between": (16, 16)}


@pytest.mark.parametrize("metric", ["cd", "emd"])
def test_blocks_and_threads_change_nothing(metric, monkeypatch):
    a, b = normal(3, 12, 3), normal(5, 8, 3, seed=1)
    expected = pairwise(a, b, metric)
    monkeypatch.setattr("mfcdm.metrics.all_pairs.MAX_QUERIES", 20)  # two clouds a block, then one
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(pairwise(a, b, metric), expected)


@pytest.mark.parametrize("limit", [1, 40, 500, 2**20])
def test_the_accelerator_path_agrees_with_the_trees(limit, monkeypatch):
    left, right = [normal(n, 3, seed=n) for n in (4, 9, 1)], [normal(n, 3, seed=10 + n) for n in (6, 2, 7)]
    (a, lengths_a), (b, lengths_b) = padded(left), padded(right)
    monkeypatch.setattr("mfcdm.metrics.all_pairs.MAX_DIFFERENCES", limit)
    seen = []
    found = _chamfer_by_blocks(left, right, False, lambda *count: seen.append(count))
    torch.testing.assert_close(found, pairwise(a, b, lengths_a=lengths_a, lengths_b=lengths_b), **EXACT)
    within = _chamfer_by_blocks(left, left, True, lambda *count: None)
    torch.testing.assert_close(within, pairwise(a, a, lengths_a=lengths_a, lengths_b=lengths_a), **EXACT)
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("metric", ["cd", "emd"])
@pytest.mark.parametrize("same", [False, True])
def test_progress_rises_to_its_total_on_the_callers_thread(metric, same):
    a, b = normal(3, 6, 2), normal(4, 6, 2, seed=1)
    seen, threads = [], set()

    def progress(done, total):
        seen.append((done, total))
        threads.add(threading.get_ident())

    pairwise(a, a if same else b, metric, progress=progress)
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))
    assert len({total for _, total in seen}) == 1
    assert threads == {threading.get_ident()}


def test_an_error_ends_the_work():
    asked = []

    def stop(done, total):
        asked.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pairwise(normal(30, 6, 2), normal(30, 6, 2), "emd", progress=stop)
    assert asked == [1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def test_dtypes_and_empty_sets():
    a = normal(2, 5, 3)
    assert pairwise(a, a).dtype == torch.float64
    assert pairwise(a.half(), a.half()).dtype == torch.float32
    assert pairwise(a, a.float()).dtype == torch.float64
    for metric in ("cd", "emd"):
        assert pairwise(a[:0], a, metric).shape == (0, 2)
        assert pairwise(a, a[:0], metric).shape == (2, 0)
    assert _chamfer_by_blocks([], list(a), False, lambda *count: None).shape == (0, 2)


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="one of 'cd', 'emd', 'sinkhorn_emd', but is 'l2'"):
        pairwise(normal(1, 2, 3), normal(1, 2, 3), "l2")


def test_padding_that_is_not_declared_is_refused():
    a, lengths = padded([normal(3, 3), normal(5, 3)])
    with pytest.raises(ValueError, match="cloud 0 of b has NaN"):
        pairwise(a, a, lengths_a=lengths)
