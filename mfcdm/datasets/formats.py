"""Read one mesh or one cloud from a file: ply, obj, off, stl, xyz, txt and npy."""

import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfcdm.datasets.shapes import Surface
from mfcdm.datasets.stored import NPY_MAGIC, NpyStream
from mfcdm.wording import counted

Array = NDArray[Any]

MESH_SUFFIXES = (".ply", ".obj", ".off", ".stl")
SUFFIXES = (*MESH_SUFFIXES, ".xyz", ".txt", ".npy")

# A face that counts vertices backwards, as in "f -3 -2 -1".
_RELATIVE_FACE = re.compile(rb"^f\s(?:[^\n]*\s)?-\d", re.MULTILINE)
_ENDLESS_VERTEX = re.compile(rb"^\s*vertex[^\n]*(?:nan|inf)", re.MULTILINE | re.IGNORECASE)


def read_shape(path: Path) -> Surface | Array:
    """Read a file that holds one mesh, several meshes (which become one), or a cloud.

    Only this one file is opened: materials, textures and whatever else it points to stay where they are.

    Args:
        path: file with one of SUFFIXES. Of the columns of an .xyz or .txt file, parted by blanks or commas, two are
            a cloud in the plane; of three and more the first three are the coordinates.

    Returns:
        the surface of a mesh, or the points of a cloud, (N, D).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is empty, damaged, not of its format, has no area, or has coordinates that are not finite.
    """
    content = path.read_bytes()
    if not content.strip():
        raise ValueError(f"{path} is empty")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}")
    try:
        if suffix == ".npy":
            shape: Surface | Array = _array(content)
        elif suffix in MESH_SUFFIXES:
            shape = _mesh(content, suffix)
        else:
            shape = _columns(content)
    except Exception as error:  # a parser that meets a damaged file fails in every possible way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}") from error
    return shape if isinstance(shape, Surface) else _checked(shape, path)


def _checked(points: Array, path: Path) -> Array:
    if points.ndim != 2 or 0 in points.shape or points.dtype.kind not in "fiu":
        raise ValueError(f"{path} must hold numbers (points, D), got {points.dtype} {points.shape}")
    with np.errstate(over="ignore"):  # items are float32, in which a finite number may be infinite
        bad = int((~np.isfinite(points.astype(np.float32))).any(axis=1).sum())
    if bad:
        raise ValueError(f"{path} has {counted(bad, 'point')} with NaN or infinite coordinates")
    return points


def _array(content: bytes) -> Array:
    if not content.startswith(NPY_MAGIC):  # numpy would advise to unpickle it
        raise ValueError("it is not an npy file")
    return NpyStream("it", lambda: io.BytesIO(content), len(content)).whole()


def _columns(content: bytes) -> Array:
    text = content.decode("utf-8", errors="replace").replace(",", " ").replace(";", " ")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no data")
        try:
            table = np.loadtxt(io.StringIO(text), ndmin=2)
        except ValueError as error:
            raise ValueError(str(error).partition("; use ")[0]) from error  # no advice on numpy's options
    if not len(table):
        raise ValueError("it holds no points")
    if table.shape[1] == 1:
        raise ValueError("it has one column, and a cloud needs two or more")
    return table[:, :3]


def _mesh(content: bytes, suffix: str) -> Surface | Array:
    import trimesh  # only those who read such files pay for it

    _check_whole(content, suffix)
    # From memory, with no resolver: trimesh has no folder in which to look for what the file names. Unprocessed:
    # merging vertices or dropping those that are not finite would hide damage. Options that a format does not know
    # end among the options of a mesh, which takes them all.
    options: dict[str, Any] = {"process": False, "skip_materials": True, "fix_texture": False}
    with warnings.catch_warnings():
        # numpy reads numbers up to the first thing that is none, and only warns.
        warnings.filterwarnings("error", message=".*unmatched data")
        scene = trimesh.load_scene(io.BytesIO(content), file_type=suffix[1:], **options)
    parts = list(scene.geometry.values())
    triangles = [_triangles(part) for part in parts if len(getattr(part, "faces", ()))]
    if triangles:
        return Surface(np.concatenate(triangles))
    clouds = [np.asarray(part.vertices, dtype=np.float64) for part in parts if len(part.vertices)]
    if not clouds:
        raise ValueError("it holds neither triangles nor points")
    points = np.concatenate(clouds)
    if points.shape[1] != 3:  # trimesh cuts all rows to the shortest one
        raise ValueError(f"it has vertices with {points.shape[1]} coordinates instead of 3")
    return points


def _triangles(mesh: Any) -> Array:
    """The corners of a mesh's triangles, (F, 3, 3)."""
    vertices, faces = np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise ValueError(f"a face names a vertex that is not among its {len(vertices)}")
    return vertices[faces]


def _check_whole(content: bytes, suffix: str) -> None:
    """Refuse what trimesh would read without complaint, but wrongly.

    Raises:
        ValueError: if a text ends before the number of lines that it declares, has coordinates that are not finite,
            or has faces that count backwards from where they stand.
    """
    declared, lines = 0, 0
    if suffix == ".off":
        if b"OFF" not in content:
            raise ValueError("it is not an OFF file")
        # Some files have the counts right behind the word OFF.
        rows = content.split(b"OFF", 1)[-1].splitlines()
        rows = [row for row in (row.split(b"#", 1)[0].strip() for row in rows) if row]
        declared, lines = sum(int(count) for count in b" ".join(rows[:1]).split()[:2]), len(rows) - 1
    elif suffix == ".ply":
        head, _, body = content.partition(b"end_header")
        if re.search(rb"^format\s+ascii", head, re.MULTILINE):
            declared = sum(int(count) for count in re.findall(rb"^element\s+\S+\s+(\d+)", head, re.MULTILINE))
            lines = sum(1 for row in body.splitlines() if row.strip())
    elif suffix == ".stl" and _ENDLESS_VERTEX.search(content):
        # Of a file with several solids trimesh would leave such triangles out.
        raise ValueError("it has vertices with NaN or infinite coordinates")
    elif suffix == ".obj" and _RELATIVE_FACE.search(content):
        # trimesh counts back from the last vertex of the file, the format from the last one above the face.
        first_face = re.search(rb"^f\s", content, re.MULTILINE)
        if first_face and re.search(rb"^v\s", content[first_face.end() :], re.MULTILINE):
            raise ValueError("faces with negative indices may not stand before vertices")
    if lines < declared:
        left = counted(max(lines, 0), "line")
        raise ValueError(f"it declares {declared} vertices and faces, but only {left} behind its head")
