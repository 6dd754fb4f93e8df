"""Archives that are larger than they look, than they say, or than memory."""

import json
import struct
import subprocess
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest

from mfcdm.datasets import CloudArchive, MappedArchive, memory
from mfcdm.datasets.archive import ArchiveInPasses
from mfcdm.datasets.formats import read_shape
from tests.datasets.hostile_archives import inflating, npy

CLOUDS = np.random.default_rng(0).normal(size=(40, 16, 3)).astype(np.float32)


def sentence_of(path, read=CloudArchive, error=(ValueError, MemoryError)):
    with pytest.raises(error) as refused:
        read(path)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(str(path))
    return line


def limited(path, what, gibibytes=4):
    """What a process says that may take so much memory, and how much more it took than its imports, in MiB."""
    code = f"""
import resource, sys
from pathlib import Path
from mfcdm.datasets import CloudArchive, Clouds
def most():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024
begun = most()
resource.setrlimit(resource.RLIMIT_AS, ({gibibytes} * 2**30,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
try:
    {what}
except (ValueError, MemoryError) as error:
    print(error)
else:
    print("read")
print(most() - begun)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    said, grown = done.stdout.splitlines()
    return said, int(grown)


def test_a_member_that_inflates_to_three_gibibytes_is_refused_unread(tmp_path):
    path = inflating(tmp_path / "bomb.npz", (2**18, 1024, 3))
    assert path.stat().st_size < 4 * 2**20
    said, grown = limited(path, "CloudArchive(sys.argv[1])")
    assert said == (
        f"{path}: float32 (262144, 1024, 3), with the float32 numbers that are made of it, would fill 6.0 GiB of "
        f"4.0 GiB of memory{memory.CONVERT}"
    )
    assert grown < 50  # nothing was read but the header


def test_the_same_with_fewer_zeros_is_read(tmp_path):
    shape = (2**14, 512, 1)
    path = inflating(tmp_path / "a.npz", shape, zlib.crc32(bytes(2**25), zlib.crc32(npy(shape, CLOUDS[:0]))))
    assert path.stat().st_size < 2**16
    for archive in (CloudArchive(path), ArchiveInPasses(path)):
        assert len(archive) == 2**14
        assert not archive.points(2**14 - 1).any()
    inflating(path, shape)
    assert "Bad CRC-32" in sentence_of(path)


@pytest.mark.parametrize("change", [1, -1, 2**30])
def test_a_member_that_lies_about_its_size_is_refused(tmp_path, change):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, points=CLOUDS)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02") + 24  # in the directory, which is what is believed
    (size,) = struct.unpack_from("<I", content, at)
    struct.pack_into("<I", content, at, size + change)
    path.write_bytes(content)
    assert "points declares float32 (40, 16, 3), 7.5 KiB, but holds" in sentence_of(path)


def test_a_member_that_is_shorter_than_all_say_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("points.npy", npy((41, 16, 3), CLOUDS))  # of which 40 are there
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02") + 24
    struct.pack_into("<I", content, at, struct.unpack_from("<I", content, at)[0] + 4 * 16 * 3)
    path.write_bytes(content)
    for read in (CloudArchive, lambda path: ArchiveInPasses(path).points(40)):
        assert "ends in the midst of an array" in sentence_of(path, read)


@pytest.mark.parametrize("shape", [(2**40, 3, 3), (4, 2**31, 2**31), (41, 16, 3), (1, 1, 1)])
def test_a_header_that_declares_what_is_not_there_is_refused(tmp_path, shape):
    """Not with numpy's "Unable to allocate", nor after the memory was taken."""
    (tmp_path / "a.npy").write_bytes(npy(shape, CLOUDS))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("points.npy", npy(shape, CLOUDS))
    for name, read in (("a.npy", CloudArchive), ("a.npz", CloudArchive), ("a.npy", read_shape)):
        said = sentence_of(tmp_path / name, read)
        assert f"declares float32 {shape}, {memory.in_words(4 * int(np.prod(shape, dtype=object)))}, but holds" in said


