import io
import pickle
from collections.abc import Mapping

import h5py
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
    with pytest.raises(ValueError, match="holds Python objects"):
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


def write(path, tree):
    """Write nested dictionaries of arrays: groups of an h5 file, "/" in the names of an npz."""

    def leaves(tree, prefix=""):
        for name, value in tree.items():
            if isinstance(value, Mapping):
                yield from leaves(value, f"{prefix}{name}/")
            else:
                yield f"{prefix}{name}", value

    if path.suffix == ".npz":
        np.savez(path, **dict(leaves(tree)))
    else:
        with h5py.File(path, "w") as file:
            for name, value in leaves(tree):
                file[name] = value
    return path


def ragged(*sizes, dim=3):
    return [np.random.default_rng(n).normal(size=(n, dim)).astype(np.float32) for n in sizes]


def same(archive, clouds):
    return len(archive) == len(clouds) and all(
        np.array_equal(item["x"].numpy(), cloud) for item, cloud in zip(archive, clouds, strict=True)
    )


BOTH = pytest.mark.parametrize("suffix", [".npz", ".h5"])


@BOTH
def test_splits_lengths_and_lone_arrays_in_both_formats(tmp_path, suffix):
    stacked = points().astype(np.float32)
    path = write(tmp_path / f"a{suffix}", {"train": stacked, "val": stacked[:2] + 1})
    assert same(CloudArchive(path), stacked)
    assert same(CloudArchive(path, "val"), stacked[:2] + 1)
    path = write(tmp_path / f"b{suffix}", {"anything": stacked})
    assert same(CloudArchive(path, "test"), stacked)
    path = write(tmp_path / f"c{suffix}", {"points": stacked, "lengths": [5, 2, 1]})
    assert same(CloudArchive(path), [stacked[0], stacked[1, :2], stacked[2, :1]])
    nested = {"train": {"points": stacked, "lengths": [1, 1, 1]}, "val": {"points": stacked[:1], "lengths": [4]}}
    assert same(CloudArchive(write(tmp_path / f"d{suffix}", nested), "val"), stacked[:1, :4])


@BOTH
def test_offsets_part_points_that_lie_end_to_end(tmp_path, suffix):
    clouds = ragged(4, 1, 7)
    for name, offsets in (("starts", [0, 4, 5]), ("edges", [0, 4, 5, 12])):
        path = write(tmp_path / f"{name}{suffix}", {"points": np.concatenate(clouds), "offsets": offsets})
        assert same(CloudArchive(path), clouds)
    one = write(tmp_path / f"one{suffix}", {"points": clouds[0], "offsets": [0, 4]})
    assert same(CloudArchive(one), clouds[:1])
    for offsets in ([0, 4, 4, 12], [1, 5], [0, 13], [0.0, 4.0], [], [[0, 4]]):
        path = write(tmp_path / f"bad{suffix}", {"points": np.concatenate(clouds), "offsets": np.array(offsets)})
        with pytest.raises(ValueError, match="offsets must be whole numbers"):
            CloudArchive(path)


def test_a_saved_list_keeps_its_order(tmp_path):
    clouds = ragged(*range(1, 13))  # arr_10 comes after arr_2
    np.savez(tmp_path / "a.npz", *clouds)
    assert same(CloudArchive(tmp_path / "a.npz", "val"), clouds)
    np.savez(tmp_path / "b.npz", clouds[3])
    assert same(CloudArchive(tmp_path / "b.npz"), clouds[3:4])


def test_groups_hold_one_data_set_a_cloud(tmp_path):
    clouds = ragged(3, 9, 2)
    tree = {"train": {f"shape{i}": cloud for i, cloud in enumerate(clouds)}, "val": {"shape0": clouds[1]}}
    path = write(tmp_path / "a.h5", tree)
    assert same(CloudArchive(path), clouds)
    assert same(CloudArchive(path, "val"), clouds[1:2])


@BOTH
def test_categories_hold_splits(tmp_path, suffix):
    """The layout of DPM's shapenet.hdf5, with synsets; other names stand for themselves."""
    stacked = {name: points(2 + i, 6).astype(np.float32) + i for i, name in enumerate(("02691156", "03001627", "egg"))}
    path = write(tmp_path / f"a{suffix}", {name: {"train": x, "val": x[:1]} for name, x in stacked.items()})
    every = CloudArchive(path)
    assert every.categories == ("airplane", "chair", "egg")
    assert same(every, [cloud for x in stacked.values() for cloud in x])
    assert [item["label"] for item in every] == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert Clouds.of(CloudArchive(path, "val")).labels.tolist() == [0, 1, 2]
    for category in ("chair", "03001627", ["chair"]):
        chosen = CloudArchive(path, category=category)
        assert chosen.categories == ("chair",)
        assert same(chosen, stacked["03001627"])
    two = CloudArchive(path, "val", category=["egg", "airplane"])  # labels follow the names, not the request
    assert two.categories == ("airplane", "egg")
    assert same(two, [stacked["02691156"][0], stacked["egg"][0]])
    with pytest.raises(ValueError, match="has no category 'lamp'; it has airplane, chair, egg"):
        CloudArchive(path, category="lamp")
    with pytest.raises(ValueError, match="names no category"):
        CloudArchive(path, category=[])
    with pytest.raises(ValueError, match="02691156 has no split 'test'; it has train, val"):
        CloudArchive(path, "test")


def test_splits_hold_categories(tmp_path):
    path = write(tmp_path / "a.h5", {"train": {"chair": {"points": points(2)}, "lamp": {"points": points(3)}}})
    assert [item["label"] for item in CloudArchive(path)] == [0, 0, 1, 1, 1]


