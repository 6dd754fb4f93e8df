import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from mfcdm.commands.convert import main
from mfcdm.datasets import (
    CloudArchive,
    CloudFolder,
    Layout,
    MappedArchive,
    ModelNet,
    ShapeNet15k,
    ShapeNetPart,
    open_dataset,
    write_archive,
)
from mfcdm.datasets.mapped_index import read_index
from tests.datasets.mapped_archives import EQUAL, MIXED, Made, written

TRIANGLE = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 {} 0\n3 0 1 2\n"


def clouds(count, seed=0, n=9):
    return np.random.default_rng(seed).normal(size=(count, n, 3))


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def check_same(folder, split, dataset):
    found = MappedArchive(folder, split)
    assert found.categories == tuple(dataset.categories)
    assert len(found) == len(dataset)
    for item, expected in zip(found, (dataset[index] for index in range(len(dataset))), strict=True):
        assert torch.equal(item["x"], expected["x"])
        assert item.get("label") == expected.get("label")


def call(capsys, *given):
    """The exit code and what was said."""
    code = 0
    try:
        main([str(part) for part in given])
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert out == ""
    return code, err.strip()


def test_archives_keep_splits_labels_and_sizes(tmp_path, capsys):
    ragged = [cloud[: 3 + index] for index, cloud in enumerate(clouds(5))]
    arrays = {
        "points": np.concatenate(ragged),
        "offsets": np.cumsum([0, *map(len, ragged)]),
        "labels": np.arange(5) % 2,
    }
    np.savez(tmp_path / "a.npz", **{f"{split}/{name}": x for split in ("train", "test") for name, x in arrays.items()})
    assert call(capsys, tmp_path / "a.npz", tmp_path / "a", "--shard-clouds", 2)[0] == 0
    assert set(read_index(tmp_path / "a").splits) == {"train", "test"}
    for split in ("train", "test"):
        check_same(tmp_path / "a", split, CloudArchive(tmp_path / "a.npz", split))
    np.save(tmp_path / "b.npy", clouds(5))
    assert call(capsys, tmp_path / "b.npy", tmp_path / "b")[0] == 0
    assert set(read_index(tmp_path / "b").splits) == {"train"}  # one array, which would serve every split
    check_same(tmp_path / "b", "train", CloudArchive(tmp_path / "b.npy"))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        for index, synset in enumerate(("02691156", "03001627")):
            for split, count in (("train", 3), ("val", 2)):
                file[f"{synset}/{split}"] = clouds(count, index)
    assert call(capsys, tmp_path / "c.h5", tmp_path / "c")[0] == 0
    for split in ("train", "val"):
        check_same(tmp_path / "c", split, CloudArchive(tmp_path / "c.h5", split))
    assert MappedArchive(tmp_path / "c").categories == ("airplane", "chair")
    code, said = call(capsys, tmp_path / "c", tmp_path / "d", "--category", "chair", "--dtype", "float16")
    assert (code, said) == (0, f"{tmp_path / 'd'}: 3 clouds of train, 2 clouds of val, 1 class, float16, 0.0 MiB")
    found = MappedArchive(tmp_path / "d")
    assert torch.equal(found[2]["x"], torch.from_numpy(clouds(3, 1)[2]).float().half().float())


