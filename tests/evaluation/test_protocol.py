import pytest

from mfcdm.evaluation import PROTOCOLS, Protocol

MISTAKES = [
    ({"draw_points": "some"}, "draw_points must be one of random, first, all, got 'some'"),
    ({"unequal": "maybe"}, "unequal must be one of subset, refuse, got 'maybe'"),
    ({"normalization": "sphere"}, "normalization must be one of none, reference, per_shape, box"),
    ({"emd": "fast"}, "emd must be one of exact, exact_all_pairs, sinkhorn"),
    ({"pooling": "mean"}, "pooling must be one of full, batches"),
    ({"metrics": ("cd", "fid")}, r"metrics must be some of cd, emd, jsd, got \['cd', 'fid'\]"),
    ({"metrics": ()}, "metrics must be some of"),
    ({"num_points": 1}, "num_points must be at least 2, got 1"),
    ({"draw_points": "all"}, "num_points must be null, not 2048"),
    ({"pooling": "batches"}, "pooling=batches does not go with batch_size=None"),
    ({"batch_size": 8}, "pooling=full does not go with batch_size=8"),
    ({"pooling": "batches", "batch_size": 1}, "batch_size must be at least 2, got 1"),
    ({"jsd_bounds": (0.5, -0.5)}, "jsd_bounds must be two finite numbers that rise"),
    ({"jsd_bounds": (-float("inf"), 1.0)}, r"two finite numbers that rise, or null, got \[-inf, 1.0\]"),
    ({"jsd_bounds": (0.0, float("nan"))}, r"two finite numbers that rise, or null, got \[0.0, nan\]"),
    ({"jsd_bounds": (-1e308, 1e308)}, "two finite numbers that rise"),
    ({"jsd_bounds": (0.0, 1.0, 2.0)}, "two finite numbers that rise"),
    ({"jsd_resolution": 0}, "jsd_resolution must be at least 1"),
    ({"confidence": 95}, "confidence must lie between 0 and 1, got 95"),
    ({"num_permutations": 0}, "num_permutations must be at least 1"),
    ({"seed": -1}, "seed must be from 0"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=[str(arguments) for arguments, _ in MISTAKES])
def test_what_makes_no_sense_is_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Protocol(**arguments)


def test_presets_have_their_names():
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())
    assert PROTOCOLS["mfcdm"] == Protocol()


def test_pooling_in_batches_is_called_what_it_is():
    assert "AVERAGED OVER BATCHES OF 8: flatters" in Protocol(pooling="batches", batch_size=8).in_words()
    assert "over full sets" in Protocol().in_words()
    assert "all points" in Protocol(num_points=None, draw_points="all").in_words()
