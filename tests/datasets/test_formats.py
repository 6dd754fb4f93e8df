import logging
import pickle
import struct

import numpy as np
import pytest
import trimesh

from mfcdm.datasets.formats import read_shape
from mfcdm.datasets.shapes import Surface

# A box 1 x 2 x 3: area 22, and every coordinate is a whole number, which all formats keep exactly.
BOX = trimesh.creation.box(bounds=[[0, 0, 0], [1, 2, 3]])
CLOUD = np.array([[0, 0.25, 0.5], [1, 0, 0], [0.125, 1, 0], [3, 2, 1]], dtype=np.float32)  # exact in decimals too

PLY = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
FACE = "element face 1\nproperty list uchar int vertex_indices\n"
CORNERS = "0 0 0\n1 0 0\n0 1 0\n"
V = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def ply_header(encoding, count):
    return f"ply\nformat {encoding} 1.0\nelement vertex {count}\n" + "".join(
        f"property float {axis}\n" for axis in "xyz"
    )


def off_by_hand(mesh):
    rows = [" ".join(map(str, row)) for row in mesh.vertices] + [f"3 {a} {b} {c}" for a, b, c in mesh.faces]
    return f"OFF\n{len(mesh.vertices)} {len(mesh.faces)} 0\n" + "\n".join(rows)  # no newline at the end


MESHES = {
    "binary.ply": trimesh.exchange.ply.export_ply(BOX),
    "ascii.ply": trimesh.exchange.ply.export_ply(BOX, encoding="ascii"),
    "a.obj": trimesh.exchange.obj.export_obj(BOX),
    "a.off": trimesh.exchange.off.export_off(BOX),
    "hand.off": off_by_hand(BOX),
    "glued.off": off_by_hand(BOX).replace("OFF\n", "OFF", 1),  # as some of ModelNet's files begin
    "binary.stl": trimesh.exchange.stl.export_stl(BOX),
    "ascii.stl": trimesh.exchange.stl.export_stl_ascii(BOX),
    "UPPER.OFF": off_by_hand(BOX),
}
CLOUDS = {
    "ascii.ply": ply_header("ascii", 4) + "end_header\n" + "\n".join(" ".join(map(str, row)) for row in CLOUD) + "\n",
    "little.ply": (ply_header("binary_little_endian", 4) + "end_header\n").encode() + CLOUD.astype("<f4").tobytes(),
    "big.ply": (ply_header("binary_big_endian", 4) + "end_header\n").encode() + CLOUD.astype(">f4").tobytes(),
    "exported.ply": trimesh.exchange.ply.export_ply(trimesh.PointCloud(CLOUD)),
    "a.obj": "".join(f"v {x} {y} {z}\n" for x, y, z in CLOUD),
    "a.off": "OFF\n4 0 0\n" + "\n".join(" ".join(map(str, row)) for row in CLOUD) + "\n",
    "a.xyz": "# x y z\n" + "\n".join(" ".join(map(str, row)) for row in CLOUD),
    "commas.txt": "\n".join(",".join(map(str, [*row, 0, 0, 1])) for row in CLOUD),  # normals are left out
}


@pytest.mark.parametrize("name", MESHES)
def test_meshes_keep_their_triangles(tmp_path, name):
    surface = read_shape(written(tmp_path, name, MESHES[name]))
    assert isinstance(surface, Surface)
    expected = {tuple(sorted(map(tuple, corners))) for corners in BOX.vertices[BOX.faces].tolist()}
    assert {tuple(sorted(map(tuple, corners))) for corners in surface.triangles.tolist()} == expected
    assert len(surface.triangles) == 12


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds_keep_their_points_in_order(tmp_path, name):
    assert np.array_equal(read_shape(written(tmp_path, name, CLOUDS[name])), CLOUD)


