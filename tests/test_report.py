"""What report.html says of a run, without a browser."""

import base64
import hashlib
import math

import numpy as np
import pytest
from plotly.offline import get_plotlyjs

from mfcdm.evaluation import Protocol, Report, Score
from mfcdm.report import write_report
from mfcdm.report.records import thinned
from tests.report_pages import HOSTILE, Page, ordinary_records, page_of, shapes, training, write_run, write_samples

# Curves


def test_curves_are_the_records(tmp_path):
    records = list(ordinary_records(30))
    charts = page_of(write_run(tmp_path / "run", records)).charts
    drawn = {curve["name"]: curve for chart in charts.values() for curve in chart["curves"]}
    ends = {"validation/1nna-cd/low", "validation/1nna-cd/high"}
    names = {name for record in records for name in record} - {"step"}
    assert drawn.keys() == names - ends
    for name, curve in drawn.items():
        rows = [record for record in records if name in record]
        assert curve["x"] == [record["step"] for record in rows]
        assert curve["y"] == [record[name] for record in rows]
    band = drawn["validation/1nna-cd"]
    assert (band["low"], band["high"]) == ([0.6] * 3, [0.8] * 3)


def test_what_belongs_together_shares_a_chart_in_its_order(tmp_path):
    names = [f"loss/level_{k}" for k in (10, 2, 0)]
    names += [f"loss/log_snr/{edges}" for edges in ("3..inf", "-inf..-3", "-3..3")]
    names += ["loss", "learning_rate", "custom/one", "custom/two", "a/b/x", "a/b/y", "validation/1nna-cd"]
    page = page_of(write_run(tmp_path / "run", [{"step": 1} | dict.fromkeys(names, 1.0)]))
    members = {key: [curve["name"] for curve in chart["curves"]] for key, chart in page.charts.items()}
    assert {key: [name.rpartition("/")[2] for name in found] for key, found in members.items()} == {
        "loss": ["loss"],
        "loss/level": ["level_0", "level_2", "level_10"],
        "loss/log_snr": ["-inf..-3", "-3..3", "3..inf"],
        "validation/1nna-cd": ["1nna-cd"],
        "a/b": ["x", "y"],
        "custom/one": ["one"],
        "custom/two": ["two"],
        "learning_rate": ["learning_rate"],
    }
    sections = list(dict.fromkeys(chart["section"] for chart in page.data["charts"]))
    assert sections == ["loss", "validation", "a", "custom", "training"]


def test_an_axis_is_logarithmic_where_values_are_positive_and_far_apart(tmp_path):
    values = {"m/wide": (1e-3, 1.0), "m/narrow": (0.5, 1.0), "m/zero": (0.0, 1.0), "m/nan": (math.nan, math.nan)}
    records = [{"step": at, **{name: pair[at] for name, pair in values.items()}} for at in range(2)]
    charts = page_of(write_run(tmp_path / "run", records)).charts
    assert {key: chart["log"] for key, chart in charts.items()} == {name: name == "m/wide" for name in values}


def test_a_long_run_keeps_its_ends_and_peaks(tmp_path):
    records = [{"step": at, "loss": math.sin(at / 50), "seconds": float(at)} for at in range(10_000)]
    records[4321]["loss"], records[4322]["loss"] = 50.0, -50.0
    records[77]["loss"] = math.nan
    page = page_of(write_run(tmp_path / "run", records))
    (curve,) = page.charts["loss"]["curves"]
    assert 1000 < len(curve["x"]) <= 2000
    assert len(page.data["clock"]["steps"]) <= 2000
    drawn = {step: value for step, value in zip(curve["x"], curve["y"], strict=True) if value is not None}
    assert drawn == {step: records[step]["loss"] for step in drawn}
    assert (curve["x"][0], curve["x"][-1]) == (0, 9_999)
    assert (max(curve["y"]), min(curve["y"])) == (50.0, -50.0)
    assert "gaps in the curves: 1" in page.text


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 1000])
def test_thinning_keeps_few_points_of_any_curve(count):
    values = np.random.default_rng(0).normal(size=count).tolist()
    kept = thinned(values, 8)
    assert kept == sorted(set(kept))
    assert len(kept) <= 8
    assert {0, count - 1, int(np.argmax(values)), int(np.argmin(values))} <= set(kept)
    assert len(thinned([math.nan] * count, 8)) <= 8