def test_h5_arrays_that_were_never_written_or_do_not_fit_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("points", (2**40, 3, 3), "f4", chunks=(2**10, 3, 3), compression="gzip", fillvalue=1.0)
    said = sentence_of(tmp_path / "a.h5")
    assert f"a.h5: points declares float32 {(2**40, 3, 3)}, 36,864.0 GiB, but nothing was written" in said
    with h5py.File(tmp_path / "b.h5", "w") as file:
        points = file.create_dataset("points", (2**28, 3, 3), "f4", chunks=(2**10, 3, 3), compression="gzip")
        points[0] = 1.0  # one chunk of all
    assert "(268435456, 3, 3)" in sentence_of(tmp_path / "b.h5")
    assert memory.CONVERT in sentence_of(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("points", (1, 2**28, 2**14), "f4", chunks=(1, 2**5, 2**5))[0, :2, :2] = 1.0
    assert "c.h5: a cloud (268435456, 16384) would fill" in sentence_of(tmp_path / "c.h5", ArchiveInPasses)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file.create_dataset("chair/train", (2**40, 1, 1), "i1", chunks=(2**10, 1, 1))[0] = 1
    for read in (CloudArchive, ArchiveInPasses):
        assert "d.h5: the labels of 1099511627776 clouds would fill 8,192.0 GiB" in sentence_of(tmp_path / "d.h5", read)


def test_h5_arrays_that_lie_in_other_files_are_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(CLOUDS.tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("points", CLOUDS.shape, "f4", external=[(str(tmp_path / "secret"), 0, CLOUDS.nbytes)])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        layout = h5py.VirtualLayout(CLOUDS.shape, "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "a.h5"), "points", CLOUDS.shape)
        file.create_virtual_dataset("points", layout)
    for name in ("a.h5", "b.h5"):
        assert "points lies in other files, which are not read" in sentence_of(tmp_path / name)


def written(path, clouds):
    """Clouds of one size in a file, some with lengths."""
    if path.suffix == ".npy":
        np.save(path, clouds)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("points", data=clouds, chunks=(7, 16, 3), compression="gzip")
            file["lengths"] = np.arange(len(clouds)) % 16 + 1
    else:
        np.savez_compressed(path, points=clouds, lengths=np.arange(len(clouds)) % 16 + 1)
    return path


LAYOUTS = {
    "stacked.npy": lambda path: written(path, CLOUDS),
    "fortran.npy": lambda path: written(path, np.asfortranarray(CLOUDS)),
    "stacked.npz": lambda path: written(path, CLOUDS),
    "fortran.npz": lambda path: written(path, np.asfortranarray(CLOUDS)),
    "stacked.h5": lambda path: written(path, CLOUDS),
    "edges.npz": lambda path: np.savez(path, points=CLOUDS.reshape(-1, 3), offsets=np.arange(0, 640, 16)),
    "apart.npz": lambda path: np.savez(path, *CLOUDS),
    "categories.npz": lambda path: np.savez(path, **{"a/train": CLOUDS[:9], "b/train": CLOUDS[9:].astype("f8")}),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("block", [1, 1000, 2**25])
def test_clouds_are_the_same_in_passes_and_in_any_order(tmp_path, monkeypatch, name, block):
    monkeypatch.setattr("mfcdm.datasets.archive_tree._BLOCK", block)
    LAYOUTS[name](tmp_path / name)
    held, passes = CloudArchive(tmp_path / name), ArchiveInPasses(tmp_path / name)
    assert len(held) == len(passes) == len(CLOUDS)
    assert held.labels == passes.labels
    orders = range(40), reversed(range(40)), np.random.default_rng(0).permutation(40).tolist()
    for index in (index for order in orders for index in order):
        assert passes.points(index).equal(held.points(index))
        assert np.array_equal(held.points(index), CLOUDS[index][: len(held.points(index))])


def test_clouds_beyond_memory_are_refused_and_read_in_passes(tmp_path, monkeypatch):
    for name, make in LAYOUTS.items():
        make(tmp_path / name)
    monkeypatch.setattr(memory, "memory", lambda: 8000)
    for name in LAYOUTS:
        said = sentence_of(tmp_path / name, error=MemoryError)
        assert "would fill" in said
        assert "of 7.8 KiB of memory; python -m mfcdm.datasets.convert" in said
        if not name.startswith("fortran"):
            assert len(ArchiveInPasses(tmp_path / name).points(3)) in (4, 16)


def test_a_stored_member_that_was_damaged_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", points=CLOUDS)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    assert "Bad CRC-32" in sentence_of(tmp_path / "a.npz")
    passes = ArchiveInPasses(tmp_path / "a.npz")
    assert "Bad CRC-32" in sentence_of(tmp_path / "a.npz", lambda _: [passes.points(index) for index in range(40)])


CONVERSION = """
import json, sys
from pathlib import Path
from mfcdm.commands.convert import main
def memory(name):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) // 1024
warm, *paths = sys.argv[1:]
main([warm, warm + ".mapped"])
begun, most = memory("VmRSS"), {}
for path in paths:
    main([path, path + ".mapped"])
    most[path] = memory("VmHWM") - begun
print(json.dumps(most))
"""


def test_a_source_larger_than_what_may_be_taken_is_converted(tmp_path):
    """Of 188 MiB each blocks of 16 MiB are read: measured 25 to 40 MiB, with what the libraries hold back."""
    shape = (1000, 8192, 3)
    whole = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", "<f8", shape)
    whole[:] = np.linspace(-1, 1, 8192 * 3).reshape(8192, 3)
    whole[:, 0, 0] = np.arange(1000)
    whole.flush()
    np.savez(tmp_path / "b.npz", points=whole)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["points"] = whole
    np.savez(tmp_path / "warm.npz", points=CLOUDS)
    names = [str(tmp_path / name) for name in ("warm.npz", "a.npy", "b.npz", "c.h5")]
    done = subprocess.run([sys.executable, "-c", CONVERSION, *names], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    most = json.loads(done.stdout)
    assert all(grown < 64 for grown in most.values()), most
    for name in names[1:]:
        found = MappedArchive(f"{name}.mapped")
        assert len(found) == 1000
        for index in (0, 777, 999):
            assert np.array_equal(found.points(index), whole[index].astype(np.float32))
