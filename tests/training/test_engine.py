import json

import pytest
import torch

from mfcdm import checkpoint
from mfcdm.training import refusals
from mfcdm.training.loggers import JsonLines
from mfcdm.training.options import TrainerOptions
from tests.laws import generator, three_shapes
from tests.training.runs import Exact, trainer


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_learns_and_leaves_a_whole_checkpoint(tmp_path):
    run = trainer(tmp_path, max_steps=300, learning_rate=5e-3, batch_size=16, num_clouds=512)
    fresh = three_shapes().sample(64, 16, generator(5), dtype=torch.float32)

    def loss(network) -> float:
        """On clouds that training does not see, and on the same draws every time."""
        g = generator(1)
        draws = [run.objective.draw(fresh, generator=g, level=n % 2) for n in range(40)]
        return sum(float(run.objective.loss(network, draw).total.detach()) for draw in draws) / len(draws)

    least, before = loss(Exact()), loss(run.raw)
    last = run.run()
    # What noise hides nobody can know: the law's own score has a loss of 0.63, the untrained network of 0.92. The
    # excess falls to 0.37 of itself; half leaves room for another machine's rounding over 300 steps.
    assert 0 < loss(run.raw) - least < 0.5 * (before - least)
    model = checkpoint.load(tmp_path / "checkpoints" / "last")
    assert (tmp_path / "checkpoints" / "last").resolve() == last.resolve()
    assert model.step == 300
    assert not model.network.training
    averaged = model.network.state_dict()
    assert all(torch.equal(averaged[name], mean) for name, mean in run.ema.mean.items())


def test_a_network_with_classes_sees_the_labels_of_its_clouds_and_at_times_none(tmp_path):
    run, seen = trainer(tmp_path, num_classes=3, batch_size=12, num_clouds=60, max_steps=20), []
    run.raw.register_forward_pre_hook(lambda _, __, given: seen.append(given["label"]), with_kwargs=True)
    run.run()
    expected = [run.batches.at(step).labels for step in range(20)]
    hidden = torch.stack(seen) == -1
    assert torch.equal(torch.stack(seen)[~hidden], torch.stack(expected)[~hidden])
    assert 0 < float(hidden.double().mean()) < 0.1 + 4 * (0.1 * 0.9 / 240) ** 0.5


def test_a_step_that_turns_non_finite_is_refused_and_reported(tmp_path):
    with JsonLines(tmp_path / "metrics.jsonl") as log:
        run = trainer(tmp_path, poison=[0], loggers=[log], log_every=1)
        run.run()
    assert run.refusals.in_all == sum(0 in run.batches.indices(step) for step in range(6)) > 0
    assert all(bool(weight.isfinite().all()) for weight in run.raw.state_dict().values())
    found = records(tmp_path)
    assert [record["step"] for record in found] == [1, 2, 3, 4, 5, 6]  # one record a step, also of a refused one
    refused = [0 in run.batches.indices(step) for step in range(6)]
    assert ["refused" in record for record in found] == refused
    assert ["loss" in record for record in found] == [not hit for hit in refused]
    assert all("NaN" not in json.dumps(record) for record in found)


def test_a_run_that_refuses_every_step_stops_with_a_diagnosis(tmp_path, monkeypatch):
    monkeypatch.setattr(refusals, "MAX_REFUSED", 3)
    with pytest.raises(FloatingPointError, match=r"3 steps in a row .* the last at step 3, level"):
        trainer(tmp_path, poison=range(12)).run()


@pytest.mark.parametrize("rate", [1e12, 1e30, 1e36])
def test_a_rate_that_makes_the_weights_overflow_ends_in_a_diagnosis(tmp_path, rate):
    """Whether the loss, a bandwidth or a weight itself overflows first."""
    run = trainer(tmp_path, learning_rate=rate, warmup_steps=0, max_steps=60, checkpoint_every=1)
    with pytest.raises(FloatingPointError, match=r"step \d+.*; lower trainer\.learning_rate"):
        run.run()
    newest = checkpoint.newest(tmp_path / "checkpoints")
    if newest is not None:  # what was written before can be read
        checkpoint.load(newest)
        checkpoint.load_training(newest)


def test_a_mistake_in_what_is_given_keeps_its_sentence(tmp_path):
    run = trainer(tmp_path)
    run.raw.dim = 2
    with pytest.raises(ValueError, match=r"particles must be floating \(B, N, 2\)"):
        run.run()


def test_weights_that_overflow_are_not_saved(tmp_path):
    run = trainer(tmp_path)
    run.save()
    with torch.no_grad():
        run.raw.out.bias[0] = torch.inf
    run.step = 1
    with pytest.raises(FloatingPointError, match=r"out.bias overflowed by step 1; lower trainer.learning_rate"):
        run.save()
    assert checkpoint.newest(tmp_path / "checkpoints").name == "step-00000000"


def test_the_learning_rate_warms_up_and_falls_with_the_share_of_the_run(tmp_path):
    run, rates = trainer(tmp_path, max_steps=100, warmup_steps=4, learning_rate=1.0), []
    for step in range(101):
        run.step = step
        rates.append(run.learning_rate())
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0], rel=3e-3)  # the cosine falls by 0.2 % over three steps
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.0)


def test_the_warm_up_takes_at_most_a_tenth_of_the_run():
    short = TrainerOptions(max_steps=50, warmup_steps=100, learning_rate=1.0)
    assert [short.rate(step, short.share(step, 0.0)) for step in range(1, 6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0], rel=0.03  # a cosine of 5 / 50 is 0.976 of its height
    )  # fmt: skip
    minutes = TrainerOptions(max_minutes=10, warmup_steps=100, learning_rate=1.0)
    assert minutes.rate(20, minutes.share(20, 60.0)) == pytest.approx(1.0, rel=0.03)
    assert minutes.rate(20, minutes.share(20, 0.0)) == pytest.approx(0.21)
    long = TrainerOptions(max_steps=100_000, warmup_steps=100, learning_rate=1.0)
    assert long.rate(49, long.share(49, 0.0)) == pytest.approx(0.5, rel=1e-3)


def test_what_is_left_is_the_nearer_of_the_bounds():
    both = TrainerOptions(max_steps=100, max_minutes=1)
    assert both.seconds_left(step=40, seconds=10.0, steps_a_second=2.0) == 30.0
    assert both.seconds_left(step=40, seconds=50.0, steps_a_second=2.0) == 10.0
    assert both.seconds_left(step=40, seconds=70.0, steps_a_second=0.0) == 0.0


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
        ({"max_steps": 1, "learning_rate": 1e38}, "trainer.learning_rate must be at most 1e.36, got 1e.38"),
        ({"max_steps": 1, "warmup_steps": -1}, "trainer.warmup_steps"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrainerOptions(**options)


def test_the_jacobian_is_not_matched_in_bf16(tmp_path):
    with pytest.raises(ValueError, match=r"jacobian_weight=0\.1 needs precision 32-true or 64-true, got bf16-mixed"):
        trainer(tmp_path, jacobian_weight=0.1, max_steps=1, precision="bf16-mixed")
