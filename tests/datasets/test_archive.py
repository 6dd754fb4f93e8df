import numpy as np
import pytest
import torch

from mfcdm.datasets import CloudArchive, Clouds, open_dataset


def points(clouds=3, n=5, dim=3):
    return np.random.default_rng(0).normal(size=(clouds, n, dim)).astype(np.float16)


def test_splits_are_keys(tmp_path):
    np.savez(tmp_path / "a.npz", train=points(3), val=points(2) + 1)
    train, val = CloudArchive(tmp_path / "a.npz"), CloudArchive(tmp_path / "a.npz", "val")
    assert (len(train), len(val)) == (3, 2)
    assert train[1]["x"].dtype == torch.float32
    assert np.array_equal(val[0]["x"].numpy(), (points(2) + 1)[0].astype(np.float32))
    with pytest.raises(ValueError, match="no split 'test'; it has train, val"):
        CloudArchive(tmp_path / "a.npz", "test")


def test_one_array_serves_every_split(tmp_path):
    np.save(tmp_path / "a.npy", points())
    assert len(CloudArchive(tmp_path / "a.npy", "anything")) == 3
    assert len(open_dataset(tmp_path / "a.npy")) == 3


def test_lengths_beside_points_give_mixed_cardinality(tmp_path):
    np.savez(tmp_path / "a.npz", points=points(), lengths=np.array([5, 2, 1]))
    clouds = Clouds.of(CloudArchive(tmp_path / "a.npz"))
    assert clouds.lengths.tolist() == [5, 2, 1]
    assert [len(x) for x in clouds.points()] == [5, 2, 1]
    assert not clouds.x[1, 2:].any()
    assert clouds.smallest == (2, 1)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((3, 5)), r"must hold numbers \(clouds, points, D\)"),
        (np.zeros((0, 5, 3)), "must hold numbers"),
        (np.array([[["a"]]]), "must hold numbers"),
    ],
)
def test_arrays_that_are_not_clouds_are_refused(tmp_path, array, sentence):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=sentence):
        CloudArchive(tmp_path / "a.npy")


def test_pickled_arrays_are_never_loaded(tmp_path):
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.zeros((2, 3)), np.zeros((1, 3))]
    np.save(tmp_path / "a.npy", ragged)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        CloudArchive(tmp_path / "a.npy")


def test_damaged_and_foreign_files_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", train=points())
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("cut.npz", "empty.npy"):
        with pytest.raises(ValueError, match=name):
            CloudArchive(tmp_path / name)
    (tmp_path / "a.txt").write_text("1 2 3")
    with pytest.raises(ValueError, match="must end in"):
        CloudArchive(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match=r"gone\.npz"):
        CloudArchive(tmp_path / "gone.npz")
    np.savez(tmp_path / "b.npz", points=points(), lengths=np.array([5, 9, 1]))
    with pytest.raises(ValueError, match="from 1 to 5"):
        CloudArchive(tmp_path / "b.npz")