def test_folders_and_public_sets_keep_splits_and_categories(tmp_path, capsys):
    files = {
        "modelnet/ModelNet10/chair/train/chair_1.off": TRIANGLE.format(1),
        "modelnet/ModelNet10/chair/test/chair_2.off": TRIANGLE.format(2),
        "modelnet/ModelNet10/bed/train/bed_1.off": TRIANGLE.format(3),
        "part/train_test_split/shuffled_train_file_list.json": '["shape_data/03001627/a"]',
        "part/train_test_split/shuffled_val_file_list.json": '["shape_data/03001627/b"]',
        "part/03001627/a.txt": "0 0 0 1 0 0 12\n1 1 1 1 0 0 12\n",
        "part/03001627/b.txt": "0 2 0 1 0 0 12\n",
        "folder/train/a.off": TRIANGLE.format(1),
        "folder/val/b.off": TRIANGLE.format(2),
        "flat/a.xyz": "0 0 1\n1 0 1\n",
        "flat/b.xyz": "0 0 2\n1 0 2\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for split in ("train", "val"):
        (tmp_path / "15k/02691156" / split).mkdir(parents=True)
        np.save(tmp_path / "15k/02691156" / split / "a.npy", clouds(1, len(split))[0])
    cases = [
        ("modelnet", "modelnet10", {name: ModelNet(tmp_path / "modelnet", name) for name in ("train", "test")}),
        ("part", "shapenet_part", {name: ShapeNetPart(tmp_path / "part", name) for name in ("train", "val")}),
        ("15k", "shapenet15k", {name: ShapeNet15k(tmp_path / "15k", name) for name in ("train", "val")}),
        ("folder", "auto", {name: CloudFolder(tmp_path / "folder", name) for name in ("train", "val")}),
        ("flat", "folder", {"train": CloudFolder(tmp_path / "flat")}),
    ]
    for source, kind, expected in cases:
        output = tmp_path / f"{source}-mapped"
        assert call(capsys, tmp_path / source, output, "--format", kind)[0] == 0
        assert set(read_index(output).splits) == set(expected)
        for split, dataset in expected.items():
            check_same(output, split, dataset)
    assert call(capsys, tmp_path / "folder", tmp_path / "few", "--points", 5, "--seed", 3)[0] == 0
    check_same(tmp_path / "few", "val", CloudFolder(tmp_path / "folder", "val", num_points=5, seed=3))


def test_points_are_a_random_subset_without_replacement(tmp_path):
    """Each of 40 points is kept in half of 200 clouds, but for the error of that many coins."""
    ramp = torch.arange(40.0)[:, None].expand(-1, 3)
    made = Made([40] * 200)
    made.clouds = [ramp] * 200
    kept = [item["x"][:, 0].long() for item in written(tmp_path / "a", made, num_points=20)]
    assert all(len(set(rows.tolist())) == 20 for rows in kept)
    share = torch.bincount(torch.cat(kept), minlength=40) / 200
    # Five standard errors of a share of 200 fair coins; the largest of 40 exceeds that once in 40,000 seeds.
    assert float((share - 0.5).abs().max()) < 5 * (0.25 / 200) ** 0.5
    again = written(tmp_path / "b", made, num_points=20)
    assert all(torch.equal(item["x"][:, 0].long(), rows) for item, rows in zip(again, kept, strict=True))
    with pytest.raises(ValueError, match="place 1 has 5 points, so 6 of them cannot be kept"):
        written(tmp_path / "c", Made([7, 5]), num_points=6)
    assert not (tmp_path / "c").exists()


def test_shares_of_the_training_clouds_become_splits(tmp_path, capsys):
    np.save(tmp_path / "a.npy", clouds(20))
    given = ("--split-val", 0.2, "--split-test", 0.15)
    assert call(capsys, tmp_path / "a.npy", tmp_path / "a", *given)[0] == 0
    found = {name: [item["x"] for item in MappedArchive(tmp_path / "a", name)] for name in ("train", "val", "test")}
    assert {name: len(split) for name, split in found.items()} == {"train": 13, "val": 4, "test": 3}
    firsts = [float(x[0, 0]) for split in found.values() for x in split]
    assert sorted(firsts) == sorted(clouds(20)[:, 0, 0].astype(np.float32).tolist())
    assert call(capsys, tmp_path / "a.npy", tmp_path / "b", *given, "--seed", 1)[0] == 0
    assert content(tmp_path / "b")["val-00000.npy"] != content(tmp_path / "a")["val-00000.npy"]


@pytest.mark.parametrize(
    ("spoil", "layout", "sentence"),
    [
        (lambda made: made.clouds[6].__setitem__((2, 1), torch.nan), {}, "place 6 has 1 point with NaN or infinite"),
        (lambda made: made.clouds[6].mul_(1e4), {"dtype": "float16"}, "place 6 has coordinates up to .*, too large"),
        (lambda made: made.clouds.__setitem__(6, torch.zeros(3, 2)), {}, "place 6 has dimension 2, the ones before"),
        (lambda made: made.clouds.__setitem__(6, torch.zeros(0, 3)), {}, "place 6 must be"),
        (lambda made: setattr(made, "clouds", []), {}, "split train has no clouds"),
        (lambda _: None, {"dtype": "float64"}, "dtype must be float32 or float16"),
        (lambda _: None, {"shard_clouds": 0}, "shard_clouds must be >= 1"),
    ],
)
def test_what_cannot_be_written_is_refused_by_name_and_leaves_nothing(tmp_path, spoil, layout, sentence):
    made = Made(MIXED)
    spoil(made)
    with pytest.raises(ValueError, match=sentence):
        written(tmp_path / "a", made, **layout)
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=sentence):
        written(tmp_path / "b", made, **layout)
    assert list((tmp_path / "b").iterdir()) == []


def test_splits_whose_labels_mean_different_things_are_refused(tmp_path):
    with pytest.raises(ValueError, match="split val has the categories lamp, but train has chair, lamp"):
        write_archive(tmp_path / "a", {"train": Made(categories=("chair", "lamp")), "val": Made(categories=("lamp",))})
    with pytest.raises(ValueError, match="different dimensions"):
        write_archive(tmp_path / "a", {"train": Made(), "val": Made(dim=2)})


def killed_after(folder, made, count):
    """A process that converts, and is killed while it asks for a cloud."""
    child = os.fork()
    if child == 0:
        try:
            read = made.clouds[count:]
            made.clouds[count:] = [None] * len(read)
            Made.__getitem__ = lambda self, index: (
                {"x": self.clouds[index]} if index < count else os.kill(os.getpid(), signal.SIGKILL)
            )
            write_archive(folder, {"train": made}, Layout(shard_clouds=4))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)