@BOTH
def test_a_key_names_any_array_and_labels_stand_beside(tmp_path, suffix):
    stacked = points().astype(np.float32)
    # the layout of PointNet's ModelNet40 files
    path = write(tmp_path / f"a{suffix}", {"data": stacked, "normal": stacked + 1, "label": np.array([[3], [0], [3]])})
    archive = CloudArchive(path, key="data")
    assert same(archive, stacked)
    assert [item["label"] for item in archive] == [3, 0, 3]
    with pytest.raises(ValueError, match="no split 'train'; it has data, normal; key= names any array"):
        CloudArchive(path)
    with pytest.raises(ValueError, match="has no key 'pose'; it has data, label, normal"):
        CloudArchive(path, key="pose")
    path = write(tmp_path / f"b{suffix}", {"deep": {"er": {"train": stacked, "val": stacked[:1]}, "other": stacked}})
    assert same(CloudArchive(path, "val", key="deep/er"), stacked[:1])
    assert same(CloudArchive(path, key="deep/other"), stacked)
    with pytest.raises(ValueError, match="has no key 'more'; it has a single array"):
        CloudArchive(path, key="deep/other/more")
    path = write(tmp_path / f"c{suffix}", {"points": stacked, "labels": [0, 1]})
    with pytest.raises(ValueError, match="labels must be 3 whole numbers"):
        CloudArchive(path)


@BOTH
def test_what_does_not_fit_is_refused(tmp_path, suffix):
    stacked = points()
    for tree, sentence in (
        ({"train": stacked, "val": stacked, "lengths": [5, 5, 5]}, "lengths beside its splits; train/points"),
        ({"a": np.zeros((3, 2)), "b": np.zeros((2, 2)), "lengths": [1, 1]}, "one array a cloud needs none"),
        ({"a0": np.zeros((3, 2)), "a1": np.zeros((0, 2))}, r"a1 must hold numbers \(points, D\)"),
        ({"points": stacked, "lengths": [5.0, 5.0, 5.0]}, "lengths must be 3 numbers from 1 to 5"),
        ({"points": np.zeros((4, 3))}, r"must hold numbers \(clouds, points, D\)"),
        ({"a": {"b": {"c": {"train": stacked}}}}, "categories within a category"),
    ):
        with pytest.raises(ValueError, match=sentence) as refusal:
            CloudArchive(write(tmp_path / f"a{suffix}", tree))
        assert str(tmp_path / f"a{suffix}") in str(refusal.value)
    path = write(tmp_path / f"b{suffix}", {"train": stacked})
    with pytest.raises(ValueError, match="has no categories, so category='chair'"):
        CloudArchive(path, category="chair")


@BOTH
def test_a_bad_point_is_refused_with_the_file_and_the_cloud(tmp_path, suffix):
    for value in (np.nan, 1e300):  # the latter is infinite in float32
        array = points().astype(np.float64)
        array[1, 2] = value
        path = write(tmp_path / f"a{suffix}", {"train": array})
        with pytest.raises(ValueError, match=f"a{suffix}: cloud 1 has 1 point with NaN"):
            Clouds.of(CloudArchive(path))


def test_points_in_the_plane(tmp_path):
    np.savez(tmp_path / "a.npz", *ragged(4, 6, dim=2))
    assert Clouds.of(CloudArchive(tmp_path / "a.npz")).x.shape == (2, 6, 2)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was run",)


def test_hostile_files_run_nothing(tmp_path):
    array = np.empty((1, 1, 1), dtype=object)
    array[0, 0, 0] = Bomb()
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    (tmp_path / "a.npy").write_bytes(buffer.getvalue())
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "c.h5").write_bytes(pickle.dumps(Bomb()))
    np.savez(tmp_path / "d.npz", train=array)
    for name in ("a.npy", "b.npz", "c.h5", "d.npz"):
        with pytest.raises(ValueError, match=name) as refusal:
            CloudArchive(tmp_path / name)
        assert "pickle.load" not in str(refusal.value)  # numpy's own advice


def test_links_of_an_h5_file_are_not_followed(tmp_path):
    write(tmp_path / "secret.h5", {"train": points()})
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train"] = h5py.ExternalLink("secret.h5", "/train")
        file["loop"] = file["/"]  # a group that holds itself
        file["val"] = points()
    with pytest.raises(ValueError, match="no split 'train'; it has loop, val"):
        CloudArchive(tmp_path / "a.h5")
    assert len(CloudArchive(tmp_path / "a.h5", "val")) == 3


def test_damaged_h5_files_are_refused(tmp_path):
    whole = write(tmp_path / "a.hdf5", {"train": points(50, 100)}).read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.h5").write_bytes(b"")
    for name in ("cut.h5", "empty.h5"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            CloudArchive(tmp_path / name)
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file["train"] = "text"
    with pytest.raises(ValueError, match="must hold numbers"):
        CloudArchive(tmp_path / "text.h5")


@pytest.mark.parametrize("suffix", ["npz", "npy", "h5"])
def test_an_archive_can_be_sent_to_another_process(tmp_path, suffix):
    """As torch's loaders do with their workers, where a process is not forked."""
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, points())
    else:
        write(path, {"train": points()})
    archive = CloudArchive(path)
    sent = pickle.loads(pickle.dumps(archive))  # noqa: S301
    assert len(sent) == len(archive)
    assert all(torch.equal(sent[i]["x"], archive[i]["x"]) for i in range(len(archive)))


def test_small_sets_that_were_never_written_are_zeros(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = points(5)
        file.create_dataset("label", (5,), "i8")
    assert Clouds.of(CloudArchive(tmp_path / "a.h5")).labels.tolist() == [0] * 5
