"""docs/defaults.md holds the table that its script makes of the measured rows."""

import csv
import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_table_of_the_defaults_is_that_of_the_rows(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    defaults = importlib.import_module("defaults")
    with (ROOT / "benchmarks" / "ablation.csv").open(newline="") as file:
        lines = defaults.table(list(csv.DictReader(file)))
    assert len(lines) > 2
    assert "\n".join(lines) in (ROOT / "docs" / "defaults.md").read_text()


def test_a_difference_is_bold_where_it_exceeds_its_interval_and_chance(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    defaults = importlib.import_module("defaults")

    def row(difference, interval):
        return {f"surface_{key}": str(value) for key, value in (("percent", difference), ("interval", interval))}

    chance = row(-1.5, 0.2)
    shown = [defaults.cell(row(*numbers), chance, "surface") for numbers in ((2.0, 0.5), (-2.0, 2.5), (1.2, 0.5))]
    assert shown == ["**+2.0 ± 0.5**", "-2.0 ± 2.5", "+1.2 ± 0.5"]
    assert defaults.cell(chance, chance, "surface") == "-1.5 ± 0.2"
    assert defaults.cell(None, chance, "surface") == "not measured"
