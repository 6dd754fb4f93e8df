"""What a run shows while it trains: how far it is, how fast, and when it will be done."""

from collections.abc import Callable
from datetime import datetime, timedelta

from mfcdm.commands.console import Meter, Pace, clock, say
from mfcdm.training.judging import Judge
from mfcdm.training.progress import Progress

SETTLED = 10.0  # seconds of steps, after which their speed is that of the run


class Outlook:
    """Shows each step on a meter, and says twice when the run will be done.

    The first forecast comes as soon as the steps have a speed, the second one with the first validation, before which
    nobody knows how long those take. Both are lines that stay, on a terminal and in a log.

    Args:
        meter: shows each step.
        judge: of the run, whose validations take time.
        now: the time of day.
    """

    def __init__(self, meter: Meter, judge: Judge, now: Callable[[], datetime] = datetime.now) -> None:
        self.meter, self.judge, self.now = meter, judge, now
        self._pace = Pace()
        self._begun: float | None = None  # seconds of the run, where its earlier parts ended
        self._speed = 0.0  # steps a second
        self._left: float | None = None
        self._said = self._said_again = False

    def __call__(self, now: Progress) -> None:
        """Take note of a step, or of a validation's progress."""
        self._begun = now.seconds if self._begun is None else self._begun
        if now.validated is not None:
            self.meter.show(now.share, f"step {now.step}  validating {now.validated:.0%}", self._left)
            self._pace.clear()
            return
        self._speed = speed = self._pace.add(now.step, now.seconds) or self._speed  # of old where a pause is over
        self._left = self.judge.seconds_left(now.step, now.seconds, speed)
        text = f"step {now.step}  level {now.level}  loss {now.loss:.3f}  {speed:.1f} steps/s"
        self.meter.show(now.share, text, self._left)
        if speed > 0 and now.share < 1:
            self._say(now, speed, self._left)

    def _say(self, now: Progress, speed: float, left: float) -> None:
        known = bool(self.judge.durations)
        if self._begun is None or self._said_again or (self._said and not known):
            return
        if not known and now.seconds - self._begun < SETTLED:
            return
        self._said, self._said_again = True, known
        say(forecast(self.judge, now, speed, left, self.now()))


def forecast(judge: Judge, now: Progress, speed: float, left: float, at: datetime) -> str:
    """When a run will be done, in a sentence.

    Args:
        judge: of the run.
        now: where it stands.
        speed: in steps a second.
        left: seconds.
        at: the time of day.
    """
    done = at + timedelta(seconds=left)
    sentence = f"forecast: done in {clock(left)}, at {done:%Y-%m-%d %H:%M}, at {speed:.3g} steps/s"
    ahead = judge.ahead(now.step, now.seconds)
    if ahead == 0:
        return sentence
    if not judge.durations:
        return f"{sentence}; the validations will take more"
    return f"{sentence}, and {clock(judge.durations[-1])} a validation"
