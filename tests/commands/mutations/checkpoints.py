"""Hostile checkpoints: folders, their texts and weights, and exported files."""

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import load_file, save_file

from tests.commands.mutations.rules import HUGE, ODD, cut, nested, overwrite, rule

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


def config_rule(change: Callable[[random.Random, dict], None]) -> None:
    """Make a rule of a change to the values of config.yaml."""

    def changed(rng, folder):
        rewrite_yaml(folder / "config.yaml", lambda config: change(rng, config))

    changed.__name__ = f"config_{change.__name__}"
    rule("config")(changed)


for change in (changed_config, changed_target, deepest, learned):
    config_rule(change)


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
