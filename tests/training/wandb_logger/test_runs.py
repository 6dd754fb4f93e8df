"""A run that is recorded offline: its numbers, pictures and models, and how it goes on when resumed."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from mfcdm import checkpoint
from mfcdm.build import build
from mfcdm.cli import config_folder
from mfcdm.training import loggers, run_note
from mfcdm.training.loggers import JsonLines, Logger, Wandb
from tests.training.ranks import build as build_run
from tests.training.wandb_logger.conftest import MODEL
from tests.training.wandb_logger.runs import CONFIG, finished, parts, rows, run_of, scalars, started

pytestmark = pytest.mark.usefixtures("no_wandb_account")

KILLED = """
import psutil
for process in [*psutil.Process().children(recursive=True), psutil.Process()]:
    process.kill()
"""


def test_an_offline_run_holds_config_and_records(tmp_path, capfd):
    log = Wandb(tmp_path, CONFIG, group="study", tags=["a", "b"], name="plane")
    log.log(10, {"loss": 0.5, "loss/level_0": 0.25, "loss/log_snr/-3..0": 2.0})
    log.log(20, {"loss": 0.4, "validation/1nna-cd": 0.75})
    log.close()
    assert capfd.readouterr() == ("", "")
    (part,) = parts(tmp_path)
    run = run_of(part)
    assert (run.project, run.run_group, list(run.tags), run.display_name) == ("mfcdm", "study", ["a", "b"], "plane")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: config[key] for key in CONFIG} == CONFIG
    names = [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows(part)]
    assert names == [
        {"trainer/step": 10, "loss": 0.5, "loss/level_0": 0.25, "loss/log_snr/-3..0": 2.0},
        {"trainer/step": 20, "loss": 0.4, "validation/1nna-cd": 0.75},
    ]
    assert [row["_step"] for row in rows(part)] == [10, 20]
    metrics = [record.metric for record in part if record.HasField("metric")]
    assert any(metric.glob_name == "*" and metric.step_metric == "trainer/step" for metric in metrics)
    assert finished(part) == [0]


def promised():
    """The names in the module's docstring, each with what stands for numbers and words as a pattern."""
    table = [line for line in loggers.__doc__.splitlines() if line.startswith("  ")]
    names = [name for line in table for name in re.split(r" {3,}", line.strip())[0].split(", ")]
    stands = {"<k>": r"\d+", "<low>..<high>": r"[-\d.inf]+", "<stage>": r"\w+", "<name>": r"[\w/-]+"}
    for name in names:
        pattern = name
        for key, value in stands.items():
            pattern = pattern.replace(key, value)
        yield name, re.sub(r"<([^>]*)>", r"(\1)", pattern)


def test_an_offline_run_holds_every_promised_number(tmp_path):
    """A real run with a learned branching, the Jacobian and a step that is refused, read back from W&B's file."""
    log = Wandb(tmp_path, CONFIG)
    run = build_run(tmp_path, [log], poison=[2], max_steps=16, log_every=2, batch_size=4)
    with pytest.warns(UserWarning, match="skipped for its non-finite"):
        run.run()
    log.close()
    found = {name for row in rows(parts(tmp_path)[0]) for name in row}
    for name, pattern in promised():
        if name != "branching/refused":  # the batches that poison the branching are refused before it sees them
            assert any(re.fullmatch(pattern, key) for key in found), f"{name} is promised, and not in W&B"
    numbers = {key for key in found if not key.startswith("_") and key not in ("trainer/step",)}
    pictures = {"samples/clouds", "samples/picture"}
    unknown = [key for key in numbers - pictures if not any(re.fullmatch(pattern, key) for _, pattern in promised())]
    assert not unknown, "not in the docstring of mfcdm.training.loggers"


def test_a_failed_run_says_so(tmp_path):
    log = Wandb(tmp_path, CONFIG)
    log.close(failed=True)
    log.close()  # no harm
    log.log(1, {"loss": 1.0})
    (part,) = parts(tmp_path)
    assert finished(part) == [1]
    assert not rows(part)


