"""train.py with several processes, in multiruns and in sweeps."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from mfcdm import checkpoint
from mfcdm.cli import config_folder
from mfcdm.commands.drawing import draw
from mfcdm.commands.sample import machine_of
from mfcdm.samplers import Langevin
from mfcdm.settings import TrainKeys
from mfcdm.training.options import TrainerOptions
from mfcdm.training.processes import Processes
from tests.commands.runs import SHAPES, VALIDATED, clouds, records

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    *(option for option in SHAPES if not option.startswith("dataset.num_points")),
    "dataset.num_points=40",
    "subdivision.num_particles=32",
    "subdivision.num_levels=2",
    "network.width=16",
    "network.depth=1",
    "network.num_classes=5",
    "branching=learned",
    "trainer.precision=64-true",  # see tests/training/ranks.py
    "num_pictured=0",
)
LONG = (*SMALL, *VALIDATED, "validation.every=60", "trainer.max_steps=120", "trainer.checkpoint_every=10")


def far(found: Path, expected: Path) -> float:
    """Largest difference of two runs' tensors, each relative to its own size."""
    differences = []
    for name in ("network", "branching", "training"):
        ours, theirs = (load_file(run / "checkpoints" / "last" / f"{name}.safetensors") for run in (found, expected))
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            differences.append(np.linalg.norm(ours[key] - tensor) / max(np.linalg.norm(tensor), 1e-12))
    return max(differences)


def test_two_processes_are_stopped_and_one_goes_on(start, call, tmp_path):
    """SIGTERM to the process that the user has started; the end is that of a run that one process makes alone."""
    run = tmp_path / "run"
    process = start("train.py", *LONG, "trainer.devices=2", f"hydra.run.dir={run}", cwd=tmp_path)
    limit = time.monotonic() + 100
    while not (run / "checkpoints" / "last").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert err.count("SIGTERM: the run stops after this step") == err.count("mfcdm: stopped by SIGTERM") == 1
    stopped = records(run)[-1]["step"]
    assert 10 <= stopped < 120
    about = json.loads((run / "environment.json").read_text())
    assert (about["devices"], about["nodes"]) == (["cpu", "cpu"], 1)
    ended = call("train", f"resume={run}", "trainer.devices=1", "trainer.accumulate=2")
    assert ended.code == 0, ended.err
    assert json.loads((run / "environment.json").read_text())["devices"] == ["cpu"]
    assert call("train", *LONG, "hydra.run.dir=whole").code == 0
    # 120 steps of float64, but for outputs that round to another float32, see tests/training/test_scale.py
    assert far(run, tmp_path / "whole") < 1e-4
    found = [records(folder) for folder in (run, tmp_path / "whole")]
    assert [[record["step"] for record in each] for each in found] == [list(range(1, 121))] * 2
    scores = [[r["validation/1nna-cd"] for r in each if "validation/1nna-cd" in r] for each in found]
    assert scores[0] == pytest.approx(scores[1])
    assert len(scores[0]) == 2


def test_a_mistake_that_is_found_late_is_one_sentence_of_all(script, tmp_path):
    """W&B refuses when the processes have met."""
    options = (*SMALL, "trainer.max_steps=2", "trainer.devices=2", "logger=wandb", "logger.mode=online")
    ended = script("train.py", *options, "hydra.run.dir=run", cwd=tmp_path)
    assert ended.code == 2, ended.err
    assert ended.sentence.startswith("mfcdm: logger.mode=online is refused by W&B: ")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("trainer.devices=2", "trainer.accumulate=3"), ["trainer.batch_size=4", "trainer.devices=2", "accumulate=3"]),
        (("trainer.devices=2", "dataset.num_points=8"), ["cloud 0 has 8 points"]),
        (("trainer.devices=two",), ["trainer.devices"]),
        (("-m", "trainer.devices=2"), ["a multirun works in one process", "submitit_slurm"]),
    ],
)
def test_mistakes_are_one_sentence_before_any_process_is_started(call, monkeypatch, tmp_path, options, named):
    from lightning.fabric import Fabric

    monkeypatch.setattr(Fabric, "launch", lambda *_: pytest.fail("it was launched"))
    options = (*(o for o in options if o == "-m"), *SMALL, *(o for o in options if o != "-m"))
    ended = call("train", *options, "hydra.run.dir=run", "hydra.sweep.dir=runs")
    assert ended.code == 2
    assert all(name in ended.sentence for name in named), ended.sentence
    assert not (tmp_path / "run").exists()


DRAWN = ("num_clouds=5", "num_particles=[40,64]", "sampler.num_steps=6", "seed=4")


