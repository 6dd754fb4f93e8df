"""What the commands show: lines, and how far the work is."""

import argparse
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

CONSOLE = Console(stderr=True)
SECONDS_BETWEEN_LINES = 30.0  # where stderr is a file, which a bar would fill with garbage


def say(line: str) -> None:
    """A line that stays whole however long its paths are."""
    CONSOLE.print(line, soft_wrap=True, markup=False, highlight=False)


def stop(message: str, code: int = 2) -> NoReturn:
    """End the program with a sentence."""
    say(f"mfcdm: {message}")
    sys.exit(code)


class Arguments(argparse.ArgumentParser):
    """A parser whose complaint is one sentence."""

    def error(self, message: str) -> NoReturn:
        """Stop, as for any other mistake."""
        stop(f"{message}; --help lists the options")


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show warnings as lines of ours, above the bar, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        yield


class Pace:
    """Speed over the recent past.

    Args:
        window: seconds that count as recent.
    """

    def __init__(self, window: float = 20.0) -> None:
        self.window = window
        self._readings: deque[tuple[float, float]] = deque()  # (seconds, position)

    def add(self, position: float, seconds: float) -> float:
        """Take a reading in; speed a second since the window's beginning, 0 where there was no reading before."""
        self._readings.append((seconds, position))
        while len(self._readings) > 2 and self._readings[1][0] < seconds - self.window:
            self._readings.popleft()
        begun, first = self._readings[0]
        return (position - first) / (seconds - begun) if seconds > begun else 0.0

    def clear(self) -> None:
        """Forget the past, after a pause."""
        self._readings.clear()


class Meter:
    """A bar on a terminal, a line now and then in a file; use it in a `with`.

    Args:
        title: of the work.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._bar = Progress(
            TextColumn(title, markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}", markup=False),
            console=CONSOLE,
            disable=not CONSOLE.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0, left=clock(None))
        self._spoken_at = time.monotonic()

    def show(self, share: float, text: str = "", seconds_left: float | None = None) -> None:
        """Show what share of the work is done."""
        left = clock(seconds_left)
        self._bar.update(self._task, completed=share, description=text, left=left)
        now = time.monotonic()
        if self._bar.disable and now - self._spoken_at >= SECONDS_BETWEEN_LINES:
            say(f"{self.title} {share:.0%}  {text}{'  ' if text else ''}left {left}")
            self._spoken_at = now

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def clock(seconds: float | None) -> str:
    """A duration as h:mm:ss, "-" where it is not known."""
    if seconds is None or not seconds < float("inf"):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
