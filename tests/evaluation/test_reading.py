import hashlib
import os

import numpy as np
import pytest
import torch

from mfcdm.evaluation import checksum, read_clouds
from tests.evaluation.clouds import ellipsoids

CLOUDS = ellipsoids(5, 6)
RAGGED = [cloud[: 2 + index] for index, cloud in enumerate(CLOUDS)]


def same(clouds, expected=CLOUDS):
    return all(torch.equal(a, b) for a, b in zip(clouds.points(), expected, strict=True))


@pytest.mark.parametrize("suffix", ["pt", "pth", "PTH"])
@pytest.mark.parametrize(
    "held",
    [
        CLOUDS,
        CLOUDS.half().float(),
        list(CLOUDS),
        {"points": CLOUDS, "other": CLOUDS},
        {"ref": CLOUDS, "mean": torch.zeros(5, 1, 3), "std": 1.0},
        {"unheard_of": CLOUDS, "labels": torch.zeros(5)},
    ],
    ids=["tensor", "rounded", "list", "points", "ref", "alone"],
)
def test_files_of_torch(held, suffix, tmp_path):
    torch.save(held, tmp_path / f"clouds.{suffix}")
    expected = held if isinstance(held, torch.Tensor) else CLOUDS
    assert same(read_clouds(tmp_path / f"clouds.{suffix}"), expected)


def test_clouds_of_mixed_cardinality(tmp_path):
    torch.save(RAGGED, tmp_path / "list.pt")
    assert same(read_clouds(tmp_path / "list.pt"), RAGGED)
    padded = torch.nn.utils.rnn.pad_sequence(RAGGED, batch_first=True, padding_value=torch.nan)
    lengths = torch.tensor([len(cloud) for cloud in RAGGED])
    torch.save({"points": padded, "lengths": lengths}, tmp_path / "padded.pt")
    assert same(read_clouds(tmp_path / "padded.pt"), RAGGED)
    np.savez(tmp_path / "padded.npz", points=padded.numpy(), lengths=lengths.numpy())
    assert same(read_clouds(tmp_path / "padded.npz"), RAGGED)


def test_splits_of_archives(tmp_path):
    np.savez(tmp_path / "clouds.npz", train=CLOUDS.numpy() + 1, val=CLOUDS.numpy())
    assert same(read_clouds(tmp_path / "clouds.npz", "val"))
    assert same(read_clouds(tmp_path / "clouds.npz", "train"), CLOUDS + 1)
    np.save(tmp_path / "clouds.npy", CLOUDS.numpy())
    assert same(read_clouds(tmp_path / "clouds.npy", "val"))


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile",)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"points": CLOUDS, "hostile": Hostile()}, tmp_path / "hostile.pt")
    with pytest.raises(ValueError, match=r"hostile\.pt cannot be read as tensors"):
        read_clouds(tmp_path / "hostile.pt")
    assert not (tmp_path / "hostile").exists()


TORCH_MISTAKES = [
    (CLOUDS[0], r"must hold clouds \(S, N, D\) or a list of \(N, D\), but holds a tensor \(6, 3\)"),
    (CLOUDS.long(), "but holds a tensor"),
    ("clouds", "but holds a str"),
    ({"a": CLOUDS, "b": CLOUDS}, "2 entries that could be clouds, among a, b"),
    ({"mean": torch.zeros(3)}, "0 entries"),
    ({"points": CLOUDS, "lengths": torch.tensor([6, 6])}, "lengths must be 5 whole numbers"),
    ({"points": CLOUDS, "lengths": torch.tensor([6, 6, 6, 7, 6])}, "cloud 3 must own 1 to 6 points, but owns 7"),
    (CLOUDS.transpose(1, 2).contiguous(), r"points of dimension 6, not 2 or 3"),
    (CLOUDS[:3], "holds 3 clouds; scores with intervals need at least 4"),
    (CLOUDS[:, :1], "cloud 0 has 1 point; a shape needs at least 2"),
    (CLOUDS / 0, "cloud 0 has 6 points with NaN or infinite"),
]


@pytest.mark.parametrize(("held", "sentence"), TORCH_MISTAKES, ids=[sentence for _, sentence in TORCH_MISTAKES])
def test_what_is_no_set_of_clouds_is_refused(held, sentence, tmp_path):
    torch.save(held, tmp_path / "clouds.pt")
    with pytest.raises(ValueError, match=sentence):
        read_clouds(tmp_path / "clouds.pt")


def test_files_that_are_damaged_or_absent(tmp_path):
    (tmp_path / "text.pt").write_text("no tensors")
    with pytest.raises(ValueError, match=r"text.pt cannot be read as tensors"):
        read_clouds(tmp_path / "text.pt")
    torch.save(CLOUDS, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut.pt cannot be read as tensors"):
        read_clouds(tmp_path / "cut.pt")
    for name in ("absent.pt", "absent.npz"):
        with pytest.raises(FileNotFoundError, match=name):
            read_clouds(tmp_path / name)


def test_checksums(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert checksum(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    folder = checksum(tmp_path)
    assert folder == checksum(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert checksum(tmp_path) != folder
