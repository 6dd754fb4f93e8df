import io
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from mfcdm.datasets import (
    CloudArchive,
    Clouds,
    MappedArchive,
    MappedClouds,
    Normalization,
    clouds_of,
    mapped,
    open_archive,
    open_dataset,
    rescaled,
    write_archive,
)
from mfcdm.datasets.moments import Moments
from tests.datasets.mapped_archives import EQUAL, MIXED, Made, change_index, written

NAMES = ("lamp", "chair", "02691156")


def npy(array, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


@pytest.mark.parametrize("sizes", [MIXED, EQUAL], ids=["mixed", "equal"])
def test_an_item_is_what_was_written(tmp_path, sizes):
    made = Made(sizes, NAMES)
    archive = written(tmp_path / "a", made)
    assert archive.categories == NAMES
    assert len(archive) == len(sizes)
    for index, expected in enumerate(made.clouds):
        assert torch.equal(archive[index]["x"], expected)
        assert archive[index]["label"] == index % 3
    assert torch.equal(archive[-1]["x"], made.clouds[-1])
    assert archive.source(9) == f"{tmp_path / 'a' / 'train-00002.npy'}: cloud 9 of split train"
    with pytest.raises(IndexError, match="cloud 10 was asked for"):
        archive[10]
    archive[0]["x"].zero_()  # a copy: the file is mapped read-only
    assert torch.equal(archive[0]["x"], made.clouds[0])


def test_half_precision_rounds_once(tmp_path):
    made = Made(MIXED)
    for item, expected in zip(written(tmp_path / "a", made, dtype="float16"), made.clouds, strict=True):
        assert torch.equal(item["x"], expected.half().float())


def test_categories_are_chosen_by_name_or_synset_and_numbered_by_name(tmp_path):
    made = Made(MIXED, NAMES)
    written(tmp_path / "a", made)
    some = MappedArchive(tmp_path / "a", category=["lamp", "airplane"])
    assert some.categories == ("02691156", "lamp")
    kept = [index for index in range(10) if index % 3 != 1]
    assert [int(label) for label in some.labels] == [1 if index % 3 == 0 else 0 for index in kept]
    assert all(torch.equal(item["x"], made.clouds[index]) for item, index in zip(some, kept, strict=True))
    assert some.sizes.tolist() == [MIXED[index] for index in kept]
    with pytest.raises(ValueError, match="no category 'mug'"):
        MappedArchive(tmp_path / "a", category="mug")
    written(tmp_path / "b", Made(MIXED))
    with pytest.raises(ValueError, match="has no categories"):
        MappedArchive(tmp_path / "b", category="lamp")


def test_a_path_with_an_index_is_opened_as_a_mapped_archive(tmp_path):
    written(tmp_path / "a", Made())
    assert isinstance(open_dataset(tmp_path / "a"), MappedArchive)
    assert isinstance(open_archive(str(tmp_path / "a")), MappedArchive)
    np.save(tmp_path / "b.npy", np.zeros((4, 5, 3)))
    assert isinstance(open_archive(tmp_path / "b.npy"), CloudArchive)
    with pytest.raises(ValueError, match="key='points' names an array of a file"):
        open_archive(tmp_path / "a", key="points")
    with pytest.raises(ValueError, match="no split 'val'; it has train"):
        open_dataset(tmp_path / "a", "val")


@pytest.mark.parametrize("most", [1, 2, 256])
def test_threads_and_few_open_shards_read_the_same(tmp_path, monkeypatch, most):
    monkeypatch.setattr(mapped, "_MAX_MAPPED", most)
    made = Made()
    archive = written(tmp_path / "a", made)
    order = np.random.default_rng(0).integers(10, size=200).tolist()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(archive.points, order))
    assert all(torch.equal(x, made.clouds[index]) for x, index in zip(found, order, strict=True))
    assert len(archive._maps) <= most
    assert torch.equal(pickle.loads(pickle.dumps(archive))[3]["x"], made.clouds[3])  # noqa: S301


