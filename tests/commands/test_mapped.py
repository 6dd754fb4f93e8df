"""Runs on clouds that stay in their files."""

import numpy as np
import pytest

from mfcdm.commands.convert import main
from mfcdm.commands.data import NothingHeldOut, clouds_to_show, held_out_clouds, read_clouds
from mfcdm.datasets import Clouds, MappedArchive, MappedClouds
from tests.commands.runs import TINY, VALIDATED, clouds, records

SPLITS = {"train": (12, 80, 3), "val": (6, 80, 3)}


@pytest.fixture
def both(tmp_path):
    """The same clouds, in float32, as one file and as a mapped archive."""
    arrays = {name: clouds(*shape, seed=len(name)).astype(np.float32) for name, shape in SPLITS.items()}
    np.savez(tmp_path / "clouds.npz", **arrays)
    main([str(tmp_path / "clouds.npz"), str(tmp_path / "mapped"), "--shard-clouds", "5"])
    return tmp_path / "clouds.npz", tmp_path / "mapped"


def config(path, split="train"):
    return {"_target_": "mfcdm.datasets.CloudArchive", "path": str(path), "split": split, "category": None, "key": None}


def test_a_run_on_files_ends_in_the_weights_of_one_in_memory(call, both, tmp_path):
    found = []
    for name, data in zip(("memory", "files"), both, strict=True):
        run = tmp_path / name
        options = (*TINY, *VALIDATED, "trainer.max_steps=3", "num_pictured=2", "augmentation=standard")
        ended = call("train", "dataset=archive", f"dataset.path={data}", *options, f"hydra.run.dir={run}")
        assert ended.code == 0, ended.err
        weights = (run / "checkpoints" / "last" / "network.safetensors").read_bytes()
        validated = [record["validation/1nna-cd"] for record in records(run) if "validation/1nna-cd" in record]
        found.append((weights, validated))
    assert found[0] == found[1]


def test_unknown_keys_and_damaged_files_end_in_a_sentence(call, both, tmp_path):
    ended = call("train", f"dataset.path={both[1]}", *TINY, "+augmentation.turn=3", f"hydra.run.dir={tmp_path / 'a'}")
    assert ended.code == 2
    assert "augmentation.turn is unknown" in ended.sentence
    path = both[1] / "train-00001.npy"
    path.write_bytes(path.read_bytes()[:-1])
    ended = call("train", f"dataset.path={both[1]}", *TINY, f"hydra.run.dir={tmp_path / 'a'}")
    assert ended.code == 2
    assert f"{path} has" in ended.sentence
    assert "it is damaged" in ended.sentence


def test_clouds_are_read_only_where_they_are_needed(both, monkeypatch):
    asked, read = [], MappedArchive.points
    monkeypatch.setattr(MappedArchive, "points", lambda self, *at: asked.append((self.split, at[0])) or read(self, *at))
    training = read_clouds(config(both[1]), False)
    assert isinstance(training, MappedClouds)
    assert asked == []
    held_out = held_out_clouds(config(both[1]), False, training, 4, 0)
    assert sum(split == "val" for split, _ in asked) == len(held_out) == 4
    expected = held_out_clouds(config(both[0]), False, Clouds.of(training.archive), 4, 0)
    assert np.array_equal(held_out.x, expected.x)
    asked.clear()
    _, shown = clouds_to_show(config(both[1]), False, "box", count=2, num_points=8)
    assert len(shown) == 2
    with pytest.raises(NothingHeldOut, match="training clouds only"):
        held_out_clouds(config(both[1]), False, read_clouds(config(both[1], "val"), False), 4, 0)
