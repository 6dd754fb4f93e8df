import hashlib
import os
import struct
from functools import partial

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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("zipped", [True, False])
def test_damage_of_any_kind_names_the_file(zipped, tmp_path):
    """Flipped bytes and cuts, with what torch's reader raises: IndexError, AssertionError, struct.error and others."""
    path, rng = tmp_path / "clouds.pt", np.random.default_rng(0)
    torch.save(CLOUDS, path, _use_new_zipfile_serialization=zipped)
    held, refused = path.read_bytes(), 0
    for _ in range(150):
        damaged = bytearray(held)
        damaged[rng.integers(min(400, len(held)))] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(held))] if rng.random() < 0.2 else damaged)
        try:
            read_clouds(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017  most, not all, are refused
            refused += 1
    assert refused > 50


def test_what_torch_raises_is_a_sentence_but_for_memory_and_permission(tmp_path, monkeypatch):
    torch.save(CLOUDS, tmp_path / "clouds.pt")
    expected = [(struct.error, ValueError), (IndexError, ValueError), (AssertionError, ValueError)]
    for raised, seen in [*expected, (MemoryError, MemoryError), (PermissionError, PermissionError)]:
        monkeypatch.setattr(torch, "load", partial(failing, raised))
        with pytest.raises(seen):
            read_clouds(tmp_path / "clouds.pt")


def failing(error, *_, **__):
    raise error


def test_names_that_are_no_utf8_and_links(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for made in (folder, elsewhere):
        made.mkdir()
    for index, cloud in enumerate(CLOUDS):
        np.save(folder / os.fsdecode(b"caf\xe9%d.npy" % index), cloud.numpy())
    assert same(read_clouds(folder))
    before = checksum(folder)
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(folder)
    assert checksum(folder) == before
    (elsewhere / "other").write_text("more")
    assert checksum(folder) != before


def test_checksums(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert checksum(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    folder = checksum(tmp_path)
    assert folder == checksum(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert checksum(tmp_path) != folder
