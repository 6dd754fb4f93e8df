"""Hostile files of meshes and points."""

import random
import struct

import numpy as np

from tests.commands.mutations.rules import HUGE, ODD, rule


def number(rng: random.Random) -> str:
    return rng.choice((*(str(value) for value in (*HUGE, *ODD)), "1e999", "0x10", "x", "-", "1_0", "9" * 400))


def ply(rng: random.Random, vertices: object, faces: object, body: bytes, form: str, kind: str = "float") -> bytes:
    axes = "".join(f"property {kind} {axis}\n" for axis in "xyz")
    head = f"ply\nformat {form} 1.0\nelement vertex {vertices}\n{axes}"
    return f"{head}element face {faces}\nproperty list uchar int vertex_indices\nend_header\n".encode() + body


def binary_mesh(rng: random.Random, indices: list[int], odd: float | None = None) -> bytes:
    points = np.array([rng.random() for _ in range(12)], dtype="<f4")
    if odd is not None:
        with np.errstate(over="ignore"):
            points[rng.randrange(12)] = odd
    return points.tobytes() + b"".join(struct.pack("<Biii", 3, *indices[k : k + 3]) for k in range(0, 6, 3))


@rule("ply")
def ply_counts(rng, path):
    body = binary_mesh(rng, [0, 1, 2, 1, 2, 3])
    counts = [rng.choice((number(rng), 4)), rng.choice((number(rng), 2))]
    path.write_bytes(ply(rng, *counts, body, rng.choice(("binary_little_endian", "binary_big_endian", "ascii", "x"))))


@rule("ply", deep=True)
def ply_indices(rng, path):
    indices = [rng.choice((-1, 0, 1, 4, 2**31 - 1, -(2**31))) for _ in range(6)]
    path.write_bytes(ply(rng, 4, 2, binary_mesh(rng, indices), "binary_little_endian"))


@rule("ply", deep=True)
def ply_numbers(rng, path):
    path.write_bytes(ply(rng, 4, 2, binary_mesh(rng, [0, 1, 2, 1, 2, 3], rng.choice(ODD)), "binary_little_endian"))


@rule("ply", deep=True)
def ply_lists(rng, path):
    """The length of a face's list of corners is a lie."""
    body = bytearray(binary_mesh(rng, [0, 1, 2, 1, 2, 3]))
    body[48] = rng.choice((0, 1, 2, 4, 255))
    path.write_bytes(ply(rng, 4, 2, bytes(body), "binary_little_endian"))


@rule("ply", deep=True)
def ply_lines(rng, path):
    rows = [[rng.choice(("0.5", "1", number(rng))) for _ in range(rng.choice((3, 3, 2, 9)))] for _ in range(4)]
    lines = [*(" ".join(row) for row in rows), "3 0 1 2", f"{rng.choice((3, 10**9, -1))} 1 2 3"]
    path.write_bytes(ply(rng, 4, 2, "\n".join(lines).encode(), "ascii"))


@rule("ply")
def ply_properties(rng, path):
    body, kind = binary_mesh(rng, [0, 1, 2, 1, 2, 3]), rng.choice(("double", "list uchar int", "x", "char", ""))
    path.write_bytes(ply(rng, 4, 2, body, "binary_little_endian", kind))


@rule("obj", deep=True)
def obj_numbers(rng, path):
    lines = [f"v {rng.random()} {rng.choice((number(rng), '1'))} {rng.random()}" for _ in range(4)]
    path.write_text("\n".join([*lines, "f 1 2 3", "f 2 3 4"]))


@rule("obj", deep=True)
def obj_faces(rng, path):
    lines = [f"v {rng.random()} {rng.random()} {rng.random()}" for _ in range(4)]
    face = " ".join(rng.choice(("1", "0", "-1", "5", "2//", "1/9/9", number(rng))) for _ in range(rng.choice((3, 60))))
    path.write_text("\n".join([*lines, f"f {face}", "f 2 3 4"]))


@rule("obj")
def obj_links(rng, path):
    names = ("../outside/secret", "/dev/zero", "x" * 10**5, "file:///dev/zero", "http://localhost:9/x")
    lines = [f"mtllib {rng.choice(names)}", "usemtl x", "v 0 0 0", "v 1 0 0", "v 0 1 0", "f 1 2 3"]
    path.write_text("\n".join(lines))


@rule("obj")
def obj_lines(rng, path):
    path.write_text(
        rng.choice(("f 1 2 3\n", "v\n" * 1000, "v 1 2 3 \\\n" * 1000, "\x00" * 1000, "g " * 10**5, "v 1 2\n"))
    )


@rule("off")
def off_counts(rng, path):
    counts = f"{rng.choice((number(rng), '3'))} {rng.choice((number(rng), '1'))} 0"
    path.write_text(f"OFF\n{counts}\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")


@rule("off", deep=True)
def off_faces(rng, path):
    count, corners = rng.choice(("3", "3", number(rng))), [rng.choice(("0", "1", "2", number(rng))) for _ in range(3)]
    path.write_text(f"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n{count} {' '.join(corners)}\n")


@rule("off", deep=True)
def off_numbers(rng, path):
    path.write_text(f"OFF\n3 1 0\n0 0 0\n1 0 {number(rng)}\n0 1 0\n3 0 1 2\n")
