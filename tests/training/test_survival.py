"""Stopping, non-finite steps, full disks and failing loggers: what a run survives, and how it says so."""

import errno
import json
import math
import os

import pytest
import torch

from mfcdm import checkpoint
from mfcdm.training import refusals
from mfcdm.training.json_lines import JsonLines
from mfcdm.training.refusals import CALM, MAX_HALVINGS, MAX_REFUSED, Refusals, RefusedStep, read_refused
from tests.laws import generator
from tests.training.runs import scripted, state, trainer, validation


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def resumed(folder, **options):
    run = trainer(folder, **options)
    run.resume(checkpoint.newest(folder / "checkpoints"))
    return run


# Stopping


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_stopped_run_finishes_its_step_and_its_rest_ends_bit_equal(tmp_path, stop):
    whole = trainer(tmp_path / "whole")
    whole.run()
    run = trainer(tmp_path / "cut")
    last = run.run(lambda progress: run.stop() if progress.step == stop else None)
    assert last == tmp_path / "cut" / "checkpoints" / f"step-{stop:08d}"
    assert (tmp_path / "cut" / "checkpoints" / "last").resolve() == last
    rest = resumed(tmp_path / "cut")
    assert rest.step == stop
    rest.run()
    assert equal(state(whole), state(rest))


def test_a_run_stopped_before_its_first_step_leaves_a_checkpoint_to_go_on_from(tmp_path):
    whole, run = trainer(tmp_path / "whole"), trainer(tmp_path / "cut")
    whole.run()
    run.stop()
    assert run.run().name == "step-00000000"
    rest = resumed(tmp_path / "cut")
    rest.run()
    assert equal(state(whole), state(rest))


@pytest.mark.parametrize("step", [3, 6])  # of the validations; the last one ends the run
def test_a_validation_that_a_stop_cuts_off_is_made_by_the_resumed_run(tmp_path, step):
    def run_with(folder, observe=None, again=False):
        make = resumed if again else trainer
        folder.mkdir(exist_ok=True)
        run = make(folder, validation=validation(), log_every=2)
        run.loggers.append(JsonLines(folder / "metrics.jsonl", run.step))
        run.run(observe and (lambda progress: observe(run, progress)))
        run.loggers.close()
        return run

    def stop(run, progress):
        if progress.step == step and progress.validated is not None:
            run.stop()

    whole = run_with(tmp_path / "whole")
    cut = run_with(tmp_path / "cut", stop)
    assert cut.step == step
    assert cut.judge.best == (None if step == 3 else whole.judge.best | {"step": 3, "score": cut.judge.best["score"]})
    stopped_again = run_with(tmp_path / "cut", stop, again=True)
    assert stopped_again.step == step
    assert step not in [record["step"] for record in records(tmp_path / "cut")]
    rest = run_with(tmp_path / "cut", again=True)
    assert equal(state(whole), state(rest))
    assert rest.judge.best == whole.judge.best
    found, expected = ({r["step"]: r for r in records(tmp_path / name)} for name in ("cut", "whole"))
    assert len(found) == len(records(tmp_path / "cut"))  # a step appears once
    assert found.keys() >= expected.keys()
    for number, record in expected.items():
        scores = {key: value for key, value in record.items() if key.startswith("validation/")}
        assert {key: found[number][key] for key in scores if "seconds" not in key} == {
            key: value for key, value in scores.items() if "seconds" not in key
        }
    assert "loss" in found[step]


# Non-finite steps


def poisoned(run, steps):
    """Have the network put out NaN in these steps, counted from 1, and what it put out else."""
    run.raw.register_forward_hook(lambda _, __, out: out * math.nan if run.step + 1 in steps else None)
    return run