@pytest.mark.parametrize("scheme", ["global", "per_shape", "box"])
@pytest.mark.parametrize("sizes", [MIXED, EQUAL], ids=["mixed", "equal"])
def test_clouds_in_files_are_those_in_memory_to_the_last_bit(tmp_path, sizes, scheme):
    made = Made(sizes, NAMES)
    here, there = rescaled(Clouds.of(made), scheme), rescaled(clouds_of(written(tmp_path / "a", made)), scheme)
    assert isinstance(there, MappedClouds)
    assert here.x.shape == there.x.shape
    assert here.smallest == there.smallest
    fitted = Normalization.fit(here)
    assert all(torch.equal(a, b) for a, b in zip(fitted, Normalization.fit(there), strict=True))
    here, there = (clouds.map(lambda x, _: fitted.apply(x), pointwise=True) for clouds in (here, there))
    for chosen in (torch.tensor([9, 0, 4, 4]), slice(2, 7)):
        some, same = here[chosen], there[chosen]
        assert torch.equal(some.x, same.x)
        assert torch.equal(some.labels, same.labels)
        assert (some.lengths is None) == (same.lengths is None)
        assert some.lengths is None or torch.equal(some.lengths, same.lengths)
    rows = torch.tensor([0, 3])
    assert torch.equal(here.cloud(5, rows), there.cloud(5, rows))
    assert all(torch.equal(a, b) for a, b in zip(here.points(), there.points(), strict=True))


def test_only_the_points_that_are_asked_for_are_copied(tmp_path, monkeypatch):
    clouds = clouds_of(written(tmp_path / "a", Made(MIXED)))
    read, asked = MappedArchive.points, []
    monkeypatch.setattr(MappedArchive, "points", lambda self, *given: asked.append(given) or read(self, *given))
    rows = torch.tensor([1, 3])
    clouds.map(lambda x, _: x + 1, pointwise=True).cloud(2, rows)
    assert asked.pop() == (2, rows)
    clouds.map(lambda x, _: x - x.mean(), pointwise=False).cloud(2, rows)
    assert asked.pop() == (2, None)


def test_statistics_are_those_of_all_points_at_once_in_double_precision(tmp_path):
    """The clouds lie 100 of their spreads away from the origin, and some apart from each other."""
    made = Made([3, 500, 40, 7] * 5)
    for index, cloud in enumerate(made.clouds):
        cloud += index % 3
    every = torch.cat(made.clouds).double()
    mean = every.mean(dim=0)
    std = float((every - mean).square().mean().sqrt())
    moments = Moments.of(made.clouds)
    # Sums of 2,750 numbers of size 100 are exact to about 2,750 * 2^-53 of themselves, here 1e-12 at the very most.
    assert torch.allclose(moments.known_mean, mean, rtol=1e-12, atol=0)
    assert moments.std == pytest.approx(std, rel=1e-12)
    backwards = Moments.of(reversed(made.clouds))
    assert backwards.std == pytest.approx(std, rel=1e-12)
    stored = written(tmp_path / "a", made).moments()
    assert torch.equal(stored.known_mean, moments.known_mean)
    assert stored.std == moments.std
    assert MappedArchive(tmp_path / "a").moments().count == len(every)


