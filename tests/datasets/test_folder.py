from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from scipy.stats import chi2

from mfcdm.datasets import CloudFolder, Clouds

# Real meshes for development lie beside the repository, where there are any.
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "meshes"
BOX = trimesh.creation.box(bounds=[[0, 0, 0], [1, 2, 3]])


def cloud(n, seed=0, dim=3):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def save(folder, *names):
    """Clouds of 5, 6, 7, ... points."""
    for n, name in enumerate(names, 5):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, cloud(n, seed=n))


def names(folder):
    return [file.relative_to(folder.path).as_posix() for file in folder.files]


def test_formats_mix_and_files_are_ordered_by_path(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    BOX.export(tmp_path / "b.ply")
    BOX.export(tmp_path / "deep" / "er" / "a.stl")
    np.savetxt(tmp_path / "c.xyz", cloud(4))
    np.save(tmp_path / "a.npy", cloud(3))
    for ignored in ("notes.md", ".hidden.npy", "__MACOSX/a.npy", "._b.ply"):
        (tmp_path / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / ignored).write_text("nothing to read")
    folder = CloudFolder(tmp_path, num_points=50)
    assert names(folder) == ["a.npy", "b.ply", "c.xyz", "deep/er/a.stl"]
    assert [len(item["x"]) for item in folder] == [3, 50, 4, 50]  # clouds as they are, meshes sampled
    assert all(item["x"].dtype == torch.float32 and "label" not in item for item in folder)
    clouds = Clouds.of(folder)
    assert clouds.lengths.tolist() == [3, 50, 4, 50]
    assert clouds.labels is None
    with pytest.raises(IndexError):
        folder[4]


def test_points_of_the_plane_make_a_set_and_mix_with_no_others(tmp_path):
    np.savetxt(tmp_path / "a.xyz", cloud(4, dim=2))
    np.save(tmp_path / "b.npy", cloud(6, dim=2))
    assert Clouds.of(CloudFolder(tmp_path)).x.shape == (2, 6, 2)
    np.save(tmp_path / "c.npy", cloud(6))
    with pytest.raises(ValueError, match=r"c\.npy has dimension 3, the ones before it 2"):
        Clouds.of(CloudFolder(tmp_path))


def test_meshes_are_sampled_by_area(tmp_path):
    """Six triangles of very different areas, each cut into four equal parts: the counts of all 24 parts fit.

    Triangle k lies in the plane z = k with legs 1 and 2^k, so that its area is 2^(k-1). A right sampler exceeds the
    1e-6 quantile of chi-square with 23 degrees of freedom once in a million seeds, and the seed is fixed.
    """
    n = 63 * 4 * 50  # the smallest part expects n / 63 / 4 = 50 points, enough for chi-square
    vertices = [[x, y * 2**k, k] for k in range(6) for x, y in ((0, 0), (1, 0), (0, 1))]
    trimesh.Trimesh(vertices, np.arange(18).reshape(6, 3), process=False).export(tmp_path / "a.ply")
    x = CloudFolder(tmp_path, num_points=n)[0]["x"].double().numpy()
    k = x[:, 2].round().astype(int)
    assert np.array_equal(x[:, 2], k)
    u, v = x[:, 0], x[:, 1] / 2.0**k
    assert min(u.min(), v.min(), (1 - u - v).min()) >= -1e-6  # within the triangle, to float32's rounding
    part = np.where(u > 0.5, 0, np.where(v > 0.5, 1, np.where(u + v < 0.5, 2, 3)))
    counts = np.bincount(4 * k + part, minlength=24)
    expected = n * np.repeat(2.0 ** np.arange(6), 4) / 63 / 4
    assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-6, df=23)


def test_points_depend_on_seed_and_position_alone(tmp_path):
    for name in ("a.ply", "b.ply"):
        BOX.export(tmp_path / name)
    folder = CloudFolder(tmp_path, num_points=40)
    first = folder[0]["x"]
    np.random.seed(1)  # noqa: NPY002  the global generator must not matter
    torch.manual_seed(1)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert torch.equal(CloudFolder(tmp_path, num_points=40)[0]["x"], first)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(folder[-2]["x"], first)
    assert torch.equal(CloudFolder(tmp_path, num_points=7)[0]["x"], first[:7])
    assert not torch.equal(folder[1]["x"], first)  # the same mesh under another name
    assert not torch.equal(CloudFolder(tmp_path, num_points=40, seed=1)[0]["x"], first)


@pytest.mark.parametrize("layout", ["{split}/{category}", "{category}/{split}"])
def test_splits_and_categories_are_folders(tmp_path, layout):
    for split, category in (("train", "chair"), ("train", "table"), ("test", "table"), ("test", "lamp")):
        save(tmp_path / layout.format(split=split, category=category), "a.npy", "b.npy")
    train, test = CloudFolder(tmp_path, "train"), CloudFolder(tmp_path, "test")
    # A label means the same in every split, whatever categories a split lacks.
    assert train.categories == test.categories == ("chair", "lamp", "table")
    assert [item["label"] for item in train] == [0, 0, 2, 2]
    assert [item["label"] for item in test] == [1, 1, 2, 2]
    assert Clouds.of(test).categories == test.categories
    assert len(CloudFolder(tmp_path)) == 8
    with pytest.raises(ValueError, match="no split 'val'; it has test, train"):
        CloudFolder(tmp_path, "val")


