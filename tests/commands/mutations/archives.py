"""Hostile archives of clouds."""

import io
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np

from tests.commands.mutations.rules import ODD, cut, overwrite, rule
from tests.datasets.hostile_archives import inflating


def npy(array: np.ndarray, **header: object) -> bytes:
    """An array whose header says something else."""
    described = {"descr": "<f4", "fortran_order": False, "shape": array.shape} | header
    text = repr(described).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + array.astype("<f4").tobytes()


def archive(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(f"{name}.npy", content)


def saved(array: object) -> bytes:
    with io.BytesIO() as stream:
        np.save(stream, np.asarray(array))
        return stream.getvalue()


CLOUDS = np.random.default_rng(0).normal(size=(4, 16, 3)).astype(np.float32)


@rule("npz")
def npz_headers(rng, path):
    shapes = [(2**40, 3, 3), (-1, 3, 3), (2**62, 2, 3), (4, 16, 2**33), (True, 3, 3), (4.0, 16, 3), (4, 16, 4), "x"]
    kinds = ["|O", "<f2", "<c8", "|V9", "|S5", "<U9", "<M8[s]", "|b1", [("x", "<f4")], "<f99", "__import__('os')"]
    change = {"shape": rng.choice(shapes)} if rng.random() < 0.5 else {"descr": rng.choice(kinds)}
    archive(path, points=npy(CLOUDS, **change))


@rule("npz", deep=True)
def npz_offsets(rng, path):
    edges = [rng.choice((0, 5, 64, 65, 2**62, -1, -(2**63))) for _ in range(rng.choice((1, 3, 5)))]
    kind = rng.choice((np.int64, np.float64))
    archive(path, points=saved(CLOUDS.reshape(-1, 3)), offsets=saved(np.array(edges, dtype=kind)))


@rule("npz", deep=True)
def npz_lengths(rng, path):
    lengths = [rng.choice((0, 1, 16, 17, 2**62, -1)) for _ in range(rng.choice((4, 4, 3)))]
    archive(path, points=saved(CLOUDS), lengths=saved(np.array(lengths)))


@rule("npz", deep=True)
def npz_numbers(rng, path):
    points = CLOUDS.astype(np.float64)
    points[rng.randrange(4), rng.randrange(16), rng.randrange(3)] = rng.choice(ODD)
    archive(path, points=saved(points), labels=saved(np.array([rng.choice((0, -1, 2**62)) for _ in range(4)])))


@rule("npz")
def npz_bombs(rng, path):
    """Much behind a small array, an empty one of absurd shape, a member that is said to be huge."""
    kind = rng.randrange(3)
    if kind == 0:
        archive(path, points=saved(CLOUDS) + b"\0" * 2**26)
    elif kind == 1:
        archive(path, points=npy(CLOUDS[:0], shape=rng.choice(((0, 2**40, 3), (2**20, 2**20, 0), (2**31, 2**10, 3)))))
    else:
        archive(path, points=saved(CLOUDS))
        content = path.read_bytes()
        at = content.rindex(b"PK\x01\x02") + 24
        path.write_bytes(content[:at] + b"\xfe\xff\xff\xff" + content[at + 4 :])


@rule("npz")
def npz_names(rng, path):
    names = ("../../outside/secret", "/etc/x", "a/" * 2000 + "a", "", "train/" * 50 + "x", "x" * 60000, "train/points")
    archive(path, **{rng.choice(names): saved(CLOUDS)})


@rule("npz")
def npz_bytes(rng, path):
    archive(path, points=saved(CLOUDS), pickled=b"cos\nsystem\n(S'touch hostile'\ntR.")
    rng.choice((cut, lambda rng, path: overwrite(rng, path, 0)))(rng, path)


@rule("h5", deep=True)
def h5_numbers(rng, path):
    points = CLOUDS.copy()
    points[0, rng.randrange(16)] = rng.choice(ODD[:3])
    with h5py.File(path, "w") as file:
        file["points"] = points


@rule("h5", deep=True)
def h5_shapes(rng, path):
    """A set that is declared and never written takes no place in the file."""
    shape = rng.choice(((2**40, 3, 3), (2**20, 2**20, 3), (2**62, 1, 3), (0, 3, 3), (4, 0, 3), (4,), (1,) * 30))
    with h5py.File(path, "w") as file:
        file.create_dataset("points", shape=shape, dtype="f4", chunks=None if 0 in shape else (1,) * len(shape))


@rule("npz")
def npz_inflating(rng, path):
    """Some MiB that inflate to some GiB, with a checksum that is none."""
    inflating(path, rng.choice(((2**18, 1024, 3), (2**10, 2**19, 1), (2**28, 1, 3), (2**28, 3))))


@rule("h5")
def h5_filled(rng, path):
    """A compressed set of which a chunk was written, and a fill value for the rest."""
    shape = rng.choice(((2**28, 3, 3), (2**20, 2**20, 3), (1, 2**30, 3), (2**31, 3)))
    with h5py.File(path, "w") as file:
        chunks = tuple(min(length, 2**6) for length in shape)
        points = file.create_dataset("points", shape, "f4", chunks=chunks, compression="gzip", fillvalue=1.0)
        points[(0,) * len(shape)] = 2.0


@rule("h5", deep=True)
def h5_about(rng, path):
    name = rng.choice(("lengths", "offsets", "labels"))
    with h5py.File(path, "w") as file:
        file["points"] = CLOUDS if name != "offsets" else CLOUDS.reshape(-1, 3)
        file[name] = np.array([rng.choice((0, 1, 16, 17, -1, 2**62)) for _ in range(rng.choice((4, 4, 2)))])


@rule("h5")
def h5_links(rng, path):
    with h5py.File(path, "w") as file:
        inner = file.create_group("train")
        kind = rng.randrange(4)
        if kind == 0:
            inner["points"] = h5py.ExternalLink("../outside/secret", "/points")
        elif kind == 1:
            inner["points"] = h5py.SoftLink("/train/points")
        elif kind == 2:
            inner["train"] = inner
        else:
            file.create_dataset("raw", shape=(4, 16, 3), dtype="f4", external=[("../outside/secret", 0, 768)])


@rule("h5")
def h5_kinds(rng, path):
    with h5py.File(path, "w") as file:
        kind = rng.choice(("S9", "c8", "f2", "O", "bool", [("x", "f4")]))
        if kind == "O":
            file.create_dataset("points", data=np.full((4, 16, 3), "x", dtype=object), dtype=h5py.string_dtype())
        else:
            file.create_dataset("points", data=np.zeros((4, 16, 3), dtype=kind))


@rule("h5")
def h5_bytes(rng, path):
    with h5py.File(path, "w") as file:
        file.create_dataset("points", data=CLOUDS, compression=rng.choice((None, "gzip")))
    rng.choice((cut, lambda rng, path: overwrite(rng, path, 8)))(rng, path)