def test_skipped_steps_change_nothing_but_the_learning_rate_of_those_after_them(tmp_path):
    rates = []
    run = poisoned(trainer(tmp_path, max_steps=2 * CALM + 20), {4, 5})
    before = {}

    def observe(progress):
        rates.append(run.optimizers[0].param_groups[0]["lr"])
        before[progress.step] = {name: weight.clone() for name, weight in state(run).items()}

    with pytest.warns(UserWarning, match=r"skipped for its non-finite .* step 4, level \d, t from .* clouds \d+, "):
        run.run(observe)
    assert equal(before[3], before[4])
    assert equal(before[4], before[5])
    assert not equal(before[5], before[6])
    plain = [run.options.rate(step, run.options.share(step, 0.0)) for step in range(run.step)]
    shares = [rate / full for rate, full in zip(rates, plain, strict=True)]
    # after two refused steps a quarter, for 50 applied steps, and half for 50 more
    expected = [1.0] * 4 + [0.5] + [0.25] * CALM + [0.5] * CALM + [1.0] * (15)
    assert shares == pytest.approx(expected, rel=1e-12)


def test_the_back_off_is_half_of_the_rate_at_most_where_single_steps_are_refused_over_and_over():
    found, step = Refusals(), RefusedStep(1, 0, [0.5], [0])
    found.write = lambda folder, seed: folder  # nothing is written
    for n in range(1, MAX_HALVINGS + 4):
        found.refuse(step, None, 0)
        assert found.rate == 2.0 ** -min(n, MAX_HALVINGS)
    for _ in range(MAX_HALVINGS * CALM):
        found.apply()
    assert found.rate == 1.0
    for n in range(1000):  # an outlier that comes back in every tenth step
        found.refuse(step, None, 0) if n % 10 == 0 else found.apply()
        assert found.rate == 0.5


@pytest.mark.filterwarnings("ignore:skipped for its non-finite loss")
@pytest.mark.parametrize("stop", [2, 3, 4, 5])
def test_a_run_that_backs_off_is_resumed_bit_equal(tmp_path, stop):
    """Stopped before, within and after the steps that are refused."""
    whole = poisoned(trainer(tmp_path / "whole", max_steps=8), {3, 4})
    run = poisoned(trainer(tmp_path / "cut", max_steps=8), {3, 4})
    whole.run()
    run.run(lambda progress: run.stop() if progress.step == stop else None)
    rest = poisoned(resumed(tmp_path / "cut", max_steps=8), {3, 4})
    rest.run()
    assert equal(state(whole), state(rest))
    assert rest.refusals.numbers() == whole.refusals.numbers()
    assert rest.refusals.rate == 0.25


def test_a_run_that_is_refused_on_and_on_stops_with_a_diagnosis_that_can_be_replayed(tmp_path, monkeypatch):
    """A cloud whose coordinates overflow, in a set of four: every batch holds it."""
    monkeypatch.setattr(refusals, "MAX_REFUSED", 3)
    run = trainer(tmp_path, poison=[2], num_clouds=4, checkpoint_every=1)
    run.save()
    with (
        pytest.raises(FloatingPointError) as caught,
        pytest.warns(UserWarning, match="skipped for its non-finite loss"),
    ):
        run.run()
    sentence = str(caught.value)
    assert "\n" not in sentence
    found = json.loads((tmp_path / "refused.json").read_text())
    assert found["seed"] == run.batches.seed == 0
    assert [step["step"] for step in found["steps"]] == [1, 2, 3]
    last = found["steps"][-1]
    named = ", ".join(str(index) for index in last["indices"])
    times = f"t from {min(last['t']):.4f} to {max(last['t']):.4f}"
    assert (
        f"3 steps in a row had a non-finite loss or gradient, the last at step 3, level {last['level']}, {times}, "
        in (sentence)
    )
    repeats = f"{tmp_path / 'refused.json'} has what repeats it, by python -m mfcdm.commands.replay {tmp_path}"
    assert f"clouds {named}; {repeats}; lower trainer.learning_rate" in sentence
    for step in found["steps"]:  # what it holds repeats the step
        batch, generator = run.batches.at(step["step"] - 1), run.batches.generator(step["step"] - 1)
        draw = run.objective.draw(batch.x, generator=generator)
        loss = run.objective.loss(run.network, draw, generator=generator)
        assert (draw.level, draw.t.tolist()) == (step["level"], step["t"])
        assert run.batches.indices(step["step"] - 1).tolist() == step["indices"]
        told = [float(value) for value in step["loss"]]
        assert [math.isfinite(value) for value in told] == [index != 2 for index in step["indices"]]
        torch.testing.assert_close(torch.tensor(told), loss.score_matching, equal_nan=True, rtol=0, atol=0)
    assert checkpoint.newest(tmp_path / "checkpoints").name == "step-00000002"  # its steps are skipped, and it is whole
    assert checkpoint.load(tmp_path / "checkpoints" / "last").step == 2


