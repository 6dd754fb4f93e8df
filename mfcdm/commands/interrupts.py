"""Ctrl-C and SIGTERM ask a run to stop, and do not cut through it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
ECHO = 0.5  # seconds in which a second Ctrl-C is the first one again, passed on by `timeout`, `uv run` or a shell


class Interrupts:
    """In its `with`, the first Ctrl-C or SIGTERM calls `ask`, and a second Ctrl-C is a KeyboardInterrupt.

    A second SIGTERM changes nothing: queues and `timeout` send several, and kill what does not end in time. Signals
    that the process ignores, as below `nohup` or in a script's background, stay ignored; outside the main thread, where
    Python takes no signals, nothing is caught.

    Args:
        ask: called between two instructions of whatever is running, so it should only set a flag.
    """

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._caught: signal.Signals | None = None
        self._at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def name(self) -> str | None:
        """What was caught first, for a person; None where nothing was."""
        return None if self._caught is None else NAMES[self._caught]

    @property
    def code(self) -> int:
        """Exit code of a program that stops for it: 128 + the signal, as shells give it to one that it kills."""
        return 0 if self._caught is None else 128 + self._caught

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in NAMES:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _catch(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._caught is None:
            self._caught, self._at = signal.Signals(number), now
            self._ask()
            _note(f"{self.name}: the run stops after this step and writes a checkpoint; Ctrl-C leaves at once")
        elif number == signal.SIGINT and now - self._at > ECHO:
            raise KeyboardInterrupt


def _note(line: str) -> None:
    """A line on stderr, by the system's own call: whatever this interrupts may be writing there itself."""
    try:
        os.write(sys.stderr.fileno(), f"\n{line}\n".encode())
    except (OSError, ValueError):  # it is closed, or is no file
        return
