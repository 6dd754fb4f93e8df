"""Laws of the embedded data set: determinism, disjoint splits, exactness, normalisation, variety."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch.utils.data import DataLoader

from mfcdm.datasets.parametric_shapes import ParametricShapes
from mfcdm.datasets.shapes import SHAPES


def chamfer(x, y):
    """Squared chamfer distance, mean + mean."""
    return (cKDTree(y).query(x)[0] ** 2).mean() + (cKDTree(x).query(y)[0] ** 2).mean()


def digest(clouds):
    return hashlib.sha256(clouds.numpy().tobytes()).hexdigest()


# --- determinism ---------------------------------------------------------------------------------------------------


def test_a_cloud_depends_only_on_seed_split_and_index():
    dataset, larger = ParametricShapes(10, 64, seed=3), ParametricShapes(500, 256, seed=3)
    for index in (9, 0, 4):  # in any order
        x = dataset[index]["x"]
        assert x.shape == (64, 3)
        assert x.dtype == torch.float32
        assert torch.equal(x, dataset[index]["x"])
        assert torch.equal(x, larger[index]["x"][:64])  # the first points of a longer cloud
        assert torch.equal(x, dataset[index - 10]["x"])


def test_another_process_builds_the_same_clouds():
    code = (
        "import hashlib; from mfcdm.datasets.parametric_shapes import ParametricShapes as P;"
        "print(hashlib.sha256(P(10, 32, seed=7).stack().numpy().tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == digest(ParametricShapes(10, 32, seed=7).stack())


def test_splits_and_seeds_share_no_shape_and_no_cloud():
    sets = [ParametricShapes(30, 64, split) for split in ("train", "val", "test")] + [ParametricShapes(30, 64, seed=1)]
    areas = [dataset.surface(i).area for dataset in sets for i in range(30)]
    assert len(set(areas)) == len(areas)  # a shape's area identifies it: it is a real number
    clouds = torch.cat([dataset.stack() for dataset in sets]).reshape(-1, 3)
    assert len(torch.unique(clouds, dim=0)) == len(clouds)


def test_points_do_not_follow_the_shape_stream():
    dataset = ParametricShapes(4, 64)
    first = [dataset._stream(i, purpose).random() for i in range(4) for purpose in (0, 1)]
    assert len(set(first)) == 8


# --- content -------------------------------------------------------------------------------------------------------


def test_classes_are_balanced_and_stack_is_the_items():
    dataset = ParametricShapes(13, 16, categories=["lamp", "mug", "chair"])
    labels = [item["label"] for item in dataset]
    assert len(dataset) == len(labels) == 13
    assert dataset.categories == ("lamp", "mug", "chair")
    assert labels == dataset.labels.tolist()
    counts = np.bincount(labels)
    assert counts.max() - counts.min() <= 1
    stacked = dataset.stack()
    assert stacked.shape == (13, 16, 3)
    assert all(torch.equal(stacked[i], item["x"]) for i, item in enumerate(dataset))


def test_a_loader_makes_batches():
    batch = next(iter(DataLoader(ParametricShapes(8, 32), batch_size=8)))
    assert batch["x"].shape == (8, 32, 3)
    assert batch["label"].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]


def test_one_point_and_double_precision():
    x = ParametricShapes(1, 1, dtype=torch.float64)[0]["x"]
    assert x.shape == (1, 3)
    assert x.dtype == torch.float64


@pytest.mark.parametrize("category", SHAPES)
def test_shapes_are_normalised_and_their_points_lie_on_them(category):
    dataset = ParametricShapes(200, 256, categories=[category], seed=11)
    for index in range(200):
        surface = dataset.surface(index)
        low, high = surface.bounds
        np.testing.assert_allclose(low + high, 0, atol=1e-12)
        assert (high - low).max() == pytest.approx(1, abs=1e-12)
        # every part takes some room: nothing is flat, and the longest side is not a stray needle's
        assert (high - low).min() > 0.05
        assert 0.1 < surface.area < 8
        if index % 20 == 0:
            # float32 rounds coordinates up to 1/2 by 2^-25 at most, so a point moves by sqrt(3) 2^-25 = 5.2e-8
            assert surface.distance(dataset[index]["x"]).max() < 6e-8


@pytest.mark.parametrize("category", ["airplane", "chair", "table"])
def test_symmetric_categories_are_symmetric(category):
    dataset = ParametricShapes(12, 1, categories=[category])
    errors = []
    for index in range(12):
        surface = dataset.surface(index)
        mirrored = surface.sample(300, np.random.default_rng(index)) * [-1, 1, 1]
        errors.append(surface.distance(mirrored).max())
    # propellers with three blades, drawers on one side and star feet break the symmetry of some, not of most
    assert np.median(errors) < 0.02


def test_airplanes_face_z_and_handles_point_to_x():
    airplanes = ParametricShapes(40, 1024, categories=["airplane"]).stack()
    # what is highest (the fin) is behind the middle
    top = airplanes.gather(1, airplanes[..., 1:2].argmax(dim=1, keepdim=True).expand(-1, -1, 3))[:, 0]  # (40, 3)
    assert (top[:, 2] < 0).float().mean() > 0.8
    chairs = ParametricShapes(40, 1024, categories=["chair"]).stack()
    upper = [cloud[cloud[:, 1] > 0.3][:, 2].mean() < cloud[:, 2].mean() for cloud in chairs]
    assert np.mean(upper) > 0.95  # backs are at -z


# --- fresh points and variety --------------------------------------------------------------------------------------


def test_fresh_points_are_of_the_same_shape():
    dataset = ParametricShapes(5, 64)
    for index in range(5):
        fresh = dataset.sample(index, 500, np.random.default_rng(0))
        assert fresh.shape == (500, 3)
        assert dataset.surface(index).distance(fresh).max() < 6e-8
        assert torch.equal(fresh, dataset.sample(index, 500, np.random.default_rng(0)))
    assert not torch.equal(dataset.sample(0, 8), dataset.sample(0, 8))


@pytest.mark.parametrize("category", SHAPES)
def test_shapes_of_a_class_differ_by_more_than_sampling(category):
    n, num_points = 16, 2048
    dataset = ParametricShapes(n, num_points, categories=[category], seed=5)
    clouds = dataset.stack().numpy()
    fresh = [dataset.sample(i, num_points, np.random.default_rng(i)).numpy() for i in range(n)]
    same = np.array([chamfer(x, y) for x, y in zip(clouds, fresh, strict=True)])
    # how far two shapes are, over the distance of two samples of the less well known of them
    ratios = np.array([chamfer(clouds[i], clouds[j]) / max(same[i], same[j]) for i in range(n) for j in range(i)])
    # The noise: two samples of a flat area A are 2 A / (pi N) apart on average, because the squared distance to the
    # nearest point of a Poisson process of density N / A has the mean A / (pi N). Where two sheets are closer than
    # that (boards, walls), the density doubles and the distance halves; both are allowed 10 percent for edges.
    expected = np.array([2 * dataset.surface(i).area / (np.pi * num_points) for i in range(n)])
    assert (same < 1.1 * expected).all()
    assert (same > 0.9 * expected / 2).all()
    # Typical shapes differ by many times the noise, and even the two most similar ones by more than it.
    assert np.median(ratios) > 5
    assert ratios.min() > 1.2


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clouds": 0}, "num_clouds is 0"),
        ({"num_points": 0}, "num_points is 0"),
        ({"num_points": 2.5}, "num_points is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"split": "training"}, "'training'.*train, val, test"),
        ({"categories": ["chair", "sofa"]}, "'sofa'.*airplane, chair, table, mug, lamp"),
        ({"categories": "chair"}, "categories is 'chair'"),
        ({"categories": []}, r"categories is \[\]"),
        ({"categories": ["mug", "mug"]}, "only once"),
        ({"dtype": torch.int64}, "dtype is torch.int64"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        ParametricShapes(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("index", [3, -4, 10**9])
def test_an_index_out_of_range_is_an_index_error(index):
    dataset = ParametricShapes(3, 8)
    for access in (dataset.__getitem__, dataset.surface, lambda i: dataset.sample(i, 5)):
        with pytest.raises(IndexError, match=f"index is {index}, but num_clouds is 3"):
            access(index)
    with pytest.raises(ValueError, match="num_points is 0"):
        dataset.sample(0, 0)