def test_steps_of_large_batches_are_read_back(tmp_path):
    found, times = Refusals(), torch.rand(512, generator=generator(0)).tolist()
    for step in range(1, MAX_REFUSED + 1):
        found.refuse(RefusedStep(step, 3, times, list(range(1000, 1512)), [*times[1:], math.inf]), tmp_path, 5)
    seed, steps = read_refused(tmp_path)
    assert (seed, [step.step for step in steps]) == (5, list(range(1, MAX_REFUSED + 1)))
    assert all(step.t == times and step.loss == [*times[1:], math.inf] for step in steps)


def test_a_diagnosis_is_given_where_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(refusals, "MAX_REFUSED", 2)
    monkeypatch.setattr(refusals, "whole", full_disk)
    with (
        pytest.raises(
            FloatingPointError, match=r"2 steps in a row .* could not be written \(No space left on device\)"
        ),
        pytest.warns(UserWarning, match="skipped"),
    ):
        trainer(tmp_path, poison=range(12)).run()


# Full disks and failing loggers


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def only_at(run, step, action, original):
    """An action at one step of a run, the original at all others."""
    return lambda *given, **named: (action if run.step == step else original)(*given, **named)


@pytest.mark.parametrize("what", ["save_file", "json.dumps", "yaml.safe_dump", "_flush"])
def test_a_checkpoint_that_finds_the_disk_full_is_said_and_the_next_one_is_written(tmp_path, monkeypatch, what):
    whole, run = trainer(tmp_path / "whole"), trainer(tmp_path / "full", checkpoint_every=2, keep_last=1)
    whole.run()
    module, name = (
        (checkpoint, what) if "." not in what else (getattr(checkpoint, what.split(".")[0]), what.split(".")[1])
    )
    monkeypatch.setattr(module, name, only_at(run, 4, full_disk, getattr(module, name)))
    checkpoints = tmp_path / "full" / "checkpoints"
    newest = rf"the newest whole one is {checkpoints / 'step-00000002'}; the run goes on"
    with pytest.warns(UserWarning, match=rf"checkpoint of step 4 could not be written \(No space left .*\); {newest}"):
        run.run(lambda progress: progress.step != 5 or check_only(checkpoints, "step-00000002"))
    assert equal(state(whole), state(run))
    check_only(checkpoints, "step-00000006")


def check_only(checkpoints, name):
    """Nothing but one whole checkpoint and the link to it."""
    assert sorted(path.name for path in checkpoints.iterdir()) == ["last", name]
    assert (checkpoints / "last").resolve().name == name
    assert checkpoint.load_training(checkpoints / "last").numbers["ema_updates"] == int(name[5:])


def test_a_disk_that_stays_full_ends_the_run_with_a_sentence_and_loses_no_checkpoint(tmp_path, monkeypatch):
    run = trainer(tmp_path, checkpoint_every=2, keep_last=1)

    def fill(progress):
        if progress.step == 3:
            monkeypatch.setattr(checkpoint, "save_file", full_disk)

    with (
        pytest.raises(OSError, match=r"step 6 could not be written \(No space left on device\); .* one is .*00000002$"),
        pytest.warns(UserWarning, match="step 4 could not be written"),
    ):
        run.run(fill)
    check_only(tmp_path / "checkpoints", "step-00000002")
    monkeypatch.undo()  # there is room again
    whole, rest = trainer(tmp_path / "whole"), resumed(tmp_path)
    whole.run()
    rest.run()
    assert equal(state(whole), state(rest))


