"""The benchmarks of the evaluation measure what they say."""

import csv
import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mfcdm.evaluation import PROTOCOLS, evaluate, read_clouds
from mfcdm.metrics import one_nearest_neighbour_accuracy
from tests.evaluation.clouds import ellipsoids

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "eggs.npz"
    np.savez(path, train=ellipsoids(9, 24).numpy(), val=ellipsoids(6, 24, seed=1).numpy())
    return path


def started(module, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["benchmark", *map(str, arguments)])
    module.main()
    with Path(arguments[-1]).open(newline="") as file:
        return list(csv.DictReader(file))


def test_reference_rows_are_means_of_reports(script, monkeypatch, data, tmp_path):
    module, output = script("reference_rows"), tmp_path / "rows.csv"
    options = ("--data", data, "--draws", 2, "--num-points", 20, "--emd", "--output", output)
    rows = {row["score"]: row for row in started(module, monkeypatch, *options)}
    values = []
    for draw in range(2):
        order = torch.randperm(9, generator=torch.Generator().manual_seed(draw))
        protocol = replace(PROTOCOLS["mfcdm"], num_points=20, seed=draw)
        values.append(evaluate(read_clouds(data, "train")[order[:6]], read_clouds(data, "val"), protocol))
    assert list(rows) == [score.key for score in values[0].scores]
    for key, row in rows.items():
        unit = 100 if key.startswith(("1nna", "cov")) else 1
        found = [unit * report[key].value for report in values]
        expected = (sum(found) / 2, min(found), max(found))
        # five digits are written
        assert [float(row[name]) for name in ("mean", "lowest", "highest")] == pytest.approx(expected, rel=1e-4)
        assert (row["data"], row["clouds"], row["points"], row["draws"]) == ("eggs", "6", "20", "2")
    # what is not measured again stays
    options = ("--data", data, "--draws", 2, "--num-points", 20, "--output", output)
    again = [row["score"] for row in started(module, monkeypatch, *options)]
    assert sorted(again) == sorted(rows)
    assert again[-4:] == ["mmd-cd", "cov-cd", "1nna-cd", "jsd"]


def test_exact_nearest_has_one_accuracy_in_all_rows(script, monkeypatch, data, tmp_path):
    module = script("exact_nearest")
    sizes = ("--num-clouds", 6, "--num-points", 16)
    options = ("--data", data, *sizes, "--floors", "--all-pairs", "--output", tmp_path / "rows.csv")
    rows = started(module, monkeypatch, *options)
    assert [row["distances"] for row in rows] == ["nearest", "nearest, with floors", "all pairs"]
    a, b = (module.drawn(str(data), split, 6, 16, seed=0) for split in ("train", "val"))
    whole = module.all_pairs(a, b)
    expected = 100 * one_nearest_neighbour_accuracy(whole.d_gg, whole.d_rr, whole.d_gr)
    assert [float(row["1nna-emd"]) for row in rows] == pytest.approx(
        [expected] * 3, abs=0.005
    )  # two digits are written
    solved = [int(row["solved"]) for row in rows]
    assert solved == sorted(solved)
    assert solved[-1] == int(rows[-1]["pairs"]) == 66


@pytest.mark.parametrize("name", ["chamfer", "emd"])
def test_peers_of_sets_compute_the_same(script, name):
    module = script("metrics")
    x, y = ellipsoids(3, 12), ellipsoids(3, 12, seed=1)
    ours = module.SETS[f"{name}, all pairs"](x, y)
    assert module.SETS[f"{name}, all pairs, scipy"](x, y) == pytest.approx(float(ours), rel=1e-6)  # sums in float32
