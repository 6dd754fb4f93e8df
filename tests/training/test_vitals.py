import json
import resource
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mfcdm.training.loggers import JsonLines
from mfcdm.training.vitals import Vitals
from tests.training.runs import trainer


@pytest.fixture
def vitals():
    """Every look at the clock finds it a second later."""
    ticks = count()
    return Vitals(clock=lambda: float(next(ticks)))


def test_stages_share_the_time_and_the_rest_is_other(vitals):
    for _ in range(3):
        with vitals.stage("forward"):
            pass
    with vitals.stage("outer"), vitals.stage("backward"):  # three ticks for the outer, of which one is the inner's
        pass
    values = vitals.flush(nn.Linear(2, 2), seconds=10.0)
    assert (values["time/forward"], values["time/backward"], values["time/outer"]) == (0.3, 0.1, 0.3)
    assert values["time/other"] == pytest.approx(0.3)


def test_a_stage_that_fails_counts(vitals):
    with pytest.raises(KeyError), vitals.stage("forward"):
        raise KeyError
    assert vitals.flush(nn.Linear(1, 1), seconds=2.0)["time/forward"] == 0.5


def test_throughput_and_norms_are_those_since_the_last_record(vitals):
    vitals.batch(16, 16 * 256)
    vitals.batch(16, 16 * 2048)
    vitals.gradient(1.0)
    vitals.gradient(3.0)
    network = nn.Linear(3, 4)
    values = vitals.flush(network, seconds=4.0)
    assert (values["clouds_per_second"], values["particles_per_second"]) == (8.0, 9216.0)
    assert (values["gradient_norm"], values["gradient_norm/max"]) == (2.0, 3.0)
    every = torch.cat([weight.detach().flatten() for weight in network.parameters()]).double()
    assert values["weight_norm"] == pytest.approx(float(every.norm()), rel=1e-6)  # float32
    values = vitals.flush(network, seconds=1.0)
    assert values["clouds_per_second"] == values["particles_per_second"] == 0
    assert "gradient_norm" not in values  # no step was applied
    assert {name for name in values if name.startswith("time/")} == {"time/other"}


def test_memory_is_the_most_that_the_process_held(vitals):
    before = vitals.flush(nn.Linear(1, 1), seconds=1.0)["memory/host_mib"]
    torch.ones(64 * 2**20 // 4 + int(before) * 2**18).sum()  # 64 MiB more than it has ever held
    after = vitals.flush(nn.Linear(1, 1), seconds=1.0)["memory/host_mib"]
    assert after >= before + 32
    assert after * 1024 == pytest.approx(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, rel=0.01)


def test_every_second_of_a_run_is_of_a_stage(tmp_path, monkeypatch):
    """The network takes two seconds, a record one, a checkpoint five; nothing else takes any."""
    now = SimpleNamespace(seconds=0.0)

    def takes(seconds, act):
        def slow(*arguments):
            now.seconds += seconds
            return act(*arguments)

        return slow

    log = JsonLines(tmp_path / "metrics.jsonl")
    run = trainer(tmp_path, loggers=[log], log_every=1, checkpoint_every=1, max_steps=4)
    run.clock = run.vitals.clock = lambda: now.seconds
    run.raw.register_forward_hook(takes(2.0, lambda *_: None))
    monkeypatch.setattr(log, "log", takes(1.0, log.log))
    monkeypatch.setattr(run, "save", takes(5.0, run.save))
    run.run()
    first, *others = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(others) == 3
    stages = {name.removeprefix("time/"): share for name, share in others[-1].items() if name.startswith("time/")}
    spent = {"forward": 2 / 8, "record": 1 / 8, "checkpoint": 5 / 8}
    nothing = dict.fromkeys(("data", "draw", "backward", "exchange", "optimizer", "branching", "other"), 0.0)
    assert stages == pytest.approx(nothing | spent)
    assert first["time/forward"] == 1.0  # the record of a step comes before its checkpoint