def test_links_to_folders_and_files_are_followed_once_around(tmp_path):
    save(tmp_path / "real", "chair/a.npy", "chair/b.npy")
    save(tmp_path / "elsewhere", "lamp/c.npy", "d.npy")
    (tmp_path / "real" / "lamp").symlink_to(tmp_path / "elsewhere" / "lamp")
    (tmp_path / "real" / "table").symlink_to(tmp_path / "elsewhere" / "lamp")  # the same clouds as another category
    (tmp_path / "real" / "chair" / "d.npy").symlink_to(tmp_path / "elsewhere" / "d.npy")
    (tmp_path / "real" / "chair" / "again").symlink_to(tmp_path / "real")
    (tmp_path / "elsewhere" / "lamp" / "again").symlink_to(tmp_path / "elsewhere" / "lamp")
    folder = CloudFolder(tmp_path / "real")
    assert names(folder) == ["chair/a.npy", "chair/b.npy", "chair/d.npy", "lamp/c.npy", "table/c.npy"]
    assert folder.categories == ("chair", "lamp", "table")
    (tmp_path / "real" / "chair" / "again").unlink()
    train = tmp_path / "splits" / "train"
    train.parent.mkdir()
    train.symlink_to(tmp_path / "real" / "chair")
    assert names(CloudFolder(tmp_path / "splits", "train")) == ["train/a.npy", "train/b.npy", "train/d.npy"]


def test_splits_without_categories(tmp_path):
    save(tmp_path, "train/a.npy", "train/b.npy", "val/c.npy")
    assert names(CloudFolder(tmp_path, "train")) == ["train/a.npy", "train/b.npy"]
    assert names(CloudFolder(tmp_path, "val")) == ["val/c.npy"]
    assert CloudFolder(tmp_path, "train").categories == ()


def test_a_folder_without_splits_serves_all_of_them(tmp_path):
    save(tmp_path, "chair/a.npy", "lamp/b.npy")
    assert names(CloudFolder(tmp_path, "val")) == ["chair/a.npy", "lamp/b.npy"]
    assert [item["label"] for item in CloudFolder(tmp_path, "val")] == [0, 1]


@pytest.mark.parametrize("files", [("chair/a.npy", "chair/b.npy"), ("chair/a.npy", "lamp/b.npy", "c.npy")])
def test_one_category_or_a_file_outside_gives_no_labels(tmp_path, files):
    save(tmp_path, *files)
    assert CloudFolder(tmp_path).categories == ()
    assert "label" not in CloudFolder(tmp_path)[0]


def test_pattern_chooses_by_name_or_path(tmp_path):
    save(tmp_path, "chair/one.npy", "chair/two.npy", "lamp/one.npy")
    assert names(CloudFolder(tmp_path, pattern="one*")) == ["chair/one.npy", "lamp/one.npy"]
    assert names(CloudFolder(tmp_path, pattern="chair/*")) == ["chair/one.npy", "chair/two.npy"]
    with pytest.raises(FileNotFoundError, match=r"no \.ply, .* file that matches pattern='\*\.off'"):
        CloudFolder(tmp_path, pattern="*.off")


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone is not a folder"):
        CloudFolder(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"holds no \.ply"):
        CloudFolder(tmp_path)
    save(tmp_path, "a.npy")
    for options, sentence in (
        ({"num_points": 0}, "num_points must be a whole number of at least 1, got 0"),
        ({"num_points": 1.5}, "num_points must be"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            CloudFolder(tmp_path, **options)
    (tmp_path / "b.obj").touch()
    with pytest.raises(ValueError, match=r"b\.obj is empty"):  # before any item is asked for
        CloudFolder(tmp_path)


def test_a_damaged_file_is_named_when_the_set_is_read(tmp_path):
    save(tmp_path, "a.npy")
    np.save(tmp_path / "b.npy", np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match=r"b\.npy has 3 points with NaN"):
        Clouds.of(CloudFolder(tmp_path))


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real meshes of ../shared/data/meshes")
def test_real_meshes_lie_in_their_box_of_side_one():
    """Their README says: centred on the bounding box, longest side 1. A mesh of 20,000 triangles fills its box."""
    folder = CloudFolder(REAL, num_points=500)
    assert len(folder) == 11
    for index, item in enumerate(folder):
        surface = folder.shape(index)
        # six decimals in the text formats
        assert float(np.ptp(surface.bounds, axis=0).max()) == pytest.approx(1, abs=1e-5), folder.files[index].name
        low, high = surface.bounds
        x = item["x"].double().numpy()
        assert (x >= low - 1e-6).all()  # float32's rounding of numbers up to 1
        assert (x <= high + 1e-6).all()
        # points lie on the surface, to the same rounding
        assert surface.distance(x[:20]).max() < 1e-6


@pytest.mark.filterwarnings("error")
def test_coordinates_beyond_float32_are_refused_without_a_warning(tmp_path):
    """Of a mesh: sampled points are float64, in which they are finite."""
    (tmp_path / "a.off").write_text("OFF\n3 1 0\n0 0 0\n1e39 0 0\n0 1e39 0\n3 0 1 2\n")
    with pytest.raises(ValueError, match=r"a\.off has \d+ points with NaN or infinite coordinates"):
        Clouds.of(CloudFolder(tmp_path))