@pytest.mark.parametrize("suffix", [".xyz", ".npy"])
def test_points_in_the_plane(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    np.save(path, CLOUD[:, :2]) if suffix == ".npy" else np.savetxt(path, CLOUD[:, :2])
    assert np.array_equal(read_shape(path), CLOUD[:, :2])


def test_polygons_become_triangles_of_the_same_area(tmp_path):
    house = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv .5 1.5 0\nv 0 1 0\n"  # a square and a roof of a quarter of its area
    for name, faces in (("polygon", "f 1 2 3 4 5\n"), ("mixed", "f 1 2 3 5\nf 3 4 5\n")):
        assert read_shape(written(tmp_path, f"{name}.obj", house + faces)).area == pytest.approx(1.25, rel=1e-12)
    off = "OFF\n5 1 0\n0 0 0\n1 0 0\n1 1 0\n.5 1.5 0\n0 1 0\n5 0 1 2 3 4\n"
    assert read_shape(written(tmp_path, "a.off", off)).area == pytest.approx(1.25, rel=1e-12)


def test_scenes_are_merged(tmp_path):
    solid = trimesh.exchange.stl.export_stl_ascii(BOX)
    other = trimesh.exchange.stl.export_stl_ascii(BOX.copy().apply_translation([5, 0, 0]))
    merged = read_shape(written(tmp_path, "two.stl", solid + other))
    assert merged.area == pytest.approx(44, rel=1e-12)
    assert merged.bounds.tolist() == [[0, 0, 0], [6, 2, 3]]
    materials = V + "v 0 0 1\nusemtl wood\nf 1 2 3\nusemtl iron\nf 1 2 4\n"
    assert len(read_shape(written(tmp_path, "two.obj", materials)).triangles) == 2


def test_no_other_file_is_opened(tmp_path, monkeypatch, caplog):
    """Materials and textures that a file names, near or far, are left alone."""
    written(tmp_path, "secret.mtl", "newmtl wood\nmap_Kd secret.png\n")
    texture = (
        PLY.replace("1.0\n", "1.0\ncomment TextureFile secret.mtl\n") + FACE + "end_header\n" + CORNERS + "3 0 1 2"
    )
    paths = [written(tmp_path, "a.obj", "mtllib secret.mtl\n" + V + "usemtl wood\nf 1 2 3\n")]
    paths.append(written(tmp_path, "b.obj", "mtllib https://nowhere.invalid/a.mtl\n" + V + "f 1 2 3\n"))
    paths.append(written(tmp_path, "c.ply", texture))

    def refuse(*arguments, **options):
        raise AssertionError("a resolver was made")

    for name in ("FilePathResolver", "WebResolver"):
        monkeypatch.setattr(getattr(trimesh.resolvers, name), "__init__", refuse)
    with caplog.at_level(logging.WARNING):
        assert [read_shape(path).area for path in paths] == [0.5, 0.5, 0.5]
    assert not caplog.records  # trimesh warns when it looks for a texture in vain


BAD = {
    "empty.ply": ("", "is empty"),
    "blank.xyz": (" \n", "is empty"),
    "comment.xyz": ("# nothing\n", "no points"),
    "ragged.xyz": ("1 2 3\n1 2\n", "columns changed from 3 to 2 at row 2$"),
    "words.txt": ("Read me first\n", "could not convert"),
    "one_column.txt": ("1\n2\n", "one column"),
    "nan.xyz": ("1 2 3\n1 nan 3\n", "has 1 point with NaN"),
    "huge.xyz": ("1 2 1e300\n", "has 1 point with NaN or infinite"),  # infinite in float32
    "words.obj": ("Read me first\n", "neither triangles nor points"),
    "foreign.obj": (b"\x00\xff\x07" * 99, "cannot be read"),
    "number.obj": ("v 0 0 0\nv one 0 0\nv 0 1 0\nf 1 2 3\n", "unmatched data"),
    "cut.obj": ("v 0 0 0\nv 1 0 0\nv 0 1", "coordinates instead of 3"),
    "beyond.obj": (V + "f 1 2 9\n", "out of bounds"),
    "backwards.obj": (V + "f -3 -2 -1\n" + V + "f -3 -2 -1\n", "negative indices"),
    "nan.obj": ("v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n", "NaN or infinity"),
    "segment.obj": ("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "total area of 0.0"),
    "words.off": ("Read me first\n", "not an OFF file"),
    "header.off": ("OFF\n", "cannot be read"),
    "number.off": ("OFF\n3 1 0\n0 0 0\n1 x 0\n0 1 0\n3 0 1 2\n", "could not convert"),
    "faces.off": ("OFF\n3 2 0\n" + CORNERS + "3 0 1 2\n", "declares 5 vertices and faces, but only 4 lines"),
    "words.ply": ("Read me first\n", "Not a ply file"),
    "vertices.ply": (PLY + "end_header\n0 0 0\n1 0 0\n", "declares 3 vertices and faces, but only 2 lines"),
    "number.ply": (PLY + "end_header\n0 0 0\n1 0 0\n0 x 0\n", "unmatched data"),
    "beyond.ply": (PLY + FACE + "end_header\n" + CORNERS + "3 0 1 7\n", "not among its 3"),
    "negative.ply": (PLY + FACE + "end_header\n" + CORNERS + "3 0 1 -1\n", "not among its 3"),
    "nan.ply": (PLY + "end_header\n0 0 0\nnan 0 0\n0 1 0\n", "has 1 point with NaN"),
    "words.stl": ("Read me first\n", "neither triangles nor points"),
    "no_triangles.stl": (bytes(80) + struct.pack("<I", 0), "neither triangles nor points"),
    "half.stl": (MESHES["ascii.stl"][:300], "neither triangles nor points"),
    "nan.stl": (MESHES["ascii.stl"] + MESHES["ascii.stl"].replace("vertex 1", "vertex nan", 1), "NaN or infinite"),
    "foreign.npy": (b"Read me first", "not an npy file"),
    "pickle.npy": (pickle.dumps([1, 2]), "not an npy file"),
    "a.step": ("anything", "must end in"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_sentence_that_names_them(tmp_path, name):
    content, reason = BAD[name]
    path = written(tmp_path, name, content)
    with pytest.raises(ValueError, match=reason) as refusal:
        read_shape(path)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["binary.ply", "ascii.ply", "a.off", "binary.stl", "ascii.stl"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_cut_files_are_refused(tmp_path, name, share):
    content = MESHES[name]
    with pytest.raises(ValueError, match=name):
        read_shape(written(tmp_path, name, content[: int(len(content) * share)]))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(3), r"must hold numbers \(points, D\)"),
        (np.zeros((0, 3)), "must hold numbers"),
        (np.array([["a", "b"]]), "must hold numbers"),
        (np.array([[1.0, np.inf]]), "1 point with NaN or infinite"),
        (np.array([{}, {}], dtype=object), "it holds Python objects, which are never unpickled"),
    ],
)
def test_arrays_that_are_no_cloud_are_refused(tmp_path, array, reason):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=reason):
        read_shape(tmp_path / "a.npy")
