"""What goes wrong with W&B is said in one sentence, and training goes on."""

import os
import signal

import pytest
import torch

from mfcdm.training.loggers import Wandb
from tests.training.wandb_logger.runs import CONFIG, finished, parts, scalars, started

pytestmark = pytest.mark.usefixtures("no_wandb_account")


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
