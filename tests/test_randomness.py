import pytest
import torch

from mfcdm.randomness import cloud_generators, random_subset, standard_normal, uniform


def test_a_cloud_draws_the_same_numbers_in_every_batch():
    whole = standard_normal((5, 17, 3), cloud_generators(7, range(5)))
    part = standard_normal((2, 17, 3), cloud_generators(7, [3, 4]))
    assert torch.equal(whole[3:], part)


def test_a_cloud_draws_the_same_numbers_whatever_the_padding():
    short = standard_normal((1, 9, 3), cloud_generators(7, [2]))
    lengths = torch.tensor([9, 0, 20])
    padded = standard_normal((3, 20, 3), cloud_generators(7, [2, 0, 1]), lengths=lengths)
    assert torch.equal(padded[0, :9], short[0])
    assert not padded[0, 9:].any()
    assert not padded[1].any()


def test_seeds_indices_and_streams_give_different_numbers():
    keys = [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (2**40, 0, 0)]
    first = {float(uniform((1,), cloud_generators(seed, [i], s), dtype=torch.float64)) for seed, i, s in keys}
    assert len(first) == len(keys)


def test_a_subset_is_without_replacement_and_uniform():
    g = torch.Generator().manual_seed(0)
    kept = random_subset(3, 4000, 7, g)
    assert all(len(set(row)) == 3 for row in kept[:200].tolist())
    share = torch.bincount(kept.flatten(), minlength=7) / 4000
    # Binomial(4000, 3/7): standard deviation 0.0078, five of them
    assert torch.allclose(share, torch.full((7,), 3 / 7), atol=0.039)


def test_a_subset_takes_a_clouds_own_rows_first():
    lengths = torch.tensor([2, 5, 0])
    kept = random_subset(4, 3, 6, torch.Generator().manual_seed(0), lengths=lengths)
    assert set(kept[0, :2].tolist()) == {0, 1}
    assert set(kept[1].tolist()) < set(range(5))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="8 particles cannot be drawn from 7"):
        random_subset(8, 1, 7)
    with pytest.raises(ValueError, match="2 generators were given for 3 clouds"):
        standard_normal((3, 2), cloud_generators(0, [0, 1]))
    with pytest.raises(ValueError, match="seed=-1"):
        cloud_generators(-1, [0])
