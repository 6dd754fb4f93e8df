"""The W&B logger, offline: what it wrote is read back from its transaction log."""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch
import yaml

from mfcdm import checkpoint
from mfcdm.build import build
from mfcdm.cli import config_folder
from mfcdm.datasets import Normalization
from mfcdm.networks import ScoreNetwork
from mfcdm.training import loggers, run_note
from mfcdm.training.loggers import JsonLines, Logger, Wandb, fetch_checkpoint
from tests.training.ranks import build as build_run

ROOT = Path(__file__).resolve().parents[2]
MODEL = {"network.safetensors", "state.json", "config.yaml"}
CONFIG = {"seed": 3, "network": {"width": 8}, "name": None}


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    """Neither the settings nor the key of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    import wandb

    wandb.teardown()


@pytest.fixture
def save():
    """Write a small checkpoint that can be loaded."""

    def save(folder, step=20):
        keys = {"width": 8, "depth": 1, "num_heads": 2, "num_moments": 2}
        config = {
            "network": {"_target_": "mfcdm.networks.ScoreNetwork", **keys},
            "sde": {"_target_": "mfcdm.sde.CosineVPSDE"},
            "subdivision": {"_target_": "mfcdm.subdivision.Subdivision", "cardinalities": [4, 8], "times": [1.0, 0.5]},
            "branching": {"_target_": "mfcdm.branching.Renoise"},
        }
        weights = ScoreNetwork(**keys).state_dict()
        training = checkpoint.TrainingState({"moment": torch.zeros(4)}, {"seconds": 1.0})
        normalization = Normalization(torch.zeros(3), torch.tensor(2.0))
        return checkpoint.save(
            folder, weights=weights, config=config, normalization=normalization, step=step, training=training
        )

    return save


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "samples.png"
    plt.imsave(path, torch.rand(4, 6).numpy())
    return path


def records(path):
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, offset, message = path.read_bytes(), 7, b""
    while offset + 7 <= len(data):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + 7])
        message += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # whole, or its last fragment
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            message = b""
            yield record


def parts(folder):
    """The records of each part of a run, the oldest first."""
    import wandb

    wandb.teardown()  # its service may still be writing
    found = [list(records(path)) for path in folder.glob("wandb/offline-run-*/*.wandb")]
    return sorted(found, key=lambda part: run_of(part).start_time.ToNanoseconds())


def run_of(part):
    return next(record.run for record in part if record.HasField("run"))


def rows(part):
    """History rows as {name: value}; the value of a picture or of clouds is a dictionary."""
    found = []
    for record in part:
        if record.HasField("history"):
            row = {}
            for item in record.history.item:
                name, *inner = item.nested_key or [item.key]
                value = json.loads(item.value_json)
                if inner:
                    row.setdefault(name, {})[inner[0]] = value
                else:
                    row[name] = value
            found.append(row)
    return found


def scalars(part, name="loss"):
    return [(row["_step"], row["trainer/step"], row[name]) for row in rows(part) if name in row]


def finished(part):
    return [record.exit.exit_code for record in part if record.HasField("exit")]


SCRIPT = """
import sys, time
from mfcdm.training import loggers, run_note
from mfcdm.training.loggers import Wandb
log = Wandb(sys.argv[1], {{}}, on_failure=lambda sentence: print("said:", sentence, flush=True))
log.log(10, {{"loss": 1.0}})
{middle}
log.log(20, {{"loss": 2.0}})
log.close()
print("went on")
"""


def started(folder, middle):
    """A process of its own, in a group of its own, as a shell starts it."""
    command = [sys.executable, "-c", SCRIPT.format(middle=middle), str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes)


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


def test_a_failure_is_said_once_and_training_goes_on(tmp_path):
    said = []
    log = Wandb(tmp_path, CONFIG, on_failure=said.append)
    log.clouds(10, "samples", [torch.rand(4, 3)], tmp_path / "absent.png")
    log.log(20, {"loss": 1.0})
    log.close()
    (sentence,) = said
    assert "absent.png" in sentence
    assert "\n" not in sentence


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "run").write_text("a file, not a folder")
    with pytest.warns(RuntimeWarning, match="W&B failed and records no more of this run: .*run"):
        log = Wandb(tmp_path / "run", CONFIG)
    log.log(1, {"loss": 1.0})
    log.close()


def test_a_damaged_note_is_a_warning(tmp_path, save):
    save(tmp_path / "checkpoints/step-00000020")
    (tmp_path / "wandb.json").write_text('{"id": "ab')
    with pytest.warns(RuntimeWarning, match=r"wandb\.json is damaged"):
        Wandb(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"mode": "on"}, "mode must be one of offline, online, disabled, got 'on'"),
        ({"project": "a/b"}, "project must have 1 to 128 characters .* got 'a/b'"),
        ({"project": ""}, "project must have 1 to 128 characters .* got ''"),
        ({"tags": ["a", "b" * 65]}, "each of tags must have 1 to 64 characters, got 'bbb"),
        ({"max_points": 0}, "max_points must be >= 1, got 0"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        Wandb(tmp_path, CONFIG, **wrong)


def test_online_without_a_key_is_refused_at_the_start(tmp_path):
    with pytest.raises(ValueError, match=r"^logger\.mode=online is refused by W&B: .*no API key; call `wandb login`"):
        Wandb(tmp_path, CONFIG, mode="online")


def test_online_with_a_malformed_key_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(ValueError, match=r"^logger\.mode=online is refused by W&B: .*has 5"):
        Wandb(tmp_path, CONFIG, mode="online")


def test_online_without_a_server_goes_on_offline(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    said = []
    log = Wandb(tmp_path, CONFIG, mode="online", on_failure=said.append)
    log.log(10, {"loss": 1.0})
    log.close()
    (sentence,) = said
    assert sentence.startswith("W&B cannot be reached: ")
    assert sentence.endswith("; the run is kept offline for `wandb sync`")
    assert scalars(parts(tmp_path)[0]) == [(10, 10, 1.0)]
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_reaches_the_training_process_and_the_run_is_whole(tmp_path):
    middle = """
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    log.log(15, {"loss": 1.5})
    log.close(failed=True)
    print("stopped")
    raise
