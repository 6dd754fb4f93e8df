"""Public data sets, as miniatures in their true layouts."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from mfcdm.datasets import Clouds, ModelNet, ShapeNet15k, ShapeNetPart
from mfcdm.datasets.categories import SHAPENET
from mfcdm.datasets.modelnet import MODELNET10, MODELNET40
from mfcdm.datasets.processed import SHAPENET_PART
from mfcdm.datasets.shapenet_part import CATEGORIES


def cloud(n, seed):
    return np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)


def same(dataset, clouds):
    return len(dataset) == len(clouds) and all(
        np.array_equal(item["x"].numpy(), x) for item, x in zip(dataset, clouds, strict=True)
    )


def labels(dataset):
    return [item["label"] for item in dataset]


# ShapeNetCore.v2.PC15k


@pytest.fixture
def shapenet15k(tmp_path):
    for synset, count in (("02691156", 3), ("03001627", 2)):
        for split, base in (("train", 0), ("val", 10)):
            (tmp_path / synset / split).mkdir(parents=True)
            for i in range(count):
                np.save(tmp_path / synset / split / f"{chr(97 + i)}0f.npy", cloud(20, base + i + int(synset)))
    return tmp_path


def test_shapenet15k_reads_categories_in_the_order_of_names(shapenet15k):
    airplanes = ShapeNet15k(shapenet15k, "train")
    assert airplanes.categories == ("airplane",)
    assert same(airplanes, [cloud(20, i + 2691156) for i in range(3)])
    every = ShapeNet15k(shapenet15k, "val", category=None)
    assert every.categories == ("airplane", "chair")
    assert labels(every) == [0, 0, 0, 1, 1]
    assert same(
        every, [cloud(20, 10 + i + 2691156) for i in range(3)] + [cloud(20, 10 + i + 3001627) for i in range(2)]
    )
    assert labels(ShapeNet15k(shapenet15k, "train", ["chair", "02691156"])) == [0, 0, 0, 1, 1]
    assert same(
        ShapeNet15k(shapenet15k, category="chair", num_points=4), [cloud(20, i + 3001627)[:4] for i in range(2)]
    )


def test_shapenet15k_refuses_what_is_not_there(shapenet15k, tmp_path):
    with pytest.raises(ValueError, match="has no category 'car'; it has airplane, chair"):
        ShapeNet15k(shapenet15k, category="car")
    with pytest.raises(FileNotFoundError, match=r"02691156/test holds no \.npy files"):
        ShapeNet15k(shapenet15k, "test")
    with pytest.raises(FileNotFoundError, match="gone is not a folder"):
        ShapeNet15k(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="holds no <synset>"):
        ShapeNet15k(shapenet15k / "02691156")
    with pytest.raises(ValueError, match="num_points must be"):
        ShapeNet15k(shapenet15k, num_points=0)
    with pytest.raises(ValueError, match=r"a0f\.npy has 20 points, num_points=21 is too many"):
        ShapeNet15k(shapenet15k, num_points=21)[0]
    np.save(shapenet15k / "02691156" / "train" / "a0f.npy", np.zeros((20, 2)))
    with pytest.raises(ValueError, match=r"a0f\.npy must hold points \(N, 3\)"):
        ShapeNet15k(shapenet15k)[0]


def test_all_categories_of_shapenet_are_known():
    assert len(SHAPENET) == len(set(SHAPENET.values())) == 55
    assert all(len(synset) == 8 and synset.isdecimal() for synset in SHAPENET.values())


# ModelNet


def triangle_off(height):
    """A right triangle in the plane z = height."""
    return f"OFF\n3 1 0\n0 0 {height}\n1 0 {height}\n0 1 {height}\n3 0 1 2\n"


def make_modelnet(raw, categories):
    """One training mesh a category and two test meshes, each at a height of its own."""
    for place, category in enumerate(categories):
        for split, numbers in (("train", (1,)), ("test", (2, 3))):
            (raw / category / split).mkdir(parents=True)
            for number in numbers:
                path = raw / category / split / f"{category}_{number:04d}.off"
                path.write_text(triangle_off(10 * place + number))
    return raw


def heights(dataset):
    return [float(item["x"][:, 2].unique()) for item in dataset]


@pytest.mark.parametrize("folder", ["ModelNet10", "raw", "ModelNet10/raw", "."])
def test_modelnet_reads_the_unpacked_archive(tmp_path, folder):
    make_modelnet(tmp_path / folder, ["chair", "night_stand"])
    test = ModelNet(tmp_path, "test", num_points=30)
    assert test.categories == ("chair", "night_stand")
    assert labels(test) == [0, 0, 1, 1]
    assert heights(test) == [2, 3, 12, 13]
    assert Clouds.of(test).x.shape == (4, 30, 3)
    x = test[0]["x"]
    assert torch.equal(ModelNet(tmp_path, "test", num_points=30)[0]["x"], x)
    assert not torch.equal(ModelNet(tmp_path, "test", num_points=30, seed=1)[0]["x"], x)
    assert not torch.equal(test[1]["x"][:, :2], x[:, :2])
    stands = ModelNet(tmp_path, "train", category="night_stand")
    assert (stands.categories, labels(stands), heights(stands)) == (("night_stand",), [0], [11])
    assert stands[0]["x"].shape == (2048, 3)


def test_modelnet_refuses_what_is_not_there(tmp_path):
    for name in ("10", "40"):
        with pytest.raises(FileNotFoundError, match=rf"neither ModelNet{name}/.*\.off nor processed.*unpack it"):
            ModelNet(tmp_path, name=name)
    make_modelnet(tmp_path / "raw", ["airplane", "chair"])
    assert labels(ModelNet(tmp_path, name=40)) == [0, 1]
    for options, sentence in (
        ({}, "holds airplane, which is not in ModelNet10"),
        ({"name": "20"}, "name must be 10 or 40"),
        ({"name": "40", "split": "val"}, "train or test"),
        ({"name": "40", "category": "sofa"}, "has no category 'sofa'; it has airplane, chair"),
        ({"name": "40", "num_points": 0}, "num_points must be"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ModelNet(tmp_path, **options)
    (tmp_path / "raw/chair/train/chair_0001.off").write_text("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n")
    with pytest.raises(ValueError, match=r"chair_0001\.off holds no faces"):
        ModelNet(tmp_path, name="40", category="chair")[0]
    (tmp_path / "raw/chair/train/chair_0001.off").unlink()
    with pytest.raises(FileNotFoundError, match="holds no train files of chair"):
        ModelNet(tmp_path, name="40", category="chair")


def test_modelnet_names():
    assert (len(MODELNET10), len(set(MODELNET40))) == (10, 40)
    assert set(MODELNET10) < set(MODELNET40)
    assert list(MODELNET40) == sorted(MODELNET40)  # as PyTorch Geometric numbers them


def test_processed_modelnet_gives_the_same_clouds(tmp_path, capsys):
    """PyTorch Geometric processes the miniature; then the raw files go."""
    from torch_geometric.datasets import ModelNet as Original

    make_modelnet(tmp_path / "raw", MODELNET10)
    Original(str(tmp_path), "10")
    raw = {split: ModelNet(tmp_path, split, ["desk", "toilet"], num_points=9) for split in ("train", "test")}
    expected = {split: [(item["label"], item["x"]) for item in dataset] for split, dataset in raw.items()}
    shutil.rmtree(tmp_path / "raw")
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    for split, items in expected.items():
        processed = ModelNet(tmp_path, split, ["desk", "toilet"], num_points=9)
        assert processed.categories == ("desk", "toilet")
        assert labels(processed) == [label for label, _ in items]
        assert sorted(heights(processed)) == sorted(float(x[0, 2]) for _, x in items)  # files come in any order
        if split == "train":  # one file a category, so the order is known, and with it the points
            assert all(torch.equal(item["x"], x) for item, (_, x) in zip(processed, items, strict=True))
    assert sorted(tmp_path.rglob("*")) == before  # nothing downloaded, nothing written
    assert capsys.readouterr() == ("", "")


# ShapeNet's part annotation


def part_cloud(seed):
    """Columns x y z nx ny nz part, with the six decimals of the files."""
    return np.column_stack([np.random.default_rng(seed).normal(size=(4 + seed, 6)).round(6), np.full(4 + seed, 12)])


SPLITS = {
    "train": ["03001627/1c", "02691156/2a", "03001627/3c"],
    "val": ["02691156/4a"],
    "test": ["03001627/5c", "02691156/6a"],
}


@pytest.fixture(params=["raw", SHAPENET_PART, "."])
def shapenet_part(request, tmp_path):
    make_part(tmp_path / request.param)
    return tmp_path


def make_part(raw, categories=("02691156", "03001627")):
    for synset in categories:
        (raw / synset).mkdir(parents=True)
    (raw / "train_test_split").mkdir()
    for split, models in SPLITS.items():
        listed = [f"shape_data/{model}" for model in models]
        (raw / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(listed))
        for model in models:
            np.savetxt(raw / f"{model}.txt", part_cloud(int(model[9])), fmt="%.6f")


def parts(*seeds):
    return [part_cloud(seed)[:, :3].astype(np.float32) for seed in seeds]


def test_shapenet_part_follows_the_lists(shapenet_part):
    train = ShapeNetPart(shapenet_part, "train")
    assert train.categories == tuple(sorted(CATEGORIES))
    assert same(train, parts(1, 2, 3))  # in the order of the list
    assert labels(train) == [4, 0, 4]
    assert Clouds.of(train).lengths.tolist() == [5, 6, 7]
    assert same(ShapeNetPart(shapenet_part, "trainval"), parts(1, 2, 3, 4))
    chairs = ShapeNetPart(shapenet_part, "test", category="Chair")  # as PyTorch Geometric spells it
    assert (chairs.categories, labels(chairs)) == (("chair",), [0])
    assert same(chairs, parts(5))
    both = ShapeNetPart(shapenet_part, "test", category=["chair", "airplane"])
    assert (both.categories, labels(both)) == (("airplane", "chair"), [1, 0])


def test_shapenet_part_refuses_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither .*shuffled_train_file_list\.json nor processed.*unpack it"):
        ShapeNetPart(tmp_path)
    make_part(tmp_path)
    with pytest.raises(ValueError, match="split must be one of train, val, test, trainval, got 'valid'"):
        ShapeNetPart(tmp_path, "valid")
    with pytest.raises(ValueError, match=r"category must be of airplane, bag, .*got 'sofa'"):
        ShapeNetPart(tmp_path, category="sofa")
    with pytest.raises(FileNotFoundError, match="holds no val clouds of chair"):
        ShapeNetPart(tmp_path, "val", category="chair")
    (tmp_path / "03001627" / "3c.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"3c\.txt is not there, but the list of train names it"):
        ShapeNetPart(tmp_path)


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ('["shape_data/../../secret"]', "lists 'shape_data/../../secret', which is not"),
        ('["shape_data/03001627/../secret"]', "which is not"),
        ("[1]", "is not a list of"),
        ("[", "is not a list of"),
    ],
)
def test_shapenet_part_stays_in_its_folder(tmp_path, listed, reason):
    make_part(tmp_path)
    (tmp_path / "train_test_split" / "shuffled_train_file_list.json").write_text(listed)
    with pytest.raises(ValueError, match=reason):
        ShapeNetPart(tmp_path)


@pytest.mark.parametrize("processed_of", ["all", "both"])
def test_processed_shapenet_part_gives_the_same_clouds(tmp_path, processed_of):
    from torch_geometric.datasets import ShapeNet as Original

    assert {name.lower(): synset for name, synset in Original.category_ids.items()} == CATEGORIES
    make_part(tmp_path / "raw", CATEGORIES.values())
    Original(str(tmp_path), categories=None if processed_of == "all" else ["Airplane", "Chair"])
    shutil.rmtree(tmp_path / "raw")
    before = sorted(tmp_path.rglob("*"))
    both = ShapeNetPart(tmp_path, "train", category=["chair", "airplane"])
    assert (both.categories, labels(both)) == (("airplane", "chair"), [1, 0, 1])
    assert same(both, parts(1, 2, 3))
    if processed_of == "all":
        assert same(ShapeNetPart(tmp_path, "test", category="airplane"), parts(6))
    else:
        with pytest.raises(FileNotFoundError, match="holds neither"):
            ShapeNetPart(tmp_path, "test", category="airplane")
    assert sorted(tmp_path.rglob("*")) == before


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was run",)


@pytest.mark.parametrize("content", ["torch", "pickle", "junk", "empty"])
def test_hostile_processed_files_run_nothing(tmp_path, content):
    (tmp_path / "processed").mkdir()
    for name in ("training.pt", "cha_train.pt", "pre_transform.pt", "pre_filter.pt"):
        path = tmp_path / "processed" / name
        if content == "torch":
            torch.save(({"pos": torch.zeros(1, 3)}, {}, Bomb()), path)
        else:
            path.write_bytes({"pickle": pickle.dumps(Bomb()), "junk": b"junk", "empty": b""}[content])
    with pytest.raises(ValueError, match=r"training\.pt cannot be read: it is damaged, or holds more than tensors$"):
        ModelNet(tmp_path)
    with pytest.raises(ValueError, match=r"cha_train\.pt cannot be read"):
        ShapeNetPart(tmp_path, category="chair")
