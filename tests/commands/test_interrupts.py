import os
import signal
import threading
import time

import pytest

from mfcdm.commands import interrupts
from mfcdm.commands.interrupts import Interrupts

HANDLED = (signal.SIGINT, signal.SIGTERM)


def send(number):
    """To this process; Python acts on it within the next instructions."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_the_first_signal_asks_once_and_the_handlers_come_back(number, name, code):
    asked, before = [], [signal.getsignal(handled) for handled in HANDLED]
    with Interrupts(lambda: asked.append(1)) as caught:
        assert (caught.name, caught.code) == (None, 0)
        send(number)
        assert (caught.name, caught.code) == (name, code)
        send(signal.SIGTERM)  # as queues do
        send(number)  # at once: the same one, passed on by a shell
    assert (asked, caught.name) == ([1], name)
    assert [signal.getsignal(handled) for handled in HANDLED] == before


@pytest.mark.parametrize("first", HANDLED)
def test_a_ctrl_c_after_it_leaves_at_once(monkeypatch, first):
    now = 100.0
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now)
    before = [signal.getsignal(handled) for handled in HANDLED]
    with pytest.raises(KeyboardInterrupt), Interrupts(lambda: None) as caught:  # noqa: PT012
        send(first)
        now += 1.0
        send(signal.SIGTERM)  # still nothing
        send(signal.SIGINT)
        time.sleep(10)
        pytest.fail("it went on")
    assert caught.code == 128 + first
    assert [signal.getsignal(handled) for handled in HANDLED] == before


def test_signals_that_are_ignored_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as below nohup, or in the background of a script
    try:
        with Interrupts(lambda: pytest.fail("it was caught")) as caught:
            send(signal.SIGINT)
        assert caught.name is None
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_caught_and_nothing_breaks():
    before, entered = [signal.getsignal(handled) for handled in HANDLED], []

    def enter():
        with Interrupts(lambda: None):
            entered.append([signal.getsignal(handled) for handled in HANDLED])

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [before]


def test_the_library_installs_no_handler():
    before = [signal.getsignal(handled) for handled in HANDLED]
    Interrupts(lambda: None)
    assert [signal.getsignal(handled) for handled in HANDLED] == before