@pytest.mark.parametrize("count", [0, 3, 4, 9])
def test_a_killed_conversion_reads_as_nothing_and_runs_again(tmp_path, count):
    made = Made(EQUAL)
    killed_after(tmp_path / "a", made, count)
    assert (tmp_path / "a" / "index.json").exists()
    with pytest.raises(ValueError, match=r"index\.json is refused: the conversion that wrote it did not finish"):
        open_dataset(tmp_path / "a")
    (tmp_path / "a" / "notes.txt").write_text("the user's own")
    with pytest.raises(FileExistsError, match="is there already"):
        written(tmp_path / "a", made)
    assert (tmp_path / "a" / "notes.txt").read_text() == "the user's own"
    (tmp_path / "a" / "notes.txt").unlink()
    killed_after(tmp_path / "a", made, count)
    written(tmp_path / "a", made)
    written(tmp_path / "b", made)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_what_is_there_is_never_written_over(tmp_path):
    written(tmp_path / "a", Made(EQUAL))
    before = content(tmp_path / "a")
    with pytest.raises(FileExistsError, match="is there already; give another place"):
        written(tmp_path / "a", Made(EQUAL))
    assert content(tmp_path / "a") == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileExistsError, match="is there already"):
        written(tmp_path / "file", Made(EQUAL))
    assert (tmp_path / "file").read_text() == "x"


def test_mistakes_end_in_one_sentence_and_exit_code_2(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", train=clouds(8), val=clouds(3, 1))
    bad = clouds(8)
    bad[5, 2, 1] = np.inf
    np.save(tmp_path / "bad.npy", bad)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    a, out = tmp_path / "a.npz", tmp_path / "out"
    for given, expected in [
        ((), "required: SOURCE"),
        ((a,), "give a folder to write to"),
        ((tmp_path / "gone", out), f"{tmp_path / 'gone'} is neither a file nor a folder"),
        ((tmp_path / "empty", out), "holds no"),
        ((tmp_path / "file", out), "must end in .npz"),
        ((tmp_path / "bad.npy", out), f"{tmp_path / 'bad.npy'}: cloud 5 has 1 point with NaN or infinite"),
        ((a, tmp_path / "file"), "is there already"),
        ((a, tmp_path / "file" / "below"), "Not a directory"),
        ((a, out, "--points", "0"), "num_points must be >= 1, got 0"),
        ((a, out, "--points", "x"), "invalid int value: 'x'"),
        ((a, out, "--points", "10"), "cloud 0 has 9 points, so 10 of them cannot be kept"),
        ((a, out, "--shard-clouds", "0"), "shard_clouds must be >= 1, got 0"),
        ((a, out, "--seed", "-1"), "seed must be >= 0, got -1"),
        ((a, out, "--dtype", "float64"), "invalid choice: 'float64'"),
        ((a, out, "--format", "zip"), "invalid choice: 'zip'"),
        ((a, out, "--format", "modelnet10"), "a.npz holds neither ModelNet10"),
        ((tmp_path / "empty", out, "--format", "archive"), "is not a file"),
        ((a, out, "--split-val", "0.5"), "has a split 'val' of its own"),
        ((a, out, "--split-test", "1.5"), "the share of split test must lie between 0 and 1, got 1.5"),
        ((a, out, "--split-test", "0.01"), "8 clouds cannot be divided"),
        ((a, out, "--category", "chair"), "has no categories"),
        ((a, out, "--key", "gone"), "has no key 'gone'"),
        ((tmp_path / "empty", out, "--key", "gone"), "names an array of an archive"),
        ((a, "--check"), "is no mapped archive"),
    ]:
        code, said = call(capsys, *given)
        assert code == 2, (given, said)
        assert expected in said
        assert said.startswith("mfcdm: ")
        assert "\n" not in said
        assert not out.exists()


def test_ctrl_c_leaves_nothing(tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "a.npy", clouds(8))

    def interrupted(self, index):
        if index == 5:
            raise KeyboardInterrupt
        return {"x": torch.zeros(4, 3)}

    monkeypatch.setattr(CloudArchive, "__getitem__", interrupted)
    code, said = call(capsys, tmp_path / "a.npy", tmp_path / "out")
    assert code == 130
    assert "stopped by Ctrl-C; nothing is left" in said
    assert not (tmp_path / "out").exists()


def test_the_module_is_a_program(tmp_path):
    np.save(tmp_path / "a.npy", clouds(8))
    command = [sys.executable, "-m", "mfcdm.datasets.convert", tmp_path / "a.npy", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"{tmp_path / 'out'}: 8 clouds of train, float32, 0.0 MiB\n"
    check_same(tmp_path / "out", "train", CloudArchive(tmp_path / "a.npy"))