def test_a_resumed_run_keeps_its_id_and_repeats_no_step(tmp_path, save, picture):
    log = Wandb(tmp_path, CONFIG)
    for step in (10, 20, 30, 40):
        log.log(step, {"loss": step / 10})
    log.close(failed=True)
    save(tmp_path / "checkpoints/step-00000020")
    log = Wandb(tmp_path, CONFIG)
    for step in (30, 40):
        log.log(step, {"loss": -1.0})
    log.clouds(30, "samples", [torch.rand(5, 3)], picture)  # the first part has them
    log.clouds(40, "samples", [torch.rand(5, 3)], picture)  # the first part may have been cut before them
    for step in (50, 60):
        log.log(step, {"loss": step / 10})
    log.close()
    first, second = parts(tmp_path)
    assert run_of(first).run_id == run_of(second).run_id == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert all(run_of(part).resume for part in (first, second))  # `wandb sync` goes on in the run of the same id
    assert scalars(first) == [(step, step, step / 10) for step in (10, 20, 30, 40)]
    assert scalars(second) == [(step, step, step / 10) for step in (50, 60)]
    assert [(row["_step"], row["trainer/step"]) for row in rows(second) if "samples/clouds" in row] == [(41, 40)]
    assert json.loads((tmp_path / "wandb.json").read_text())["step"] == 60


def test_a_killed_run_loses_nothing(tmp_path, save, monkeypatch):
    """Killed outright, W&B's service too: it writes to the disk every 15 s only."""
    with started(tmp_path, KILLED) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "wandb.json").read_text())["step"] == -1  # nothing is recorded for sure
    with JsonLines(tmp_path / "metrics.jsonl") as lines:
        for step in (10, 20, 30):
            lines.log(step, {"loss": step / 10})
    save(tmp_path / "checkpoints/step-00000020")
    monkeypatch.setattr(run_note, "_BEGUN", time.time())  # this process is the one that goes on
    log = Wandb(tmp_path, CONFIG)
    log.log(30, {"loss": 3.0})
    log.close()
    (part,) = parts(tmp_path)  # the empty log of the killed part, at which `wandb sync` would stop, is gone
    assert scalars(part) == [(step, step, step / 10) for step in (10, 20, 30)]


