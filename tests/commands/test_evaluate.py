"""evaluate.py: a table on stdout, a report in a file, and one sentence for every mistake."""

import hashlib
import json

import numpy as np
import pytest
import torch

from tests.commands.runs import clouds

QUICK = ("protocol.num_permutations=20", "device=cpu")


@pytest.fixture
def files(tmp_path):
    """Six generated clouds and an archive with splits of eight."""
    np.savez(tmp_path / "samples.npz", points=clouds(6, 20, 3))
    np.savez(tmp_path / "data.npz", train=clouds(9, 24, 3, seed=2), val=clouds(8, 24, 3, seed=1))
    return tmp_path


def test_scores_are_shown_and_written(script, files):
    options = ("generated=samples.npz", "reference=data.npz", "protocol=mfcdm", "output=out/report.json", *QUICK)
    ended = script("evaluate.py", *options, cwd=files)
    assert ended.code == 0, ended.err
    report = json.loads((files / "out" / "report.json").read_text())
    assert list(report["scores"]) == ["mmd-cd", "cov-cd", "1nna-cd", "mmd-emd", "cov-emd", "1nna-emd", "jsd"]
    assert all(f"{key} " in ended.out for key in report["scores"])
    assert "mfcdm: 2048 random points a cloud" in ended.out
    assert "note: reference: 6 of 8 clouds, a random subset without replacement, seed 0" in ended.out
    assert "…" not in ended.out  # nothing is cut
    for name, split in (("generated", "train"), ("reference", "val")):
        about = report["files"][name]
        assert about["split"] == split
        assert about["sha256"] == hashlib.sha256((files / about["path"]).read_bytes()).hexdigest()
    assert not list(files.rglob(".*"))
    assert ended.err.splitlines()[-1] == "report: out/report.json"


def test_splits_formats_and_no_file(call, files):
    torch.save(torch.from_numpy(clouds(6, 20, 3)).float(), files / "samples.pth")
    options = ("generated=samples.pth", "reference=data.npz", "reference_split=train", "output=null", *QUICK)
    ended = call("evaluate", *options, "protocol.metrics=[cd]")
    assert ended.code == 0, ended.err
    assert "reference: 6 of 9 clouds" in ended.out
    assert not (files / "report.json").exists()


def test_batches_are_called_what_they_are(call, files):
    options = ("generated=samples.npz", "reference=data.npz", "protocol.pooling=batches", "protocol.batch_size=3")
    ended = call("evaluate", *options, "protocol.metrics=[cd]", *QUICK)
    assert ended.code == 0, ended.err
    assert "AVERAGED OVER BATCHES OF 3: flatters" in ended.out
    assert json.loads((files / "report.json").read_text())["scores"]["1nna-cd"]["low"] is None


def broken(files, **arrays):
    np.savez(files / "broken.npz", **arrays)
    return "generated=broken.npz"


def with_nan():
    array = clouds(6, 20, 3)
    array[2, 5, 1] = np.nan
    return array


MISTAKES = [
    (("generated=absent.npz",), ["absent.npz"]),
    (("generated=absent.pt",), ["absent.pt"]),
    (("reference_split=tset",), ["tset", "val"]),
    (("protocol=unheard_of",), ["unheard_of", "mfcdm"]),
    (("protocol.pooling=mean",), ["protocol.pooling", "full", "'mean'"]),
    (("protocol.num_points=1",), ["protocol.num_points", "1"]),
    (("protocol.num_points=many",), ["protocol.num_points", "'many'"]),
    (("protocol.metrics=[fid]",), ["protocol.metrics", "fid"]),
    (("protocol.unequal=refuse",), ["6 generated and 8 reference", "protocol.unequal=subset"]),
    (("protocol=pvd",), ["6 generated and 8 reference", "pvd"]),
    (("+protocol.seeed=1",), ["seeed"]),
    (("+points=1",), ["points is unknown"]),
    (("device=gpu",), ["device=gpu"]),
    (("output=.",), ["output=.", "folder"]),
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_mistakes_end_in_one_sentence(call, files, arguments, named):
    ended = call("evaluate", "generated=samples.npz", "reference=data.npz", *QUICK, *arguments)
    assert ended.code == 2
    assert all(name in ended.sentence for name in named), ended.sentence
    assert not (files / "report.json").exists()


BROKEN = [
    ({"points": with_nan()}, ["cloud 2", "NaN"]),
    ({"points": clouds(1, 20, 3)}, ["holds 1 cloud"]),
    ({"points": clouds(6, 1, 3)}, ["cloud 0 has 1 point"]),
    ({"points": clouds(0, 20, 3)}, ["broken.npz"]),
    ({"points": clouds(6, 20, 2)}, ["dimension 2", "dimension 3"]),
    ({"points": clouds(6, 3, 20)}, ["dimension 20"]),
    ({"points": clouds(6, 20)}, ["broken.npz"]),
]


@pytest.mark.parametrize(("arrays", "named"), BROKEN, ids=[named[0] + str(i) for i, (_, named) in enumerate(BROKEN)])
def test_unusable_clouds_end_in_one_sentence(call, files, arrays, named):
    ended = call("evaluate", broken(files, **arrays), "reference=data.npz", *QUICK)
    assert ended.code == 2
    assert all(name in ended.sentence for name in named), ended.sentence


def test_an_empty_folder_where_the_user_stands_is_left_alone(call, files, monkeypatch):
    (files / "empty").mkdir()
    monkeypatch.chdir(files / "empty")
    options = ("generated=../samples.npz", "reference=../data.npz", "output=null", "protocol.metrics=[cd]", *QUICK)
    assert call("evaluate", *options).code == 0
    assert (files / "empty").is_dir()


def test_files_have_to_be_named(call, files):
    ended = call("evaluate", "reference=data.npz")
    assert (ended.code, "generated" in ended.sentence) == (2, True)
