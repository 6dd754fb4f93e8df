"""Scores at the end of sample.py and of evaluate.py run=RUN, and where they are recorded."""

import json
import shutil

import numpy as np
import pytest
import yaml

from mfcdm.training.loggers import Wandb
from mfcdm.training.run_note import RunNote
from tests.commands.runs import PNG, clouds, points, records
from tests.training.wandb_logger.runs import finished, parts, rows, run_of

pytestmark = pytest.mark.usefixtures("no_wandb_account")
QUICK = ("sampler.num_steps=6", "device=cpu", "output=drawn", "protocol.num_permutations=20")
KEYS = ["mmd-cd", "cov-cd", "1nna-cd", "mmd-emd", "cov-emd", "1nna-emd", "jsd"]


@pytest.fixture
def data(tmp_path):
    """An archive with splits, of which `val` has eight clouds."""
    np.savez(tmp_path / "data.npz", train=clouds(5, 70, 3, seed=2), val=clouds(8, 70, 3, seed=1))
    return "data.npz"


@pytest.fixture
def recorded(run, tmp_path):
    """A copy of the finished run of four steps, as if W&B had recorded it."""
    folder = shutil.copytree(run, tmp_path / "recorded", symlinks=True)
    for path in folder.glob("checkpoints/step-*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        config["logger"] = {"_target_": "mfcdm.training.loggers.Wandb", "project": "clouds", "mode": "offline"}
        path.write_text(yaml.safe_dump(config))
    log = Wandb(folder, config, project="clouds")
    for record in records(folder):
        log.log(record.pop("step"), record)
    log.close()
    return folder


def sample(call, folder, *options):
    return call("sample", f"checkpoint={folder}/checkpoints/last", "num_clouds=6", *QUICK, *options)


def written(folder):
    return json.loads((folder / "report.json").read_text())


def evaluations(part):
    """Rows of scores: W&B's step, the checkpoint's, and the scores."""
    names = [[name for name in row if name.startswith("evaluation/")] for row in rows(part)]
    return [
        (row["_step"], row["trainer/step"], {name.removeprefix("evaluation/"): row[name] for name in found})
        for row, found in zip(rows(part), names, strict=True)
        if found
    ]


def test_samples_are_scored_exactly_as_evaluate_does(run, call, data, tmp_path):
    ended = sample(call, run, f"evaluate={data}")
    assert ended.code == 0, ended.err
    assert all(f"{key} " in ended.out for key in KEYS)
    assert ended.err.splitlines()[-1].endswith("report.json")  # the last word: nothing about W&B, which knows no run
    report = written(tmp_path / "drawn")
    files = (f"generated={tmp_path / 'drawn' / 'samples.npz'}", f"reference={data}")
    assert call("evaluate", *files, "protocol.num_permutations=20", "device=cpu").code == 0
    expected = written(tmp_path)
    for part in ("scores", "protocol", "sizes", "notes", "files", "details"):
        assert report[part] == expected[part]
    assert list(report["scores"]) == KEYS
    assert report["files"]["reference"] | {"sha256": ""} == {"path": data, "split": "val", "sha256": ""}


def test_protocol_and_split_are_those_asked_for(run, call, data, tmp_path):
    ended = sample(call, run, f"evaluate={data}", "protocol=pvd", "protocol.unequal=subset", "reference_split=train")
    assert ended.code == 0, ended.err
    report = written(tmp_path / "drawn")
    assert (report["protocol"]["name"], report["files"]["reference"]["split"]) == ("pvd", "train")
    assert report["sizes"]["clouds"] == 5


def test_clouds_of_several_cardinalities_are_scored_at_the_fewest_or_as_they_are(run, call, data, tmp_path):
    ended = sample(call, run, f"evaluate={data}", "num_particles=[16,40]", "protocol.metrics=[cd]")
    assert ended.code == 0, ended.err
    assert "note: 16 points a cloud, not 2048: the smallest cloud has no more" in ended.out
    as_they_are = ("protocol.draw_points=all", "protocol.num_points=null", "protocol.metrics=[cd,emd]")
    ended = sample(call, run, f"evaluate={data}", "num_particles=[16,40]", *as_they_are)
    assert ended.code == 0, ended.err
    sizes = written(tmp_path / "drawn")["sizes"]
    assert (sizes["fewest_points"], sizes["most_points"]) == (16, 70)


MISTAKES = [
    (("evaluate=absent.npz",), ["absent.npz"]),
    (("evaluate=data.npz", "reference_split=tset"), ["tset", "val"]),
    (("evaluate=data.npz", "num_clouds=3"), ["evaluate=data.npz", "at least 4 clouds", "got 3"]),
    (("evaluate=data.npz", "protocol=pvd"), ["evaluate=data.npz", "6 generated and 8 reference", "pvd"]),
    (("evaluate=flat.npz",), ["evaluate=flat.npz", "dimension 3", "dimension 2"]),
    (("evaluate=broken.npz",), ["broken.npz", "cloud 2", "NaN"]),
    (("evaluate=data.npz", "protocol=unheard_of"), ["unheard_of"]),
    (("evaluate=data.npz", "protocol.num_points=1"), ["protocol.num_points", "1"]),
    (
        ("evaluate=data.npz", "num_particles=[9001,9002]", "protocol.draw_points=all", "protocol.num_points=null"),
        ["evaluate=data.npz", "9,001", "9,002", "leave emd out of protocol.metrics"],
    ),
    (("evaluate=3",), ["evaluate", "3"]),
    (("log_scores=maybe",), ["log_scores", "'maybe'"]),
    (("+protocol.seeed=1",), ["protocol.seeed"]),  # without evaluate, too
]


@pytest.mark.parametrize(("arguments", "named"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_what_cannot_be_scored_is_refused_before_sampling(run, call, data, tmp_path, arguments, named):
    np.savez(tmp_path / "flat.npz", clouds(8, 70, 2))
    with_nan = clouds(8, 70, 3)
    with_nan[2, 5, 1] = np.nan
    np.savez(tmp_path / "broken.npz", with_nan)
    ended = sample(call, run, *arguments)
    assert ended.code == 2
    assert all(name in ended.sentence for name in named), ended.sentence
    assert ended.err.strip() == ended.sentence  # before any progress is shown
    assert not (tmp_path / "drawn").exists()


def test_scores_go_into_the_run_of_the_training(recorded, call, data, tmp_path):
    ended = sample(call, recorded, f"evaluate={data}", "protocol.metrics=[cd]")
    assert ended.code == 0, ended.err
    assert ended.err.splitlines()[-1] == f"scores: also in the W&B run of {recorded}, at step 4"
    first = recorded / "checkpoints" / "step-00000002"
    options = ("generated=drawn/samples.npz", f"reference={data}", "protocol.metrics=[jsd]", "device=cpu")
    ended = call("evaluate", *options, f"run={first}")
    assert ended.code == 0, ended.err
    assert ended.err.splitlines()[-1] == f"scores: also in the W&B run of {recorded}, at step 2"
    log = Wandb(recorded, {}, project="clouds")  # the training goes on
    log.log(4, {"loss": 0.0})
    log.log(8, {"loss": 1.0})
    log.close()

    trained, sampled, evaluated, resumed = parts(recorded)
    assert len({run_of(part).run_id for part in (trained, sampled, evaluated, resumed)}) == 1
    assert {run_of(part).project for part in (sampled, evaluated)} == {"clouds"}
    assert [finished(part) for part in (sampled, evaluated)] == [[0], [0]]
    ((row, step, scores),) = evaluations(sampled)
    assert (row, step) == (5, 4)  # behind all others, at its checkpoint
    report = written(tmp_path / "drawn")["scores"]
    assert {name: scores[f"mfcdm/{name}"] for name in report} == {
        name: found["value"] for name, found in report.items()
    }
    assert scores["mfcdm/1nna-cd/low"] == report["1nna-cd"]["low"]
    assert (scores["mfcdm/num_clouds"], scores["mfcdm/num_points"]) == (6, 64)
    ((row, step, scores),) = evaluations(evaluated)
    assert (row, step, "mfcdm/jsd" in scores) == (6, 2, True)
    assert [(row["_step"], row["loss"]) for row in rows(resumed)] == [(8, 1.0)]  # no step twice, none lost


def test_scores_stay_out_of_the_run_where_they_should(recorded, call, data):
    ended = sample(call, recorded, f"evaluate={data}", "log_scores=false", "protocol.metrics=[cd]")
    assert ended.code == 0, ended.err
    assert len(parts(recorded)) == 1


@pytest.mark.parametrize("reason", ["no space left", "another process"])
def test_where_wandb_fails_samples_and_report_stay(recorded, call, data, tmp_path, monkeypatch, reason):
    import wandb

    if reason == "another process":
        held = RunNote(recorded)  # as a training that is still going on has it

    def fail(**_):
        raise OSError(reason)

    monkeypatch.setattr(wandb, "init", fail)
    ended = sample(call, recorded, f"evaluate={data}", "protocol.metrics=[cd]")
    assert ended.code == 0
    last = ended.err.splitlines()[-1]
    assert last.startswith("W&B failed and records no more of this run: ")
    assert reason in last
    assert points(tmp_path / "drawn").shape == (6, 64, 3)
    assert list(written(tmp_path / "drawn")["scores"]) == ["mmd-cd", "cov-cd", "1nna-cd"]
    assert (tmp_path / "drawn" / "samples.png").read_bytes().startswith(PNG)
    if reason == "another process":
        held.settle()


def test_online_without_a_key_is_one_sentence_after_the_scores(recorded, call, data, tmp_path):
    for path in recorded.glob("checkpoints/step-*/config.yaml"):
        path.write_text(path.read_text().replace("mode: offline", "mode: online"))
    ended = sample(call, recorded, f"evaluate={data}", "protocol.metrics=[cd]")
    assert ended.code == 0, ended.err
    assert "no API key" in ended.err.splitlines()[-1]
    assert (tmp_path / "drawn" / "report.json").is_file()


def test_a_run_that_wandb_does_not_know_is_refused_before_any_work(run, call, data, tmp_path):
    options = (f"generated={data}", f"reference={data}", "output=null", "device=cpu")
    for named, reason in ((run, "was recorded by no W&B run"), ("nowhere", "neither a run's folder nor one of its")):
        ended = call("evaluate", *options, f"run={named}")
        assert ended.code == 2
        assert ended.sentence.startswith(f"mfcdm: run={named}: ")
        assert reason in ended.sentence
        assert ended.err.strip() == ended.sentence


def test_training_that_scaled_each_cloud_is_pointed_out(run, call, data, tmp_path):
    copy = shutil.copytree(run, tmp_path / "scaled", symlinks=True)
    for path in copy.glob("checkpoints/step-*/config.yaml"):
        path.write_text(path.read_text().replace("normalization: global", "normalization: box"))
    sentence = "protocol.normalization=box brings both to one scale"
    assert sentence in sample(call, copy, f"evaluate={data}", "protocol.metrics=[jsd]").err
    assert sentence not in sample(call, run, f"evaluate={data}", "protocol.metrics=[jsd]").err
