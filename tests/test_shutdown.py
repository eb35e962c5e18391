"""Signals: what is recorded, when, and what comes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline import shutdown
from pipeline.shutdown import HANGUP, listen, signals

pytestmark = pytest.mark.skipif(HANGUP is None, reason="Windows has no hangup and no kill(2)")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_one_that_came_before_the_line_stops_it_at_once() -> None:
    listen()
    send(signal.SIGTERM)
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        assert stopped.wait(5)
        assert not cancelled.wait(0.05)
        send(signal.SIGINT)
        assert cancelled.wait(5)


def test_a_hangup_drains_and_a_second_one_cancels_nothing() -> None:
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        send(signal.SIGHUP)
        assert stopped.wait(5)
        send(signal.SIGHUP)
        assert not cancelled.wait(0.05)
        send(signal.SIGTERM)
        assert cancelled.wait(5)


def test_what_a_wrapper_passes_on_again_at_once_is_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """``timeout -s INT`` sends its child what the terminal has sent to both."""
    monkeypatch.setattr(shutdown, "_SAME", 60)  # this machine may be slow
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        send(signal.SIGINT)
        assert stopped.wait(5)
        send(signal.SIGINT)
        assert not cancelled.wait(0.05)
        send(signal.SIGTERM)
        assert cancelled.wait(5)


def test_the_same_signal_cancels_once_a_hand_can_have_sent_it() -> None:
    stopped, cancelled = threading.Event(), threading.Event()
    with signals(stopped.set, cancelled.set):
        send(signal.SIGINT)
        assert stopped.wait(5)
        time.sleep(0.15)
        send(signal.SIGINT)
        assert cancelled.wait(5)


def test_a_hangup_that_is_to_be_ignored_is(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopped = threading.Event()
    with signals(stopped.set, stopped.set):
        send(signal.SIGHUP)
        assert not stopped.wait(0.05)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_handlers_return_and_nothing_is_left_for_the_next_line() -> None:
    before = signal.getsignal(signal.SIGINT)
    done = threading.Event()
    with signals(lambda: None, done.set):
        for _ in range(2):
            send(signal.SIGINT)
            send(signal.SIGTERM)
        assert done.wait(5)
    assert signal.getsignal(signal.SIGINT) == before
    stopped = threading.Event()
    with signals(stopped.set, stopped.set):
        assert not stopped.wait(0.05)


LATE = """
import os, signal, sys

class Late:
    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGHUP):
        kill(own, number)  # when the interpreter is taken down

sys.argv[1:] = ["run", *sys.argv[1:]]
from pipeline.__main__ import main
os.late = Late()
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code"), [(["--help"], 0), (["nowhere.mp4"], 2), (["synthetic:32x32?frames=2", "-q"], 0)]
)
def test_a_hangup_after_the_run_does_not_change_its_exit_code(
    cheap_model: str, arguments: list[str], code: int
) -> None:
    """Python's handlers are gone by then, while the process is still there."""
    if code == 0 and "--help" not in arguments:
        arguments = [*arguments, "--model", cheap_model]
    done = subprocess.run([sys.executable, "-c", LATE, *arguments], capture_output=True, check=False)
    assert done.returncode == code, done.stderr
