"""examples/slurm.sh, with programs in the place of SLURM's that write down what they are asked for."""

import os
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from mfcdm.cli import config_folder
from mfcdm.training.options import TrainerOptions

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "slurm.sh"
JOB = {"SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "4", "SLURM_JOB_ID": "77"}


@pytest.fixture
def submit(tmp_path):
    def submitted(*arguments, ends_with=0):
        for name, code in (("srun", ends_with), ("scontrol", 0)):
            program = tmp_path / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f'#!/bin/bash\nprintf "%s\\n" {name} "$@" >> {tmp_path}/asked\nexit {code}\n')
            program.chmod(0o755)
        asked = tmp_path / "asked"
        asked.write_text("")
        environment = os.environ | JOB | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        ended = subprocess.run(["bash", SCRIPT, *arguments], cwd=tmp_path, env=environment, capture_output=True)
        return ended.returncode, asked.read_text().splitlines()

    return submitted


def test_a_job_trains_on_all_of_its_machines(submit):
    keys = ("experiment=shapes_gpu", "trainer.batch_size=512", "name=two words")
    code, asked = submit("runs/large", *keys)
    assert code == 0
    assert asked[:4] == ["srun", "--kill-on-bad-exit=1", "python", "train.py"]
    assert asked[4:] == ["hydra.run.dir=runs/large", *keys, "trainer.devices=8", "trainer.num_nodes=4"]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=asked[4:], return_hydra_config=True)
    assert config.hydra.run.dir == "runs/large"
    assert TrainerOptions(**config.trainer).num_processes == 32


def test_a_job_goes_on_with_a_run_that_has_begun(submit, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    _, asked = submit("run", "experiment=shapes_gpu")
    assert asked[4:] == ["resume=run", "trainer.devices=8", "trainer.num_nodes=4"]


@pytest.mark.parametrize(("ends_with", "again"), [(143, ["scontrol", "requeue", "77"]), (2, []), (0, [])])
def test_a_job_whose_time_is_over_takes_another_turn(submit, ends_with, again):
    code, asked = submit("run", ends_with=ends_with)
    assert code == ends_with
    assert asked[asked.index("trainer.num_nodes=4") + 1 :] == again


def test_a_job_without_a_folder_is_refused(submit):
    code, asked = submit()
    assert code != 0
    assert asked == []
