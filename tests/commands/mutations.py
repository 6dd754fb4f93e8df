"""Rules that turn whole files into hostile ones. Each takes a random generator and what it changes.

A rule that is marked `deep` leaves every header as it was: what is wrong lies behind it.
"""

import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import yaml
from safetensors.numpy import load_file, save_file

HUGE = (2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, -1, -(2**31), 0)
ODD = (float("nan"), float("inf"), -float("inf"), 1e39, -1e300, 1e-320)
TARGETS = (
    "os.system",
    "builtins.eval",
    "subprocess.Popen",
    "mfcdm.sde.CosineVPSDE.__class__",
    "mfcdm.sde.CosineVPSDE.__init__.__globals__",
    "mfcdm.build.import_module",
    "mfcdm.checkpoint.shutil.rmtree",
    "mfcdm.cli.train",
    "mfcdm.sde.SDE",
    "mfcdm.nowhere.At.all",
    "mfcdm..sde",
    "mfcdm",
    "",
)
TAGS = (
    "!!python/object/apply:os.system ['touch hostile']",
    "!!python/object/new:subprocess.Popen [['touch', 'hostile']]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1, 2]",
    "!!int ''",
    "!!timestamp x",
    "!!bool x",
    "!!float x",
    "!!binary x",
    "!!set {a, b}",
    "2026-99-99",
    "1" + "0" * 6000,
    "&a [*a]",
    "{? {a: b} : c}",
    "*nothing",
    "\x07",
)
Rule = Callable[[random.Random, Path], Path | None]
RULES: dict[str, list[tuple[str, bool, Rule]]] = {}


def rule(family: str, deep: bool = False) -> Callable[[Rule], Rule]:
    def add(made: Rule) -> Rule:
        RULES.setdefault(family, []).append((made.__name__, deep, made))
        return made

    return add


def cut(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def overwrite(rng: random.Random, path: Path, begin: int) -> None:
    """A few values behind `begin` replaced by those that break arithmetic."""
    content = bytearray(path.read_bytes())
    patterns = (b"\xff\xff\xff\xff", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\xff\x7f", b"\x00" * 8)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(min(begin, len(content) - 8), len(content) - 8)
        pattern = rng.choice(patterns)
        content[at : at + len(pattern)] = pattern
    path.write_bytes(content)


def nested(rng: random.Random) -> str:
    depth = rng.choice((30, 40, 300, 3000, 60000))
    return rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth))


# state.json and config.yaml of a folder; the same values in the header of an exported file


def changed_state(rng: random.Random, state: dict) -> None:
    key = rng.choice(("format_version", "step", "mean", "std", "categories", "training", "branching"))
    values = (*HUGE, *ODD, None, "x" * rng.choice((1, 10**5)), [], {}, [[1.0]] * 3, [None] * 3, True, [*ODD[:3]])
    state[key] = rng.choice(values)
    if key == "mean":
        state[key] = rng.choice(([0.0] * rng.choice((1, 2, 4, 10**4)), [rng.choice((*ODD, *HUGE))] * 3, state[key]))


def changed_config(rng: random.Random, config: dict) -> None:
    part = rng.choice(("sde", "network", "network", "network", "subdivision", "branching"))
    sizes = ("dim", "width", "depth", "num_moments", "num_scales", "channels", "num_heads", "expansion", "num_classes")
    keys = {
        "sde": ("beta_max", "beta_min", "t_min"),
        "network": (*sizes, "radius", "interactions", "prediction", "backend", "max_sources"),
        "subdivision": ("num_particles", "ratio", "spacing"),
        "branching": ("push",),
    }[part]
    key = rng.choice(keys)
    config[part][key] = rng.choice((*HUGE, *ODD, 10**9, 10**6, 10**4, "x", None, [1, 2], [], {}, {"a": 1}, True))


def changed_target(rng: random.Random, config: dict) -> None:
    part = rng.choice(("sde", "network", "subdivision", "branching"))
    hostile = {"_target_": rng.choice(TARGETS), "command": "touch hostile", "args": ["touch hostile"]}
    if rng.random() < 0.5:
        config[part] = hostile
    else:
        config[part]["push" if part == "branching" else "x"] = [hostile] if rng.random() < 0.5 else hostile


def deepest(rng: random.Random, config: dict) -> None:
    config["network"]["depth"] = rng.choice((10**9, 10**12, 2**62))
    config["network"]["width"] = rng.choice((8, 10**4, 2**24))


def learned(rng: random.Random, config: dict) -> None:
    config["branching"] = {"_target_": "mfcdm.branching.Learned", "depth": rng.choice((2, 10**9, 2**60))}


