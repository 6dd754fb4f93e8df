"""Clouds far from the origin, of which float32 would make a lattice."""

import re

import numpy as np
import pytest
import torch

from mfcdm.commands.given import Given
from mfcdm.datasets import CloudArchive, CloudFolder, Clouds, write_archive
from mfcdm.datasets.precision import as_float32
from mfcdm.evaluation import read_clouds

NEAR = np.random.default_rng(0).random((1000, 3))
FAR = NEAR + np.array([4.5e6, 5.6e6, 100.0])  # metres of a map; float32 has steps of half a metre there
SENTENCE = (
    r"has coordinates up to 5.6e\+06, where float32 has steps of 0.5, too coarse for a cloud 0.999 across; subtract an"
)


class Items:
    def __init__(self, cloud):
        self.cloud = cloud

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {"x": torch.from_numpy(self.cloud)}


def test_every_reader_names_the_cloud(tmp_path):
    np.save(tmp_path / "set.npy", np.stack([NEAR, FAR]))
    np.savez(tmp_path / "set.npz", NEAR, FAR)
    np.save(tmp_path / "one.npy", FAR)
    (tmp_path / "folder").mkdir()
    np.savetxt(tmp_path / "folder" / "b.xyz", FAR)
    torch.save([torch.from_numpy(FAR)] * 4, tmp_path / "set.pt")
    for name, read in (
        ("set.npy: cloud 1", lambda: Clouds.of(CloudArchive(tmp_path / "set.npy"))),
        ("set.npz: cloud 1", lambda: Clouds.of(CloudArchive(tmp_path / "set.npz"))),
        ("b.xyz", lambda: Clouds.of(CloudFolder(tmp_path / "folder"))),
        ("one.npy", lambda: Given.read(str(tmp_path / "one.npy"), "val", 10)),
        ("set.pt: cloud 0", lambda: read_clouds(tmp_path / "set.pt")),
        ("cloud 0", lambda: Clouds.of(Items(FAR))),
        ("cloud 0", lambda: write_archive(tmp_path / "mapped", {"train": Items(FAR)})),
    ):
        with pytest.raises(ValueError, match=re.escape(name) + " " + SENTENCE):
            read()
    assert not (tmp_path / "mapped").exists()


def test_points_on_a_mesh_far_away_are_refused(tmp_path):
    (tmp_path / "a.off").write_text("OFF\n3 1 0\n5600000 0 0\n5600001 0 0\n5600000 1 0\n3 0 1 2\n")
    with pytest.raises(ValueError, match=r"a\.off has coordinates up to 5.6e\+06"):
        Clouds.of(CloudFolder(tmp_path))


@pytest.mark.parametrize(
    "points",
    [
        FAR.astype(np.float32),  # as coarse as its file
        FAR.astype(np.float32).astype(np.float64),  # nothing is lost
        np.array([[2**24, 0], [2**24 - 3, 1]]),
        FAR[:1],
        np.repeat(FAR[:1], 5, axis=0),
        FAR - FAR.mean(axis=0),
        1e3 * NEAR + 4.5e6 * (1 + 2.0**-30),  # steps of half a thousandth
        1e-30 * NEAR,
    ],
    ids=["float32", "exact", "integers", "one", "coincident", "centred", "large", "tiny"],
)
def test_what_float32_can_hold_is_taken(points):
    cast = as_float32(points, "cloud")
    assert cast.dtype == np.float32
    np.testing.assert_array_equal(cast, points.astype(np.float32))
    cast[0] = 0.0  # a copy
    assert (points[0] != 0).any()


def test_whole_numbers_beyond_float32_are_refused():
    points = np.array([[2**24 + 1, 0], [2**24 + 40, 1]])
    with pytest.raises(ValueError, match=r"cloud has coordinates up to 1\.67773e"):
        as_float32(points, "cloud")


def test_what_is_not_finite_is_left_to_others():
    with np.errstate(all="raise"):
        assert np.isinf(as_float32(np.array([[1e39, 0.0], [0.0, 0.0]]), "cloud")).any()
        assert np.isnan(as_float32(np.array([[np.nan, 0.0]]), "cloud")).any()
