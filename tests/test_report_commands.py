"""report.html at the end of training, and made again by python -m mfcdm.report."""

import errno
import json

import numpy as np
import pytest
import yaml

from mfcdm.commands import reporting
from mfcdm.datasets import rescaled
from tests.commands.runs import SHAPES
from tests.report_pages import Page, ordinary_records, shapes, training, write_run, write_samples


def test_training_ends_with_a_page(call, tmp_path):
    ended = call("train", *SHAPES, "trainer.max_steps=2", "num_pictured=2", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    assert ended.err.endswith(f"report: {tmp_path / 'run' / 'report.html'}\n")
    page = Page.at(tmp_path / "run" / "report.html")
    written = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert page.charts["loss"]["curves"][0]["y"] == [record["loss"] for record in written]
    assert [0 <= pair["match"]["index"] < 6 for pair in page.data["pairs"]] == [True, True]
    assert "samples are older" not in page.text


def test_a_page_that_cannot_be_written_costs_nothing(call, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(reporting, "write_report", full)
    ended = call("train", *SHAPES, "trainer.max_steps=1", "num_pictured=0", "hydra.run.dir=run")
    assert ended.code == 0, ended.err
    assert "report.html could not be written: [Errno 28] No space left on device" in ended.err
    assert (tmp_path / "run" / "checkpoints" / "last").is_dir()


def test_a_stopped_run_has_its_page_at_once(tmp_path, monkeypatch, capsys):
    run = write_samples(write_run(tmp_path / "run", ordinary_records(3)), shapes(2, 64))
    monkeypatch.setattr("mfcdm.report.samples.matches", lambda *_: pytest.fail("it looked for the nearest shapes"))
    reporting.try_report(run, training(4, 64), stopped=True)
    assert "the run was stopped" in Page.at(run / "report.html").text
    assert f"report: {run / 'report.html'}" in capsys.readouterr().err


@pytest.fixture
def archived(tmp_path):
    """A run on an archive, with samples in the scale of its normalisation."""
    np.savez(tmp_path / "data.npz", points=1000 * shapes(5, 80, seed=2).numpy())
    config = {key: {"_target_": "x"} for key in ("sde", "network", "subdivision", "branching")}
    config |= {"dataset": {"_target_": "mfcdm.datasets.open_dataset", "path": str(tmp_path / "data.npz")}}
    run = write_run(tmp_path / "run", ordinary_records(3), config | {"normalization": "box"})
    return write_samples(run, rescaled(training(5, 80), "box").x[:2])


def test_a_page_is_made_again_with_the_data_of_the_run(archived, capsys):
    reporting.main([str(archived)])
    found = [pair["match"] for pair in Page.at(archived / "report.html").data["pairs"]]
    assert [match["index"] for match in found] == [0, 1]
    assert all(match["distance"] < 0.1 for match in found)  # a box has the side 1: they are in one scale
    assert capsys.readouterr().err == f"report: {archived / 'report.html'}\n"


def test_data_that_are_gone_leave_the_samples_alone(archived, tmp_path):
    (tmp_path / "data.npz").unlink()
    reporting.main([str(archived)])
    page = Page.at(archived / "report.html")
    assert f"{tmp_path / 'data.npz'} is neither a file nor a folder" in page.text
    assert [pair["match"] for pair in page.data["pairs"]] == [None, None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"normalization": None}, "config.yaml does not say its normalization."),
        ({"normalization": "cube"}, "normalization must be one of"),
        ({"dataset": {"_target_": "os.getcwd"}}, "os.getcwd"),
        ({"dataset": None}, "config.yaml does not say its dataset."),
        ({"dataset": "mine"}, "dataset=mine must be a group of keys"),
        ({"sde": None}, "lacks sde"),
    ],
)
def test_a_configuration_that_names_no_data_leaves_the_samples_alone(archived, change, said):
    config = yaml.safe_load((archived / "config.yaml").read_text()) | change
    (archived / "config.yaml").write_text(
        yaml.safe_dump({key: held for key, held in config.items() if held is not None})
    )
    reporting.main([str(archived)])
    page = Page.at(archived / "report.html")
    assert said in page.text
    assert [pair["match"] for pair in page.data["pairs"]] == [None, None]


@pytest.mark.parametrize(("arguments", "named"), [(["nowhere"], "nowhere is no run"), ([], "RUN"), (["a", "b"], "b")])
def test_mistakes_end_in_one_sentence(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        reporting.main(arguments)
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert named in said
    assert len(said.splitlines()) == 1