def test_damaged_lines_and_values_that_are_no_numbers_are_left_out_and_counted(tmp_path):
    lines = [
        {"step": 1, "loss": 1.0, "note": "text", "flag": True, "list": [1]},
        '{"step": 2, "lo',
        '{"loss": 3.0}',
        '{"step": true, "loss": 3.0}',
        "[1]",
        "[" * 100_000,
        "",
        '{"step": 3, "loss": NaN, "seconds": Infinity, "huge": 1e999}',
        '{"step": 5, "loss": 4.0}',
        '{"step": 4, "loss": 2.0}',
        '{"step": 4, "loss": 2.5}',
    ]
    run = write_run(tmp_path / "run", lines)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b"\xff\xfe\n")
    page = page_of(run)
    (curve,) = page.charts["loss"]["curves"]
    assert (curve["x"], curve["y"]) == ([1, 3, 4, 5], [1.0, None, 2.5, 4.0])
    assert page.charts.keys() == {"loss", "seconds", "huge"}
    assert page.data["clock"] == {"steps": [], "seconds": []}
    assert "Damaged lines of metrics.jsonl that are left out: 6." in page.text
    assert "gaps in the curves: 3." in page.text


@pytest.mark.parametrize("there", [True, False])
def test_a_run_that_has_nothing_yet_has_a_page(tmp_path, there):
    run = tmp_path / "run"
    run.mkdir()
    if there:
        (run / "metrics.jsonl").write_text("")
    page = page_of(run)
    assert page.data == {"charts": [], "clock": {"steps": [], "seconds": []}, "pairs": []}
    for missing in ("There are no records", "No samples", "No config.yaml", "No environment.json", "No scores"):
        assert missing in page.text
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        write_report(tmp_path / "elsewhere")


# Configuration and scores


def test_the_page_has_the_configuration_the_machine_and_the_commands(tmp_path):
    config = {"name": "airplane", "seed": 7, "trainer": {"max_steps": 9, "inner": {"rate": [0.5, None]}}, "empty": {}}
    environment = {"git": "abc123", "torch": "2.13.0", "command": ["train.py", "name=a b"]}
    page = page_of(write_run(tmp_path / "a b" / "run", config=config, environment=environment))
    for said in ("trainer.max_steps", "trainer.inner.rate", "[0.5, null]", "abc123", "2.13.0", "train.py 'name=a b'"):
        assert said in page.text
    folder = tmp_path / "a b" / "run"
    assert f"python train.py 'resume=\"{folder}\"'" in page.text
    assert f"python sample.py 'checkpoint=\"{folder}/checkpoints/last\"'" in page.text
    assert "airplane: run" in page.text


def test_the_scores_of_an_evaluation_and_of_training_are_there(tmp_path):
    scores = [Score("1nna-cd", 0.625, 0.5, 0.75, 0.4, 0.6, p_value=0.03, best=0.5), Score("mmd-cd", 0.00123, best=0.0)]
    report = Report(Protocol(), scores, {"clouds": 8}, ["a note of it"], {}, {}, {"reference": {"path": "held.npz"}})
    run = write_run(tmp_path / "run", ordinary_records(20), {"validation": {"num_steps": 25}}, report=report.as_dict())
    write_run(run / "broken", report={"scores": 3})
    page = page_of(run)
    for said in ("62.5 %", "50.0 % to 75.0 %", "40.0 % to 60.0 %", "0.03", "0.00123", "a note of it", "held.npz"):
        assert said in page.text
    assert f"Protocol {Protocol().in_words()}." in page.text
    assert "32 generated clouds (sampler, 25 steps, averaged weights) against 32 clouds of the split val" in page.text
    assert "70.0 % (60.0 % to 80.0 %)" in page.text
    assert "broken/report.json is left out: it has no scores and no protocol" in page.text


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "samples/samples.npz", "more/report.json"])
def test_a_damaged_file_is_named_and_the_rest_is_shown(tmp_path, name):
    run = write_run(tmp_path / "run", ordinary_records(3))
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_bytes(b"\x00{[broken: \xff")
    page = page_of(run)
    assert name in page.text
    assert "could not be read" in page.text
    assert page.charts