def test_an_archive_larger_than_memory_is_opened_without_being_loaded(tmp_path):
    """64 GiB of zeros that take no place on the disk, behind the clouds of a small archive."""
    written(tmp_path / "a", Made(EQUAL))
    path, points = tmp_path / "a" / "train-00002.npy", 64 * 2**30 // 12
    path.unlink()
    np.lib.format.open_memmap(path, "w+", "<f4", (points, 3))[24:30] = 7.0
    offsets = np.array([*range(0, 12 * 9 + 1, 12), 96 + points])
    (tmp_path / "a" / "train-offsets.npy").write_bytes(npy(offsets))
    at = ("splits", "train", "shards", 2)
    change_index(tmp_path / "a", "splits", "train", "points", value=96 + points)
    change_index(tmp_path / "a", *at, "points", value=points)
    change_index(tmp_path / "a", *at, "bytes", value=path.stat().st_size)
    if path.stat().st_blocks * 512 > 2**30:
        pytest.skip("the file system has no sparse files")
    before = anonymous()
    clouds = clouds_of(MappedArchive(tmp_path / "a"))
    assert torch.equal(
        clouds.cloud(9, torch.tensor([0, 12, 17, points - 13])), torch.tensor([[0.0], [7], [7], [0]]).expand(4, 3)
    )
    # Less than a thousandth of the archive: the interpreter's own allocations between the two readings are some MiB.
    assert anonymous() - before < 2**26
    with pytest.raises(MemoryError, match=r"would fill 64\.0 GiB of"):
        clouds.points()