def test_a_step_is_noted_when_it_is_surely_on_the_disk(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr(run_note.time, "monotonic", lambda: now)
    note, noted = run_note.RunNote(tmp_path), []
    for step in range(10, 80, 10):  # 12 seconds apart: a step is noted 30 seconds after it was recorded or later
        now += 12.0
        note.add(step)
        noted.append(json.loads((tmp_path / "wandb.json").read_text())["step"])
    assert noted == [-1, -1, -1, -1, -1, 30, 30]
    note.settle()
    assert json.loads((tmp_path / "wandb.json").read_text())["step"] == 70


def test_a_run_of_a_sweep_goes_under_the_id_that_the_sweep_gives(tmp_path, save, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "sw33p")
    monkeypatch.setenv("WANDB_RUN_ID", "ab12cd34")  # as `wandb agent` sets them
    log = Wandb(tmp_path, CONFIG)
    log.log(10, {"loss": 1.0})
    log.close()
    (part,) = parts(tmp_path)
    assert (run_of(part).run_id, run_of(part).sweep_id) == ("ab12cd34", "sw33p")
    save(tmp_path / "checkpoints/step-00000010", step=10)
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"):
        monkeypatch.delenv(name)
    Wandb(tmp_path, CONFIG).close()  # resumed by hand
    assert {run_of(part).run_id for part in parts(tmp_path)} == {"ab12cd34"}


def test_sync_finds_all_parts_of_a_run(tmp_path, save):
    for _ in range(2):
        Wandb(tmp_path, CONFIG).close()
        save(tmp_path / "checkpoints/step-00000020")
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", str(tmp_path / "wandb")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Would sync 2 run(s)" in done.stdout + done.stderr


def test_a_new_run_in_a_folder_without_checkpoints_is_another_run(tmp_path):
    for _ in range(2):
        log = Wandb(tmp_path, CONFIG)
        log.log(10, {"loss": 1.0})
        log.close()
    first, second = parts(tmp_path)
    assert run_of(first).run_id != run_of(second).run_id
    assert scalars(second) == [(10, 10, 1.0)]


def test_clouds_and_pictures(tmp_path, picture):
    log = Wandb(tmp_path, CONFIG, max_points=10)
    padded = torch.cat([torch.rand(4, 3), torch.full((2, 3), torch.nan)])
    flat = torch.rand(25, 2)
    log.log(20, {"loss": 1.0})
    log.clouds(20, "samples", [padded, flat, *torch.rand(9, 10, 3)], picture)
    log.close()
    (row,) = rows(parts(tmp_path)[0])
    assert (row["_step"], row["loss"]) == (20, 1.0)
    files = next(tmp_path.glob("wandb/offline-run-*/files"))
    assert (files / row["samples/picture"]["path"]).read_bytes() == picture.read_bytes()
    media = files / "media/object3D"
    stored = [json.loads((media / name).read_text()) for name in row["samples/clouds"]["filenames"]]
    assert [len(cloud) for cloud in stored] == [4, 9, *[10] * 6]  # 25 points, of which every third is kept
    assert torch.allclose(torch.tensor(stored[0]), padded[:4])
    assert torch.allclose(torch.tensor(stored[1])[:, :2], flat[::3])
    assert all(point[2] == 0 for point in stored[1])


def test_checkpoints_are_artifacts_that_load(tmp_path, save):
    log = Wandb(tmp_path / "run", CONFIG, name="a plane/1")
    saved = save(tmp_path / "run/checkpoints/step-00000020")
    weights = checkpoint.load(saved).network.state_dict()
    log.checkpoint(saved, ("latest", "best"))
    log.close()
    shutil.rmtree(saved)  # pruned, long before somebody publishes the run
    (part,) = parts(tmp_path / "run")
    (artifact,) = (record.artifact for record in part if record.HasField("artifact"))
    assert (artifact.type, set(artifact.aliases)) == ("model", {"latest", "best"})
    assert artifact.name == f"a-plane-1-{run_of(part).run_id}"
    assert json.loads(artifact.metadata) == {"step": 20}
    assert {entry.path for entry in artifact.manifest.contents} == MODEL
    kept = {Path(entry.local_path).parent for entry in artifact.manifest.contents}
    assert kept == {tmp_path / "run/wandb/checkpoints/step-00000020"}  # nothing lies outside the run's folder
    assert not (tmp_path / "WANDB_DATA_DIR").exists()
    loaded = checkpoint.load(kept.pop())
    assert all(torch.equal(weights[name], tensor) for name, tensor in loaded.network.state_dict().items())


def test_checkpoints_can_be_left_out(tmp_path, save):
    log = Wandb(tmp_path, CONFIG, checkpoints=False)
    log.checkpoint(save(tmp_path / "checkpoints/step-00000020"), ("latest",))
    log.close()
    assert not any(record.HasField("artifact") for record in parts(tmp_path)[0])


def test_disabled_writes_nothing(tmp_path, picture):
    log = Wandb(tmp_path / "run", CONFIG, mode="disabled")
    log.log(1, {"loss": 1.0})
    log.clouds(1, "samples", [torch.rand(4, 3)], picture)
    log.checkpoint(tmp_path, ("latest",))
    log.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["wandb", "none"])
def test_configurations(name, tmp_path):
    config = yaml.safe_load((config_folder() / "logger" / f"{name}.yaml").read_text())
    if name == "none":
        assert config == {"_target_": None}
        return
    log = build(config, Logger, folder=tmp_path, config=CONFIG)
    assert isinstance(log, Wandb)
    log.log(1, {"loss": 1.0})
    log.close()
    assert scalars(parts(tmp_path)[0]) == [(1, 1, 1.0)]
    with pytest.raises(ValueError, match="unheard_of is unknown"):
        build({**config, "unheard_of": 1}, Logger, folder=tmp_path, config=CONFIG)
    with pytest.raises(ValueError, match="mode must be one of offline, online, disabled, got 'on'"):
        build({**config, "mode": "on"}, Logger, folder=tmp_path, config=CONFIG)


def test_the_lines_of_numbers_take_all_that_a_logger_takes(tmp_path):
    with JsonLines(tmp_path / "metrics.jsonl") as log:
        assert isinstance(log, Logger)
        log.log(1, {"loss": 1.0})
        log.clouds(1, "samples", [torch.rand(4, 3)], tmp_path / "absent.png")
        log.checkpoint(tmp_path, ("latest",))
        log.close(failed=True)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'
