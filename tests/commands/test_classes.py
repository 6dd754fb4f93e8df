"""Clouds of a class: the final picture of train.py, and sample.py class=... guidance=..."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from mfcdm import checkpoint
from mfcdm.commands.classes import chosen_labels, title
from mfcdm.commands.data import clouds_to_show, of_classes
from mfcdm.datasets import Clouds, ParametricShapes
from tests.commands.runs import ONE_STEP, SHAPES, archive, change_config, clouds, points

SAMPLE = ("sampler.num_steps=6", "output=drawn", "device=cpu")


@pytest.fixture(scope="module")
def conditional(script, tmp_path_factory):
    """A run of two steps on the five classes of the embedded shapes."""
    folder = tmp_path_factory.mktemp("conditional") / "run"
    small = [text for text in SHAPES if text not in ("dataset=shapes", "dataset.num_clouds=6")]
    options = ("experiment=shapes", "dataset.num_clouds=10", "trainer.max_steps=2", "num_pictured=7")
    ended = script("train.py", *options, *small, f"hydra.run.dir={folder}", cwd=folder.parent)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def sample(conditional, call, tmp_path):
    """Draw from that run: (points, labels or None)."""

    def sample(*options):
        ended = call("sample", f"checkpoint={conditional}/checkpoints/last", *SAMPLE, *options)
        assert ended.code == 0, ended.err
        with np.load(tmp_path / "drawn" / "samples.npz") as samples:
            return samples["points"], samples["labels"].tolist() if "labels" in samples else None

    return sample


def test_the_experiment_is_the_embedded_shapes_with_their_classes(call):
    ended = call("train", "experiment=shapes", "--cfg", "job")
    assert ended.code == 0, ended.err
    config = yaml.safe_load(ended.out)
    assert config["name"] == "shapes"  # of the run's folder
    assert config["network"]["num_classes"] == len(config["dataset"]["categories"]) == 5
    assert config["dataset"]["num_points"] == config["subdivision"]["num_particles"] == 2048
    for changed in ("name=mine", "network=tiny"):  # the command line has the last word, the experiment the one before
        config = yaml.safe_load(call("train", "experiment=shapes", changed, "--cfg", "job").out)
        assert config["name"] == ("mine" if changed == "name=mine" else "shapes")
        assert config["network"]["num_classes"] == 5


def test_the_final_picture_of_a_run_shows_the_classes_in_turn(conditional):
    with np.load(conditional / "samples" / "samples.npz") as samples:
        assert samples["labels"].tolist() == [0, 1, 2, 3, 4, 0, 1]
        assert samples["points"].shape == (7, 64, 3)
    assert (conditional / "samples.png").is_file()


def test_a_class_goes_by_its_name_or_its_number(sample):
    named, labels = sample("class=chair", "num_clouds=2")
    assert labels == [1, 1]
    numbered, labels = sample("class=1", "num_clouds=2")
    assert labels == [1, 1]
    np.testing.assert_array_equal(named, numbered)
    other, labels = sample("class=lamp", "num_clouds=2")
    assert labels == [4, 4]
    assert np.abs(other - named).max() > 1e-3 * named.std()  # after two steps classes differ little


def test_a_number_is_a_name_before_it_is_a_position():
    known = SimpleNamespace(network=SimpleNamespace(num_classes=3), categories=("1", "2", "10"), config={})
    assert [chosen_labels(known, wanted, 1.0) for wanted in (1, 2, 10, "10", "1", 0)] == [[0], [1], [2], [2], [0], [0]]
    with pytest.raises(ValueError, match=r"class=3 is unknown; the checkpoint has 1, 2, 10, or a number from 0 to 2"):
        chosen_labels(known, 3, 1.0)


def test_clouds_take_several_classes_in_turn(sample):
    mixed, labels = sample("class=[chair,4,airplane]", "num_clouds=5")
    assert labels == [1, 4, 0, 1, 4]
    chairs, _ = sample("class=chair", "num_clouds=4")
    # of another batch: see test_cloud_depends_on_seed_and_index_alone
    np.testing.assert_allclose(mixed[[0, 3]], chairs[[0, 3]], rtol=0, atol=1e-3 * chairs.std())
    _, labels = sample("class=[chair,lamp]", "num_clouds=3", "num_particles=[16,8]")
    assert labels == [1, 4, 1]


def test_without_a_class_clouds_have_no_label(sample):
    free, labels = sample("num_clouds=2")
    assert labels is None
    ignored, _ = sample("num_clouds=2", "class=chair", "guidance=0")
    np.testing.assert_array_equal(free, ignored)


def test_guidance_leads_further_the_way_that_the_class_leads(sample):
    free, chair, guided = (
        sample("num_clouds=2", *options)[0] for options in ((), ("class=chair",), ("class=chair", "guidance=2"))
    )
    step, further = (chair - free).ravel(), (guided - chair).ravel()
    assert np.abs(further).max() > 0.1 * np.abs(step).max()
    # one path's ends: to first order in the label's small effect after two steps, the same step again
    assert step @ further > 0.5 * np.linalg.norm(step) * np.linalg.norm(further)


def test_what_is_drawn_can_be_trained_on(sample, call, tmp_path):
    sample("class=[chair,lamp]", "num_clouds=4")
    data = ("dataset=archive", f"dataset.path={tmp_path / 'drawn' / 'samples.npz'}", "network.num_classes=5")
    ended = call("train", *ONE_STEP, *data, "num_pictured=0", "hydra.run.dir=run")
    assert ended.code == 0, ended.err


def test_classes_without_names_go_by_their_numbers(call, tmp_path):
    data = archive(tmp_path / "mine.npz", points=clouds(6, 64, 3), labels=np.arange(6) % 2)
    ended = call("train", data, *ONE_STEP, "network.num_classes=2", "num_pictured=3", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    with np.load(tmp_path / "run" / "samples" / "samples.npz") as samples:
        assert samples["labels"].tolist() == [0, 1, 0]
    ended = call("sample", "checkpoint=run/checkpoints/last", *SAMPLE, "num_clouds=1", "class=[1]")
    assert ended.code == 0, ended.err
    ended = call("sample", "checkpoint=run/checkpoints/last", *SAMPLE, "class=2")
    assert (ended.code, "class=2 is unknown; the checkpoint has 0, 1" in ended.sentence) == (2, True), ended.sentence


# Real clouds beside them


def test_real_clouds_are_of_the_classes_that_are_asked_for(conditional):
    config = checkpoint.load(conditional / "checkpoints" / "last").config
    name, shown = clouds_to_show(config["dataset"], False, "global", count=3, num_points=64, labels=[4, 1])
    assert (name, len(shown)) == ("held-out data", 3)
    held_out = ParametricShapes(10, 64, split="val")
    found = [next(i for i in range(10) if torch.equal(held_out[i]["x"], cloud)) for cloud in shown]
    assert [int(held_out.labels[index]) for index in found] == [4, 1, 4]
    assert found[0] != found[2]


def test_a_class_of_which_there_are_too_few_clouds_is_left_out():
    some = Clouds(torch.arange(4.0)[:, None, None].expand(-1, 2, 3), labels=torch.tensor([0, 1, 0, 0]))
    taken = lambda labels, count: [int(cloud[0, 0]) for cloud in of_classes(some, labels, count)]  # noqa: E731
    assert taken([0, 1], 4) == [0, 1, 2]
    assert taken([5], 4) == []
    assert taken([], 2) == [0, 1]


def test_titles_name_classes_and_guidance():
    names = [f"c{label}" for label in range(12)]
    assert title(names, []) == "generated"
    assert title(names, [2, 0, 2]) == "generated: c2, c0"
    assert title(names, [1], 2.5) == "generated: c1 (guidance 2.5)"
    assert title(names, range(12)) == "generated: c0, c1, c2, c3, c4, c5, c6, c7, ..."


# Mistakes

MISTAKES = [
    (("class=sofa",), ["class=sofa", "airplane, chair, table, mug, lamp", "0 to 4"]),
    (("class=5",), ["class=5", "airplane", "0 to 4"]),
    (("class=-1",), ["class=-1", "0 to 4"]),
    (("class=[chair,sofa]",), ["class=sofa", "airplane"]),
    (("class=[]",), ["class=[]", "airplane"]),
    (("class=1.5",), ["class", "1.5", "text or a whole number"]),
    (("class=true",), ["class", "True"]),
    (("guidance=2",), ["guidance=2", "class=NAME", "airplane"]),
    (("guidance=0",), ["guidance=0", "class=NAME"]),
    (("class=chair", "guidance=-1"), ["guidance=-1", ">= 0"]),
    (("class=chair", "guidance=nan"), ["guidance=nan"]),
    (("class=chair", "guidance=inf"), ["guidance=inf"]),
    (("class=chair", "guidance=much"), ["guidance", "'much'"]),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_mistakes_with_classes_end_in_one_sentence(conditional, call, tmp_path, arguments, named):
    ended = call("sample", f"checkpoint={conditional}/checkpoints/last", *SAMPLE, *arguments)
    assert ended.code == 2
    assert all(name in ended.sentence for name in named), ended.sentence
    assert not (tmp_path / "drawn").exists()


@pytest.mark.parametrize("argument", ["class=chair", "class=[0]", "guidance=2"])
def test_a_checkpoint_without_classes_says_so(run, call, argument):
    ended = call("sample", f"checkpoint={run}/checkpoints/last", *SAMPLE, argument)
    assert ended.code == 2
    assert argument.split("=")[0] in ended.sentence
    assert "trained without classes" in ended.sentence


def test_a_network_that_never_went_without_a_label_cannot_do_without(conditional, call, tmp_path):
    copy = shutil.copytree((conditional / "checkpoints" / "last").resolve(), tmp_path / "copy")
    change_config(copy, "objective", label_dropout=0.0)
    for arguments, named in (((), "class=NAME"), (("class=chair", "guidance=2"), "guidance=2")):
        ended = call("sample", f"checkpoint={copy}", *SAMPLE, *arguments)
        assert (ended.code, named in ended.sentence, "label_dropout" in ended.sentence) == (2, True, True)
    assert call("sample", f"checkpoint={copy}", *SAMPLE, "num_clouds=1", "class=chair").code == 0
    assert points(tmp_path / "drawn").shape == (1, 64, 3)


@pytest.mark.parametrize("share", ["1", "-0.5", "often"])
def test_a_label_dropout_that_is_none_ends_in_one_sentence(call, share):
    ended = call("train", *SHAPES, "trainer.max_steps=1", f"objective.label_dropout={share}")
    assert (ended.code, "label_dropout" in ended.sentence, share in ended.sentence) == (2, True, True)