def test_two_processes_draw_what_one_draws(run, script, call, tmp_path):
    """Five clouds of two sizes: neither process has as many of each as the other; the scores are of all."""
    source, np_file = f"checkpoint={run / 'checkpoints' / 'last'}", tmp_path / "reference.npz"
    np.savez(np_file, points=clouds(5, 64, 3))
    together = (*DRAWN, "devices=2", f"evaluate={np_file}", "log_scores=false", "protocol.num_points=40")
    ended = script("sample.py", source, *together, "output=two", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.err.count("5 clouds of 40, 64 points") == 1
    assert call("sample", source, *DRAWN, "output=one").code == 0
    two, one = (np.load(tmp_path / name / "samples.npz") for name in ("two", "one"))
    assert two["lengths"].tolist() == one["lengths"].tolist() == [40, 64, 40, 64, 40]
    np.testing.assert_allclose(two["points"], one["points"], rtol=0, atol=1e-4)  # drawn in other batches, see README
    assert len(list((tmp_path / "two").glob("*.ply"))) == 5
    assert json.loads((tmp_path / "two" / "report.json").read_text())["sizes"]["clouds"] == 5


def test_more_processes_than_clouds_draw_them_all(run, monkeypatch):
    model = checkpoint.load(run / "checkpoints" / "last")
    sampler = Langevin(num_steps=4)
    alone = draw(model, sampler, 2, [16], seed=0, batch_size=4)

    class Third:
        rank, count, is_first = 2, 3, False
        together = Processes().together

        def objects(self, own):
            assert own == {}
            return [{0: alone[0]}, {1: alone[1]}, own]

    assert draw(model, sampler, 2, [16], 0, 4, processes=Third()) == alone


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("devices=0",), "devices must be >= 1, got devices=0"),
        (("devices=two",), "devices"),
        (("num_nodes=-1",), "num_nodes must be >= 1, got num_nodes=-1"),
        (("devices=2", "likelihood=FILE"), "devices=2 goes with free samples, not with likelihood=FILE"),
        (("devices=2", "num_particles=0"), "num_particles must be one or more whole numbers >= 1"),
        (("devices=2", "checkpoint=nowhere"), "nowhere"),
        (("-m", "devices=2"), "a multirun works in one process, and devices=2 asks for several"),
    ],
)
def test_mistakes_of_sampling_are_one_sentence_before_any_process_is_started(
    run, call, monkeypatch, tmp_path, options, sentence
):
    from lightning.fabric import Fabric

    monkeypatch.setattr(Fabric, "launch", lambda *_: pytest.fail("it was launched"))
    source = f"checkpoint={run / 'checkpoints' / 'last'}"
    ended = call("sample", *(o for o in options if o == "-m"), source, *(o for o in options if o != "-m"), "output=x")
    assert ended.code == 2
    assert sentence in ended.sentence
    assert not (tmp_path / "x").exists()


def test_one_of_several_devices_cannot_be_asked_of_several_processes():
    with pytest.raises(ValueError, match=r"device=cuda:1 names one device, and devices=2 times num_nodes=1 is 2"):
        machine_of({"devices": 2, "num_nodes": None}, "cuda:1")


def test_what_torchrun_started_must_be_what_is_asked_for(call, monkeypatch):
    environment = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 4, "GROUP_RANK": 0, "LOCAL_WORLD_SIZE": 4}
    for name, value in (environment | {"TORCHELASTIC_RUN_ID": "none"}).items():
        monkeypatch.setenv(name, str(value))
    ended = call("train", *SMALL, "trainer.devices=2", "hydra.run.dir=run")
    assert ended.code == 2
    assert "torchrun has started 4 processes, but trainer.devices=2 times trainer.num_nodes=1 is 2" in ended.sentence
    monkeypatch.setenv("RANK", "1")  # the other ones say nothing
    ended = call("train", *SMALL, "trainer.devices=2", "hydra.run.dir=run")
    assert (ended.code, ended.err) == (2, "")


def test_a_multirun_has_a_folder_a_run_and_a_mistake_loses_no_other(call, tmp_path):
    ended = call("train", "-m", *SMALL, "trainer.max_steps=2", "seed=0,-1,2", "hydra.sweep.dir=runs")
    assert ended.code == 2
    assert "got seed=-1" in ended.err
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["0", "2", "multirun.yaml"]
    for seed in (0, 2):
        assert yaml.safe_load((tmp_path / "runs" / str(seed) / "config.yaml").read_text())["seed"] == seed
        assert [record["step"] for record in records(tmp_path / "runs" / str(seed))] == [1, 2]


def test_the_keys_of_the_sweep_are_those_of_the_configuration(monkeypatch):
    """The command line that `wandb agent` would start composes, and says what the sweep says."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((ROOT / "examples" / "sweep.yaml").read_text())
    assert (ROOT / sweep["program"]).is_file()
    assert sweep["metric"] == {"name": "validation/error", "goal": "minimize"}  # which every validation records
    monkeypatch.setenv("WANDB_RUN_ID", "ab12cd34")
    ends = [
        {
            name: each.get("values", [each.get("min"), each.get("max")])[end]
            for name, each in sweep["parameters"].items()
        }
        for end in (0, -1)
    ]
    for values in ends:
        words = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
        command = create_sweep_command(list(sweep["command"]))
        assert command[:3] == ["${env}", "${interpreter}", "${program}"]
        at = command.index("${args_no_hyphens}")
        given = [*command[3:at], *words["args_no_hyphens"], *command[at + 1 :]]
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            config = compose("train", overrides=given, return_hydra_config=True)
        assert config.hydra.run.dir == "outputs/sweep/ab12cd34"
        for name, value in values.items():
            assert OmegaConf.select(config, name) == value
        assert set(TrainKeys.__dataclass_fields__) >= set(config) - {"hydra"}
        TrainerOptions(**config.trainer)
