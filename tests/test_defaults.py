"""The table of the defaults says what the rows say."""

import csv
import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_a_difference_is_bold_where_it_exceeds_its_interval_and_chance(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    defaults = importlib.import_module("defaults")

    def row(difference, interval):
        return {f"surface_{key}": str(value) for key, value in (("percent", difference), ("interval", interval))}

    shown = [defaults.cell(row(*numbers), 1.5, "surface") for numbers in ((2.0, 0.5), (-2.0, 2.5), (1.2, 0.5))]
    assert shown == ["**+2.0 ± 0.5**", "-2.0 ± 2.5", "+1.2 ± 0.5"]
    assert defaults.cell(None, 1.5, "surface") == "not measured"
    found = {data: {"another seed": row(chance, 0.1)} for data, chance in (("shapes", -1.5), ("headwear", 0.2))}
    for own in found.values():
        own["another seed"] |= {f"{measure}_percent": "0" for measure in defaults.MEASURES if measure != "surface"}
    assert defaults.by_chance(found) == {"fine_error": 0.0, "surface": 1.5, "redrawn": 0.0}


def test_the_table_has_a_row_a_variant_and_a_column_a_measure_and_data_set(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    defaults = importlib.import_module("defaults")

    def row(base, variant, difference):
        numbers = {
            f"{measure}_{key}": str(difference) for measure in defaults.MEASURES for key in ("percent", "interval")
        }
        return {"group": "defaults", "base": base, "variant": variant, **numbers}

    rows = [row("shapes", "default", 0.0), row("shapes", "wider", 1.0), row("headwear", "default", 0.0)]
    lines = defaults.table([*rows, {**rows[1], "group": "others"}])
    assert len(lines) == 3
    assert lines[2] == "| wider |" + " +1.0 ± 1.0 |" * 3 + " not measured |" * 3


def test_the_page_has_the_table_of_the_rows(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    defaults = importlib.import_module("defaults")
    with (ROOT / "benchmarks/ablation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    page = (ROOT / "docs/defaults.md").read_text()
    for lines, least in ((defaults.table(rows), 20), (defaults.drawn(rows), 4)):
        assert len(lines) > least
        assert "\n".join(lines) in page