def rewrite_json(path: Path, change: Callable[[dict], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def rewrite_yaml(path: Path, change: Callable[[dict], None]) -> None:
    value = yaml.safe_load(path.read_text())
    change(value)
    path.write_text(yaml.safe_dump(value))


@rule("folder")
def state_values(rng, folder):
    rewrite_json(folder / "state.json", lambda state: changed_state(rng, state))


@rule("folder")
def state_texts(rng, folder):
    (folder / "state.json").write_text(rng.choice((nested(rng), "[]", "1" * 5000, "null", '{"format_version": 1}')))


@rule("folder")
def files_cut(rng, folder):
    cut(rng, rng.choice(sorted(folder.iterdir())))


@rule("folder")
def files_replaced(rng, folder):
    """By a folder, a link to a secret, a link to itself, a queue that nobody fills, an endless device, a huge hole."""
    path = rng.choice(sorted(folder.iterdir()))
    path.unlink()
    kind = rng.choice(("folder", "secret", "itself", "queue", "endless", "hole", "outside"))
    if kind == "folder":
        path.mkdir()
    elif kind == "queue":
        os.mkfifo(path)
    elif kind == "hole":
        path.touch()
        os.truncate(path, 2**40)
    else:
        targets = {"secret": "../../outside/secret", "itself": path.name, "endless": "/dev/zero", "outside": "../.."}
        path.symlink_to(targets[kind])


@rule("config")
def config_values(rng, folder):
    rewrite_yaml(folder / "config.yaml", lambda config: changed_config(rng, config))


@rule("config")
def config_targets(rng, folder):
    rewrite_yaml(folder / "config.yaml", lambda config: changed_target(rng, config))


@rule("config")
def config_depth(rng, folder):
    rewrite_yaml(folder / "config.yaml", lambda config: deepest(rng, config))


@rule("config")
def config_branching(rng, folder):
    rewrite_yaml(folder / "config.yaml", lambda config: learned(rng, config))


@rule("config")
def config_tags(rng, folder):
    path = folder / "config.yaml"
    path.write_text(path.read_text() + f"extra: {rng.choice(TAGS)}\n")


@rule("config")
def config_nested(rng, folder):
    path = folder / "config.yaml"
    path.write_text(path.read_text() + f"extra: {nested(rng)}\n")


@rule("config")
def config_multiplied(rng, folder):
    """Names of names: few characters for very many values."""
    path, width = folder / "config.yaml", rng.choice((10, 100))
    lines = [f"l0: &l0 {rng.choice(('[x]', 'x' * 1000))}"]
    lines += [f"l{k}: &l{k} [{', '.join([f'*l{k - 1}'] * width)}]" for k in range(1, 30)]
    lines += ["network: *l29"] if rng.random() < 0.5 else []
    path.write_text(path.read_text() + "\n".join(lines))


# safetensors: the header is JSON behind its length


def header_of(path: Path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def put_header(path: Path, header: dict | bytes, body: bytes, size: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + body)


def hostile_header(rng: random.Random, path: Path) -> None:
    header, body = header_of(path)
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry, kind = header[name], rng.randrange(8)
    if kind == 0:
        entry["data_offsets"] = rng.choice(([0, len(body)], [len(body), 0], [2**63, 2**63 + 4], [-4, 0], [0], "x"))
    elif kind == 1:
        entry["shape"] = rng.choice(([2**62], [2**32, 2**32], [0, 2**63], [-1], [0], [1] * 200, ["x"], [1e30], None))
    elif kind == 2:
        entry["dtype"] = rng.choice(("F64", "I64", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "U64", "C64", "", "V1", 3))
    elif kind == 3:
        header[f"{name}.more"] = dict(entry)  # the same bytes twice
    elif kind == 4:
        header[rng.choice(("x" * 10**5, "a\x00b", "\ud800", "__class__", "_metadata", "../../x"))] = header.pop(name)
    elif kind == 5:
        header["__metadata__"] = rng.choice(({"mfcdm": 3}, {"mfcdm": "x" * 2**20}, [], "x", {"mfcdm": nested(rng)}))
    elif kind == 6:
        put_header(path, nested(rng).encode(), body)
        return
    else:
        put_header(path, header, body, rng.choice((0, 1, 2**27, 2**40, 2**63, 2**64 - 1)))
        return
    put_header(path, header, body)


def hostile_weights(rng: random.Random, path: Path, metadata: dict[str, str] | None) -> None:
    """A whole file whose weights are not those of the network."""
    weights = load_file(path)
    for name in rng.sample(sorted(weights), rng.choice((1, 3))):
        x = weights[name]
        odd = np.full_like(x, rng.choice(ODD[:3]))
        wide, whole_numbers = np.full(x.shape, 1e300), np.full(x.shape, 2**62)
        weights[name] = rng.choice((odd, x.T.copy(), x[None], x.ravel()[:0], wide, whole_numbers, x > 0))
    save_file(weights, path, metadata=metadata)


@rule("weights")
def headers(rng, folder):
    hostile_header(rng, folder / "network.safetensors")


@rule("weights", deep=True)
def numbers(rng, folder):
    hostile_weights(rng, folder / "network.safetensors", None)


@rule("weights", deep=True)
def bodies(rng, folder):
    path = folder / "network.safetensors"
    overwrite(rng, path, path.stat().st_size // 2)


def about_of(path: Path) -> dict:
    return json.loads(header_of(path)[0]["__metadata__"]["mfcdm"])


def put_about(path: Path, about: dict | str) -> None:
    header, body = header_of(path)
    header["__metadata__"]["mfcdm"] = about if isinstance(about, str) else json.dumps(about)
    put_header(path, header, body)


@rule("exported")
def exported_headers(rng, path):
    hostile_header(rng, path)


@rule("exported", deep=True)
def exported_states(rng, path):
    about = about_of(path)
    changed_state(rng, about)
    put_about(path, about)


@rule("exported", deep=True)
def exported_configs(rng, path):
    about = about_of(path)
    rng.choice((changed_config, changed_target, deepest, learned))(rng, about["config"])
    put_about(path, about)


@rule("exported", deep=True)
def exported_texts(rng, path):
    put_about(path, rng.choice((nested(rng), "[]", "1" * 5000, json.dumps({**about_of(path), "config": [1]}))))


@rule("exported", deep=True)
def exported_numbers(rng, path):
    hostile_weights(rng, path, {"mfcdm": json.dumps(about_of(path))})


# Meshes and points


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


# Archives


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
        kind = h5py.string_dtype() if kind == "O" else kind
        file.create_dataset("points", shape=(4, 16, 3), dtype=kind)


@rule("h5")
def h5_bytes(rng, path):
    with h5py.File(path, "w") as file:
        file.create_dataset("points", data=CLOUDS, compression=rng.choice((None, "gzip")))
    rng.choice((cut, lambda rng, path: overwrite(rng, path, 8)))(rng, path)
