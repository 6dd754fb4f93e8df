"""Hostile files by the hundred: each is read as what it holds, or ends in one sentence, and does nothing else.

Every rule is tried twice here, and more often by `python -m tests.commands.test_mutants 300`.
"""

import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest
import torch

from mfcdm import checkpoint
from mfcdm.checkpoint_export import export
from mfcdm.datasets import Normalization
from mfcdm.networks import ScoreNetwork
from tests.commands.mutants import Mutants
from tests.commands.mutations import RULES
from tests.commands.mutations.archives import CLOUDS

MANY = 2 * sum(map(len, RULES.values()))
SIZES = {"width": 8, "depth": 1, "num_moments": 2, "num_heads": 2, "num_scales": 2, "channels": 2}
CONFIG = {
    "sde": {"_target_": "mfcdm.sde.CosineVPSDE"},
    "network": {"_target_": "mfcdm.networks.ScoreNetwork", **SIZES},
    "subdivision": {"_target_": "mfcdm.subdivision.Subdivision.dyadic", "num_particles": 64, "num_levels": 2},
    "branching": {"_target_": "mfcdm.branching.Renoise", "push": 1.0},
}
SECRET = b"\x07" * 4096
FOLDERS, SHAPES = ("folder", "config", "weights"), ("ply", "obj", "off")


def chosen(many: int = MANY) -> list[tuple[str, str, bool, int]]:
    """(family, rule, deep, seed) of every mutant: the rules of all families take turns."""
    rules = [(family, name, deep) for family, those in RULES.items() for name, deep, _ in those]
    return [(*rules[number % len(rules)], number) for number in range(many)]


def test_a_third_of_the_mutants_has_a_valid_header():
    assert sum(deep for _, _, deep, _ in chosen()) >= MANY / 3


def wholes(base: Path) -> Path:
    """A file or folder of each kind that can be read."""
    torch.manual_seed(0)
    normalization = Normalization(torch.zeros(3), torch.tensor(1.0))
    weights = ScoreNetwork(**SIZES).state_dict()
    folder = checkpoint.save(base / "folder", weights=weights, config=CONFIG, normalization=normalization, step=1)
    export(folder, base / "exported.safetensors")
    np.savez(base / "clouds.npz", points=CLOUDS)
    with h5py.File(base / "clouds.h5", "w") as file:
        file["points"] = CLOUDS
    (base / "shapes").mkdir()
    (base / "shapes" / "a.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    (base / "shapes" / "b.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    ply = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    (base / "shapes" / "c.ply").write_text(f"{ply}0 0 1\n")
    return base


def warm(whole: Path) -> Mutants:
    checkpoints = [("checkpoint", whole / name) for name in ("folder", "exported.safetensors")]
    return Mutants([*checkpoints, *(("clouds", whole / name) for name in ("clouds.npz", "clouds.h5", "shapes"))])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return wholes(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def mutants(whole):
    with warm(whole) as them:
        yield them


def made(whole: Path, family: str, name: str, seed: int, folder: Path) -> tuple[str, Path]:
    """Make a mutant in a folder; the reader, and what it is given."""
    change = next(change for known, _, change in RULES[family] if known == name)
    if family in FOLDERS:
        path = Path(shutil.copytree(whole / "folder", folder / "step-1"))
    elif family == "exported":
        path = Path(shutil.copy(whole / "exported.safetensors", folder / "mutant.safetensors"))
    else:
        path = folder / f"mutant.{family}"
    change(random.Random(seed), path)
    reader = "checkpoint" if family in FOLDERS or family == "exported" else "clouds"
    return reader, folder if family in SHAPES else path


def faults(family: str, many: int, whole: Path, mutants: Mutants, place: Path) -> Iterator[str]:
    """What is wrong with the reading of a family's mutants, made in a folder."""
    outside = place / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "secret").write_bytes(SECRET)
    for _, name, _, seed in (one for one in chosen(many) if one[0] == family):
        folder = place / f"mutant-{seed}"
        folder.mkdir()
        reader, path = made(whole, family, name, seed, folder)
        there = sorted(folder.rglob("*"))
        ended = mutants.read(reader, path, folder)
        if fault := ended.fault():
            yield f"{name}-{seed}: {fault}"
        if sorted(folder.rglob("*")) != there:
            yield f"{name}-{seed}: left something behind"
        shutil.rmtree(folder)
        if [(path.name, path.read_bytes()) for path in place.rglob("*") if path.is_file()] != [("secret", SECRET)]:
            yield f"{name}-{seed}: changed something outside its folder"


@pytest.mark.parametrize("family", RULES)
def test_mutants_are_read_or_refused_in_one_sentence(whole, mutants, tmp_path, family):
    found = list(faults(family, MANY, whole, mutants, tmp_path))
    assert not found, "\n".join(found)


def main() -> None:
    """Try as many mutants as the command line says; exit code 1 where one is read wrongly."""
    number = 0
    with TemporaryDirectory() as name:
        (base := Path(name) / "whole").mkdir()
        (place := Path(name) / "place").mkdir()
        with warm(wholes(base)) as mutants:
            for family in RULES:
                for fault in faults(family, int(sys.argv[1]), base, mutants, place):
                    number += 1
                    print(f"{family}: {fault}", flush=True)
    print(f"{sys.argv[1]} mutants, {number} faults")
    sys.exit(number > 0)


if __name__ == "__main__":
    main()