"""
    with started(tmp_path, middle) as process:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group, W&B's service too
        out, err = process.communicate(timeout=60)
    assert out == "stopped\n"
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT
    (part,) = parts(tmp_path)
    assert scalars(part) == [(10, 10, 1.0), (15, 15, 1.5)]
    assert finished(part) == [1]


def test_a_service_that_dies_is_one_sentence(tmp_path):
    middle = """
import psutil
for child in psutil.Process().children(recursive=True):
    child.kill()
for step in range(11, 20):
    time.sleep(0.1)
    log.log(step, {"loss": 1.0})
"""
    with started(tmp_path, middle) as process:
        out, err = process.communicate(timeout=60)
    first, last = out.splitlines()
    assert first.startswith("said: W&B failed and records no more of this run: ")
    assert (last, err, process.returncode) == ("went on", "", 0)


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


@pytest.fixture
def server(monkeypatch, tmp_path):
    """W&B with one artifact, me/mfcdm/plane-ab12:best; `add` hooks into its list of files and its download."""
    import wandb

    state = SimpleNamespace(folder=tmp_path / "stored", listed=None, extra=lambda root: None)

    def download(root, skip_cache):
        assert skip_cache
        for path in state.folder.iterdir():
            (Path(root) / path.name).write_bytes(path.read_bytes())
        state.extra(Path(root))

    def artifact(path, type):
        if (path, type) != ("me/mfcdm/plane-ab12:best", "model"):
            raise wandb.errors.CommError(f"artifact '{path}' not found\nin 'me/mfcdm'")
        names = [path.name for path in state.folder.iterdir()] if state.listed is None else state.listed
        entries = {name: SimpleNamespace(ref=None) for name in names} if isinstance(names, list) else names
        manifest = SimpleNamespace(entries=entries)
        return SimpleNamespace(version="v3", manifest=manifest, download=download)

    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(wandb, "login", lambda **options: options == {"verify": False, "prompt": False})
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(artifact=artifact))
    return state


REFERENCE = "wandb:me/mfcdm/plane-ab12:best"


def test_a_checkpoint_is_fetched_and_loads(tmp_path, save, server):
    save(server.folder, step=70)
    (server.folder / "training.safetensors").unlink()
    for _ in range(2):  # the second download replaces the first
        fetched = fetch_checkpoint(REFERENCE, tmp_path / "fetched")
        assert fetched == tmp_path / "fetched/plane-ab12-v3"
        assert {path.name for path in fetched.iterdir()} == MODEL
        assert checkpoint.load(fetched).step == 70
    assert [path.name for path in (tmp_path / "fetched").iterdir()] == ["plane-ab12-v3"]


@pytest.mark.parametrize("wrong", ["foo", "me/mfcdm/foo", "me/mfcdm/../x:best", "/mfcdm/foo:best", "me/mfcdm/foo:"])
def test_references_that_are_none(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"^'wandb:.*' must be wandb:entity/project/name:alias, for instance"):
        fetch_checkpoint(f"wandb:{wrong}", tmp_path)


def test_an_unknown_alias_is_one_sentence(tmp_path, server):
    with pytest.raises(FileNotFoundError) as raised:
        fetch_checkpoint("wandb:me/mfcdm/plane-ab12:worst", tmp_path / "fetched")
    assert str(raised.value) == (
        "wandb:me/mfcdm/plane-ab12:worst cannot be fetched from W&B: "
        "artifact 'me/mfcdm/plane-ab12:worst' not found in 'me/mfcdm'"
    )
    assert not (tmp_path / "fetched").exists()


def test_fetching_without_a_key_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cannot be fetched from W&B: it found no API key; call `wandb login`"):
        fetch_checkpoint(REFERENCE, tmp_path)


@pytest.mark.parametrize("name", ["setup.py", "weights.pt", "../state.json", "/etc/passwd", "sub/state.json"])
def test_foreign_files_in_the_list_are_refused_before_a_download(tmp_path, server, name):
    server.listed = [*MODEL, name]
    server.extra = pytest.fail
    with pytest.raises(ValueError, match=r"is refused: '.*' is no file of a checkpoint") as raised:
        fetch_checkpoint(REFERENCE, tmp_path / "fetched")
    assert repr(name) in str(raised.value)
    assert not (tmp_path / "fetched").exists()


def test_an_artifact_that_lacks_a_file_is_refused(tmp_path, server):
    server.listed = sorted(MODEL - {"config.yaml"})
    with pytest.raises(ValueError, match=r"is no checkpoint: it has no config\.yaml"):
        fetch_checkpoint(REFERENCE, tmp_path)


def test_links_to_elsewhere_are_refused(tmp_path, server):
    server.listed = {name: SimpleNamespace(ref=None) for name in MODEL}
    server.listed["state.json"].ref = "file:///etc/passwd"
    with pytest.raises(ValueError, match=r"is refused: 'state\.json' is a link to elsewhere"):
        fetch_checkpoint(REFERENCE, tmp_path)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (lambda root: (root / "setup.py").write_text(""), "'setup.py' is no file of a checkpoint"),
        (lambda root: (root / "sub").mkdir(), "'sub' is no file of a checkpoint"),
        (
            lambda root: (root / "training.safetensors").symlink_to("state.json"),
            "'training.safetensors' is not a plain",
        ),
    ],
)
def test_what_was_downloaded_is_checked_again(tmp_path, save, server, extra, sentence):
    save(server.folder)
    (server.folder / "training.safetensors").unlink()
    server.extra = extra
    with pytest.raises(ValueError, match=f"is refused: {sentence}"):
        fetch_checkpoint(REFERENCE, tmp_path / "fetched")
    assert not list((tmp_path / "fetched").iterdir())


def test_a_download_that_breaks_leaves_nothing(tmp_path, save, server):
    def broken(root):
        raise OSError("connection reset")

    save(server.folder)
    server.extra = broken
    with pytest.raises(FileNotFoundError, match="cannot be fetched from W&B: connection reset"):
        fetch_checkpoint(REFERENCE, tmp_path / "fetched")
    assert not list((tmp_path / "fetched").iterdir())
