import numpy as np
import pytest
import torch

from mfcdm.commands.data import NothingHeldOut, clouds_to_show, held_out_clouds, open_data
from mfcdm.datasets import Clouds, ParametricShapes
from tests.commands.runs import clouds

OFF = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 {}\n3 0 1 2\n"


def held_out(config, num_clouds=4, seed=0) -> Clouds:
    return held_out_clouds(config, True, Clouds.of(open_data(config, True)), num_clouds, seed)


@pytest.mark.parametrize("config", ["x", 3, ["x"], None])
def test_a_data_set_that_is_no_group_is_refused(config):
    with pytest.raises(ValueError, match="must be a group of keys with a _target_") as raised:
        open_data(config, False)
    assert f"dataset={config}" in str(raised.value)
    with pytest.raises(ValueError, match="must be a group of keys with a _target_"):
        clouds_to_show(config, False, "global", 1, 8)


def test_embedded_shapes_are_held_out_by_their_own_split():
    config = {"_target_": "mfcdm.datasets.ParametricShapes", "num_clouds": 10, "num_points": 8, "split": "train"}
    chosen = held_out(config)
    split = Clouds.of(ParametricShapes(10, 8, split="val"))
    found = [[torch.equal(cloud, other) for other in split.x].index(True) for cloud in chosen.x]
    assert len(set(found)) == 4
    assert chosen.labels.tolist() == split.labels[found].tolist()


def test_test_clouds_are_never_used(tmp_path):
    for split in ("train", "test"):
        for index in range(5):
            path = tmp_path / "ModelNet10" / "chair" / split / f"chair_{index}.off"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(OFF.format(index))
    config = {"_target_": "mfcdm.datasets.ModelNet", "path": str(tmp_path), "split": "train", "num_points": 8}
    with pytest.raises(NothingHeldOut, match="split must be train or test, which is all that ModelNet has, got 'val'"):
        held_out(config)


def test_a_training_set_that_holds_split_val_leaves_nothing(tmp_path):
    val = clouds(5, 8, 3)
    np.savez(tmp_path / "clouds.npz", val=val, trainval=np.concatenate([clouds(5, 8, 3, seed=1), val]))
    config = {"_target_": "mfcdm.datasets.CloudArchive", "path": str(tmp_path / "clouds.npz"), "split": "trainval"}
    with pytest.raises(NothingHeldOut, match="split val holds training clouds only"):
        held_out(config)


def test_folders_with_splits_have_one_and_those_without_have_none(tmp_path):
    for split, seed in (("train", 0), ("val", 1)):
        for index, cloud in enumerate(clouds(5, 8, 3, seed=seed)):
            (tmp_path / "split" / split).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "split" / split / f"{index}.npy", cloud)
    folder = {"_target_": "mfcdm.datasets.open_dataset", "split": "train"}
    assert len(held_out({**folder, "path": str(tmp_path / "split")})) == 4
    with pytest.raises(NothingHeldOut, match="training clouds only"):
        held_out({**folder, "path": str(tmp_path / "split" / "train")})


def test_a_data_set_without_splits_has_none():
    with pytest.raises(NothingHeldOut, match="no splits"):
        held_out_clouds({"_target_": "somewhere.Else"}, True, Clouds(torch.zeros(1, 1, 3)), 4, 0)


def test_a_held_out_cloud_that_cannot_be_used_is_named(tmp_path):
    for split in ("train", "val"):
        for index, cloud in enumerate(clouds(5, 8, 3)):
            (tmp_path / split).mkdir(exist_ok=True)
            np.save(tmp_path / split / f"{index}.npy", cloud * (np.nan if (split, index) == ("val", 3) else 1))
    config = {"_target_": "mfcdm.datasets.open_dataset", "split": "train", "path": str(tmp_path)}
    with pytest.raises(ValueError, match=r"val/3\.npy has 8 points with NaN"):
        held_out(config, num_clouds=5)
