import json

import pytest
import torch

from mfcdm import checkpoint
from mfcdm.datasets import Clouds, Normalization
from mfcdm.networks import ScoreNetwork
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision
from mfcdm.training import engine
from mfcdm.training.batches import Batches
from mfcdm.training.engine import Trainer, TrainerOptions
from mfcdm.training.loggers import JsonLines
from tests.laws import generator, three_shapes

NETWORK = {"width": 16, "depth": 1, "num_moments": 4, "num_scales": 2, "channels": 4}
CONFIG = {
    "network": {"_target_": "mfcdm.networks.ScoreNetwork", **NETWORK},
    "sde": {"_target_": "mfcdm.sde.CosineVPSDE"},
    "subdivision": {"_target_": "mfcdm.subdivision.Subdivision", "cardinalities": [8, 16], "times": [1.0, 0.4]},
    "branching": {"_target_": "mfcdm.branching.Renoise", "push": 1.4},
}


def trainer(folder, poison=(), **options) -> Trainer:
    """A small run on an exact law; the clouds of `poison` hold infinities."""
    torch.manual_seed(0)
    sde = CosineVPSDE()
    x = three_shapes().sample(12, 16, generator(0), dtype=torch.float32)
    x[list(poison)] = torch.inf
    options = TrainerOptions(**{"max_steps": 6, "batch_size": 4, "warmup_steps": 2, "accelerator": "cpu", **options})
    objective = MeanFieldScoreMatching(sde, Subdivision([8, 16], [1.0, 0.4]))
    normalization = Normalization(torch.zeros(3), torch.tensor(1.0))
    return Trainer(ScoreNetwork(**NETWORK), objective, Batches(Clouds(x), 4, 0), normalization, options, CONFIG, folder)


def test_a_run_learns_and_leaves_a_whole_checkpoint(tmp_path):
    run = trainer(tmp_path, max_steps=150, learning_rate=5e-3)

    def loss() -> float:
        """On the same draws before and after."""
        g = generator(1)
        draws = [run.objective.draw(run.batches.clouds.x, generator=g, level=n % 2) for n in range(20)]
        return sum(float(run.objective.loss(run.raw, draw).total.detach()) for draw in draws)

    before = loss()
    last = run.run()
    # untrained, the network predicts nearly 0, so `before` is the variance of v; much of it is noise that none can know
    assert loss() < 0.9 * before
    model = checkpoint.load(tmp_path / "checkpoints" / "last")
    assert (tmp_path / "checkpoints" / "last").resolve() == last.resolve()
    assert model.step == 150
    assert not model.network.training
    averaged = model.network.state_dict()
    assert all(torch.equal(averaged[name], mean) for name, mean in run.ema.mean.items())


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(tmp_path, stop):
    whole = trainer(tmp_path / "whole")
    whole.run()
    cut = trainer(tmp_path / "cut", checkpoint_every=stop)

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step > stop:
            raise Killed

    with pytest.raises(Killed):
        cut.run(kill)
    resumed = trainer(tmp_path / "cut")
    start = checkpoint.newest(tmp_path / "cut" / "checkpoints")
    resumed.resume(start)
    assert resumed.step == stop
    resumed.run()
    assert resumed.step == whole.step
    for name, weight in whole.raw.state_dict().items():
        assert torch.equal(weight, resumed.raw.state_dict()[name]), name
        assert torch.equal(whole.ema.mean[name], resumed.ema.mean[name]), name


def test_a_step_that_turns_non_finite_is_refused_and_reported(tmp_path):
    run = trainer(tmp_path, poison=[0])
    with JsonLines(tmp_path / "metrics.jsonl") as log:
        run.loggers.append(log)
        run.run()
    assert run.refused_in_all == sum(0 in run.batches.indices(step) for step in range(6)) > 0
    assert all(bool(weight.isfinite().all()) for weight in run.raw.state_dict().values())
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert any("refused" in record for record in records)
    assert all("NaN" not in json.dumps(record) for record in records)


def test_a_run_that_refuses_every_step_stops_with_a_diagnosis(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "MAX_REFUSED", 3)
    with pytest.raises(FloatingPointError, match=r"3 steps in a row .* level"):
        trainer(tmp_path, poison=range(12)).run()


def test_the_learning_rate_warms_up_and_falls_with_the_share_of_the_run(tmp_path):
    run, rates = trainer(tmp_path, max_steps=10, warmup_steps=4, learning_rate=1.0), []
    for step in range(11):
        run.step = step
        rates.append(run.learning_rate())
    assert rates[:3] == sorted(rates[:3])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.0)
    assert rates[0] == pytest.approx(0.25)


def test_a_run_bounded_by_minutes_ends(tmp_path):
    run = trainer(tmp_path, max_steps=None, max_minutes=0.01)
    run.run()
    assert run.step > 0
    assert 0.6 <= run.seconds < 10


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "max_steps or trainer.max_minutes"),
        ({"max_steps": 0}, "trainer.max_steps must be a whole number >= 1, got 0"),
        ({"max_steps": 1, "learning_rate": -1.0}, "trainer.learning_rate"),
        ({"max_steps": 1, "warmup_steps": -1}, "trainer.warmup_steps"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrainerOptions(**options)
