import warnings

import pytest
from rich.console import Console

from mfcdm.commands import console
from mfcdm.commands.console import Meter, Pace, clock, say, warnings_as_lines


def test_the_pace_is_that_of_the_recent_past():
    pace = Pace(window=10.0)
    assert pace.add(0, 0.0) == 0.0
    for second in range(1, 101):
        pace.add(10 * second, second)
    for second in range(101, 131):
        last = pace.add(1000 + second - 100, second)
    assert last == pytest.approx(1.0)  # the first hundred seconds, at ten a second, are forgotten
    pace.clear()
    assert pace.add(2000, 500.0) == 0.0
    assert pace.add(2004, 502.0) == pytest.approx(2.0)


def test_the_pace_of_steps_slower_than_the_window():
    pace = Pace(window=1.0)
    assert [pace.add(step, 30.0 * step) for step in range(4)] == pytest.approx([0.0, 1 / 30, 1 / 30, 1 / 30])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (float("inf"), "-"), (0.4, "0:00:00"), (59.6, "0:01:00"), (3599, "0:59:59"), (360000, "100:00:00")],
)
def test_durations_are_read_like_a_clock(seconds, text):
    assert clock(seconds) == text


def test_a_file_gets_a_plain_line_now_and_then(capsys, monkeypatch):
    now = iter(range(0, 1000, 12))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))  # twelve seconds a call
    with Meter("training") as meter:
        for step in range(1, 8):
            meter.show(step / 10, f"step {step}", 100.0 - step)
    # thirty seconds are over at the third and the sixth call
    assert capsys.readouterr().err.splitlines() == [
        "training 30%  step 3  left 0:01:37",
        "training 60%  step 6  left 0:01:34",
    ]


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(console, "CONSOLE", Console(stderr=True, force_terminal=True, width=120))
    with Meter("training [a]") as meter:
        meter.show(0.5, "step 3", 61.0)
    shown = capsys.readouterr().err
    assert "training [a]" in shown
    assert "step 3" in shown
    assert "left 0:01:01" in shown


def test_lines_stay_whole_and_warnings_are_lines(capsys):
    say("a" * 300)
    with warnings_as_lines():
        warnings.warn("[red] W&B is gone", RuntimeWarning, stacklevel=1)
    assert capsys.readouterr().err.splitlines() == ["a" * 300, "warning: [red] W&B is gone"]