def test_what_safetensors_says_of_a_disk_is_an_error_of_the_system(tmp_path):
    run = trainer(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(OSError, match=r"network\.safetensors"):
        checkpoint._write(run.ema.mean, tmp_path / "absent" / "network.safetensors")


class Failing:
    """A logger that fails in all that it is asked."""

    def __init__(self, error):
        self.error, self.asked = error, []

    def __getattr__(self, name):
        def fail(*_, **__):
            self.asked.append(name)
            raise self.error

        return fail


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("it\nis gone"), KeyError()]
)
def test_a_logger_that_fails_is_said_once_and_disturbs_neither_the_run_nor_the_other_loggers(tmp_path, error):
    found = [(0.9, 0.8, 1.0)] * 6
    whole, failing = scripted(tmp_path / "whole", found), Failing(error)
    whole.run()
    with JsonLines(tmp_path / "metrics.jsonl") as lines:
        run = scripted(tmp_path, found, loggers=[failing, lines], log_every=1)
        with pytest.warns(UserWarning, match="Failing failed to log, and the run goes on: ") as said:
            run.run()
        run.loggers.close(failed=False)
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert set(failing.asked) == {"log", "clouds", "checkpoint", "close"}  # it is asked again
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert equal(state(whole), state(run))


def test_records_that_find_the_disk_full_are_written_once_there_is_room(tmp_path):
    """The kernel writes a part of a line, then nothing; then there is room again."""
    lines = JsonLines(tmp_path / "metrics.jsonl")
    run = trainer(tmp_path, loggers=[lines], log_every=1)
    small = Limited((tmp_path / "metrics.jsonl").open("ab", buffering=0), room=700)
    lines._file = open_on(small)

    def empty_the_disk(progress):
        if progress.step == 5:
            small.room = math.inf

    with pytest.warns(UserWarning, match=r"JsonLines failed to log, and the run goes on: .*No space left on device"):
        run.run(empty_the_disk)
    run.loggers.close()
    assert small.refused > 0
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3, 4, 5, 6]  # every line is whole


class Limited:
    """A file on a disk with little room."""

    def __init__(self, raw, room):
        self.raw, self.room, self.refused = raw, room, 0

    def write(self, data):
        taken = int(min(len(data), self.room))
        if taken == 0:
            self.refused += 1
            full_disk()
        self.room -= taken
        return self.raw.write(bytes(data)[:taken])


def open_on(limited):
    """A text file as `open(..., buffering=1)` makes it, on a raw file of ours."""
    import io

    class Raw(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            return limited.write(data)

    return io.TextIOWrapper(io.BufferedWriter(Raw()), line_buffering=True)


def test_a_picture_that_finds_the_disk_full_is_said_and_the_run_goes_on(tmp_path, monkeypatch):
    run = trainer(tmp_path, validation=validation())
    monkeypatch.setattr("mfcdm.visualize.whole", full_disk)
    with pytest.warns(UserWarning, match=r"samples/step-0000000[36]\.png could not be written, and the run goes on"):
        run.run()
    assert checkpoint.load(tmp_path / "checkpoints" / "last").step == 6


def test_a_picture_that_cannot_be_drawn_is_said_and_the_run_goes_on(tmp_path, monkeypatch):
    def draw(*_):
        raise ValueError("a cloud must be (N, 2) or (N, 3) to be drawn")

    run = trainer(tmp_path, validation=validation())
    monkeypatch.setattr(run.judge.validation, "draw", draw)
    with pytest.warns(UserWarning, match=r"could not be written, and the run goes on: a cloud must be \(N, 2\)"):
        run.run()
    assert checkpoint.load(tmp_path / "checkpoints" / "last").step == 6


# Pruning


def test_a_run_keeps_its_newest_checkpoints_and_its_best(tmp_path):
    run = trainer(tmp_path, max_steps=12, checkpoint_every=1, keep_last=2, validation=validation(every=6))
    run.run(lambda progress: run.judge.best and run.judge.best.update(score=-1.0))  # nothing after 6 is better
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == ["best", "last", "step-00000006", "step-00000011", "step-00000012"]
    assert (tmp_path / "checkpoints" / "best").resolve().name == "step-00000006"
    assert checkpoint.load(tmp_path / "checkpoints" / "best").step == 6


def test_without_a_number_all_checkpoints_stay(tmp_path):
    trainer(tmp_path, checkpoint_every=1).run()
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 6