def test_few_characters_that_stand_for_very_many_values_are_left_out(tmp_path):
    run = write_run(tmp_path / "run", ordinary_records(3))
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 5)]
    (run / "config.yaml").write_text("\n".join(lines))
    page = page_of(run)
    assert "config.yaml could not be read: config.yaml is damaged: it holds more than" in page.text
    assert page.charts


# Safety


def hostile_run(folder):
    """A run whose files hold an attempt to run a script wherever a string can stand."""
    name = "run " + HOSTILE.replace("/", "|")  # a folder's name has no slash
    record = {"step": 1, "loss": 1.0, HOSTILE: 1.0, f"{HOSTILE}/low": 0.0, f"{HOSTILE}/high": 2.0, f"{HOSTILE}_0": 1.0}
    config = {"name": HOSTILE, HOSTILE: {HOSTILE: HOSTILE, "list": [HOSTILE]}, "sampler": {"_target_": HOSTILE}}
    about = {"git": HOSTILE, HOSTILE: HOSTILE, "command": [HOSTILE]}
    protocol = {"name": HOSTILE, HOSTILE: HOSTILE}
    report = {"protocol": protocol, "scores": {HOSTILE: {"value": 1.0}}, "notes": [HOSTILE], "files": {"a": HOSTILE}}
    validated = {"step": 2, "validation/1nna-cd": 0.5}
    run = write_run(folder / name, [record, validated], config, environment=about, report=report)
    return write_samples(run, shapes(2, 64), labels=np.array([0, 1]))


def test_strings_from_files_are_text_and_nothing_else(tmp_path):
    run = hostile_run(tmp_path)
    page = page_of(run, training(4, 64), missing=HOSTILE)
    assert len(page.scripts) == 3  # the data, plotly, and the page's own
    assert not [tag for tag, _, _ in page.attributes if tag == "img"]
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("src", "href", "action")]
    assert page.text.count(HOSTILE) >= 12
    assert HOSTILE in [curve["name"] for chart in page.data["charts"] for curve in chart["curves"]]


def test_a_class_may_have_any_name(tmp_path, monkeypatch):
    run = write_samples(write_run(tmp_path / "run"), shapes(2, 64), labels=np.array([0, 1]))
    monkeypatch.setattr("mfcdm.checkpoint.newest", lambda folder: run)
    monkeypatch.setattr("mfcdm.checkpoint.read_state", lambda folder: {"step": 3, "categories": [HOSTILE, "mug"]})
    (run / "state.json").write_text("{}")
    page = page_of(run)
    assert [pair["title"] for pair in page.data["pairs"]] == [f"cloud 0: {HOSTILE}", "cloud 1: mug"]
    assert len(page.scripts) == 3


def test_a_name_that_is_no_text_is_replaced(tmp_path):
    run = write_run(tmp_path / "run", ['{"step": 1, "\\ud800": 1.0}'], environment={"git": "\ud800"})
    assert "\ud800" in page_of(run).charts


def test_the_page_loads_nothing_and_allows_its_own_scripts_alone(tmp_path):
    run = write_samples(write_run(tmp_path / "run", ordinary_records(20)), shapes(3, 64))
    path = write_report(run, training(4, 64))
    page, whole = Page.at(path), path.read_text()
    scripts = [text for about, text in page.scripts if "type" not in about]
    assert scripts[0] == get_plotlyjs()
    assert whole.count("plotly.js v") == 1
    assert "http:" not in whole.replace(scripts[0], "")
    assert "https:" not in whole.replace(scripts[0], "")
    (policy,) = [value for _, name, value in page.attributes if name == "content" and value.startswith("default-src")]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert f"default-src 'none'; script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}'; style-src" in policy
    assert not {"connect-src", "font-src", "'unsafe-eval'"} & set(policy.replace(";", " ").split())


def test_the_largest_page_is_below_ten_megabytes(tmp_path):
    run = write_samples(write_run(tmp_path / "run", ordinary_records(10_000)), shapes(16, 4096))
    path = write_report(run, training(8, 4096))
    page = Page.at(path)
    assert len(page.data["pairs"]) == 8
    assert len(page.data["pairs"][7]["nearest"]["x"]) == 2048
    assert path.stat().st_size < 10e6
