"""The forecast of a run, against the time that the run then takes by a clock of its own."""

from datetime import datetime

import pytest

from mfcdm.commands.forecast import SETTLED, Outlook
from mfcdm.training.options import TrainerOptions
from mfcdm.training.validation import ValidationOptions
from tests.training.runs import Scripted, scores, trainer

STEP, VALIDATION = 2.0, 7.0  # seconds
STARTED = datetime(2026, 1, 30, 23, 59)


class Meter:
    """Keeps what it is to show."""

    def __init__(self):
        self.left = []

    def show(self, share, text, left):
        self.left.append((text, left))


class Slow(Scripted):
    """A validation that takes its time, of a run whose steps do."""

    def __init__(self, **options):
        super().__init__([], patience=0, **options)
        self.now = 0.0

    def __call__(self, network, progress=None):
        progress(1, 2)
        self.now += VALIDATION
        return scores(0.7, 0.6, 0.8)


def watched(folder, every, num_clouds=4, **options):
    """A run that is watched: {step: seconds left as foretold}, the seconds at each step, those of the whole run."""
    measure = Slow(every=every) if num_clouds else None
    run = trainer(folder, validation=measure, **options)
    time = measure or Slow()
    run.clock = lambda: time.now
    run.raw.register_forward_hook(lambda *_: vars(time).update(now=time.now + STEP))
    meter, passed = Meter(), {}
    outlook = Outlook(meter, run.judge, now=lambda: STARTED)

    def observe(progress):
        if progress.validated is None:
            passed[progress.step] = time.now
        outlook(progress)

    run.run(observe)
    foretold = {int(text.split()[1]): left for text, left in meter.left if "validating" not in text}
    return foretold, passed, time.now


@pytest.mark.parametrize("every", [0.2, 0.3, 4, 7])
def test_after_the_first_validation_the_forecast_is_the_time_that_the_run_takes(tmp_path, every):
    foretold, passed, whole = watched(tmp_path, every, max_steps=20)
    first = every if every >= 1 else every * 20
    known = [step for step in foretold if first + 1 < step < 20]  # two steps make a speed
    assert len(known) > 6
    for step in known:
        # The validation that a step is just about to have counts as made.
        own = VALIDATION * ValidationOptions(every=every).due(step, (step - 1) / 20, step / 20)
        assert whole - passed[step] == pytest.approx(foretold[step] + own)


def test_without_validations_it_is_from_the_second_step_on(tmp_path):
    foretold, passed, whole = watched(tmp_path, 0.2, num_clouds=0, max_steps=12)
    assert {step: whole - passed[step] for step in range(2, 13)} == pytest.approx(
        {step: left for step, left in foretold.items() if step > 1}
    )


def test_minutes_hold_all_validations_but_the_last():
    options = TrainerOptions(max_minutes=2)
    assert options.seconds_left(50, 90.0, 1.0, validations=3, validation=7.0) == 30.0 + 7.0
    assert options.seconds_left(50, 130.0, 1.0, validations=0, validation=7.0) == 0.0


@pytest.mark.parametrize("every", [0.2, 0.3, 0.07, 0.5, 1, 4, 7, 20, 30])
def test_the_validations_ahead_are_those_that_then_are_due(every):
    options, last = ValidationOptions(every=every), 100
    due = [step for step in range(1, last + 1) if options.due(step, (step - 1) / last, step / last)]
    for step in range(last + 1):
        assert options.ahead(step, step / last, last) == sum(later > step for later in due)


def test_two_lines_say_it(tmp_path, capsys):
    watched(tmp_path, 0.5, max_steps=20)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "forecast: done in 0:00:28, at 2026-01-30 23:59, at 0.5 steps/s; the validations will take more"
    assert second == "forecast: done in 0:00:25, at 2026-01-30 23:59, at 0.5 steps/s, and 0:00:07 a validation"
    assert SETTLED == 5 * STEP


def test_a_run_shorter_than_that_says_nothing(tmp_path, capsys):
    watched(tmp_path, 0.5, num_clouds=0, max_steps=5)
    assert capsys.readouterr().err == ""