def anonymous() -> int:
    """Resident memory without the pages of files, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the system does not say how much memory is resident")
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("RssAnon"))


SHARD = ("splits", "train", "shards", 0)
HOSTILE = [
    ((*SHARD, "file"), "/etc/passwd.npy", "bare name"),
    ((*SHARD, "file"), "../train-00000.npy", "bare name"),
    ((*SHARD, "file"), "..\\a.npy", "bare name"),
    ((*SHARD, "file"), "train-00000.npy\n", "bare name"),
    ((*SHARD, "file"), "gone.npy", "gone.npy is not there"),
    ((*SHARD, "points"), 2**62, "points must be a whole number from 1 to"),
    ((*SHARD, "points"), True, "points must be a whole number"),
    ((*SHARD, "points"), 54, "the shards of split train have 133 points, the split 132"),
    ((*SHARD, "bytes"), 12, "has 764 bytes, but index.json says 12: it is damaged"),
    ((*SHARD, "bytes"), -1, "bytes must be a whole number"),
    ((*SHARD, "sha256"), 3, "must be text, got 3"),
    (("splits", "train", "clouds"), 10**30, "clouds must be a whole number"),
    (("splits", "train", "mean"), [0.0, float("inf"), 0.0], "must be 3 finite numbers"),
    (("splits", "train", "squares"), -1.0, "must be a finite number >= 0"),
    (("splits", "train", "shards"), [], "must be a list"),
    (("splits", "train", "offsets"), None, "needs a name and a size"),
    (("splits", "train", "labels"), {"file": "train-00000.npy", "bytes": 764, "sha256": ""}, "must hold int64"),
    (("splits",), {"../x": {}}, "'../x' is no split"),
    (("splits",), [], "splits must hold a split or more"),
    (("dtype",), "object", "dtype must be float32 or float16, got 'object'"),
    (("dtype",), "float16", r"must hold float16 \(53, 3\), got float32 \(53, 3\)"),
    (("dim",), 10**9, "dim must be a whole number from 1 to 64"),
    (("dim",), 2, "must be 2 finite numbers"),
    (("categories",), [1], "must be a list of names"),
    (("format",), "other", "no index of a mapped archive"),
    (("format_version",), 2, "format_version is 2, and 1 can be read"),
    (("unfinished",), True, "did not finish; run it again"),
]


@pytest.mark.parametrize(("keys", "value", "sentence"), HOSTILE)
def test_an_index_that_cannot_be_is_refused(tmp_path, keys, value, sentence):
    folder = tmp_path / "a"
    written(folder, Made())
    change_index(folder, *keys, value=value)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        open_dataset(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 200_000, '{"format": NaN}', "\xff"])
def test_a_damaged_index_is_refused_and_never_read_as_a_folder_of_clouds(tmp_path, text):
    written(tmp_path / "a", Made())
    (tmp_path / "a" / "index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"index\.json is refused"):
        open_dataset(tmp_path / "a")


class Bomb:
    def __reduce__(self):
        return os.system, ("echo no code of a file may run; exit 1",)


def replaced(folder: Path, name: str, content: bytes) -> None:
    """Put other content into a file, and its true size into the index."""
    (folder / name).write_bytes(content)
    where = {"train-offsets.npy": ("offsets",), "train-labels.npy": ("labels",)}.get(name, ("shards", 0))
    change_index(folder, "splits", "train", *where, "bytes", value=len(content))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train-00000.npy", npy(np.array([[Bomb()] * 3] * 53), allow_pickle=True), "cannot be mapped as an array"),
        ("train-00000.npy", pickle.dumps(Bomb()), "cannot be mapped as an array"),
        ("train-00000.npy", b"", "bytes must be a whole number"),
        ("train-00000.npy", npy(np.zeros((53, 3), np.float64)), r"must hold float32 \(53, 3\), got float64"),
        ("train-00000.npy", npy(np.zeros((53, 3), ">f4")), "must hold float32"),
        ("train-00000.npy", npy(np.zeros((3, 53), np.float32).T), "must hold float32"),
        ("train-00000.npy", npy(np.zeros((54, 3), np.float32)), r"got float32 \(54, 3\)"),
        ("train-00000.npy", npy(np.zeros((53, 3), np.float32))[:-8], "cannot be mapped as an array"),
        ("train-00000.npy", npy(np.full((53, 3), np.nan, np.float32)), "cloud 0 of split train has 7 points with NaN"),
        ("train-offsets.npy", npy(np.arange(11)), "must grow from 0 to 132, shard by shard"),
        ("train-offsets.npy", npy(np.array([0, 7, 6, *np.cumsum(MIXED)[2:]])), "must grow from 0"),
        ("train-offsets.npy", npy(np.array([0, -7, *np.cumsum(MIXED)[1:]])), "must grow from 0"),
        ("train-offsets.npy", npy(np.array([0, *(np.cumsum(MIXED)[:-1] + 1), 132])), "shard by shard"),
        ("train-labels.npy", npy(np.full(10, 3)), "must hold labels from 0 to 2"),
        ("train-labels.npy", npy(np.full(10, -1)), "must hold labels from 0 to 2"),
    ],
)
def test_a_file_that_is_not_what_the_index_says_is_refused(tmp_path, name, content, sentence):
    folder = tmp_path / "a"
    written(folder, Made(MIXED, NAMES))
    replaced(folder, name, content)
    with pytest.raises(ValueError, match=sentence) as caught:
        open_dataset(folder)[0]
    assert str(folder) in str(caught.value)


def test_links_and_pipes_are_refused(tmp_path):
    folder = tmp_path / "a"
    written(folder, Made())
    shard = folder / "train-00001.npy"
    shard.rename(tmp_path / "elsewhere.npy")
    shard.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(ValueError, match=r"train-00001\.npy is no file of its own folder"):
        MappedArchive(folder)
    shard.unlink()
    os.mkfifo(shard)  # to open it would wait for ever
    with pytest.raises(ValueError, match="no file of its own folder"):
        MappedArchive(folder)


def test_a_file_that_is_cut_while_in_use_ends_in_a_sentence(tmp_path):
    """And not in a bus error."""
    archive = written(tmp_path / "a", Made([3000] * 4))
    os.truncate(tmp_path / "a" / "train-00000.npy", 5000)
    with pytest.raises(ValueError, match=r"train-00000\.npy was cut to 5000 bytes while in use"):
        archive[3]


def test_a_changed_bit_is_found_by_the_checksums(tmp_path):
    archive = written(tmp_path / "a", Made())
    archive.check()
    path = tmp_path / "a" / "train-00001.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-00001\.npy is damaged: its sha256"):
        MappedArchive(tmp_path / "a").check()


def test_splits_stay_apart(tmp_path):
    train, val = Made(MIXED, NAMES), Made(EQUAL, NAMES, seed=1)
    write_archive(tmp_path / "a", {"train": train, "val": val})
    for name, made in (("train", train), ("val", val)):
        found = MappedArchive(tmp_path / "a", name)
        assert all(torch.equal(item["x"], cloud) for item, cloud in zip(found, made.clouds, strict=True))
