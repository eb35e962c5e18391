"""Signals: what is recorded, when, and what comes of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

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
        for _ in range(4):
            send(signal.SIGINT)
        assert done.wait(5)
    assert signal.getsignal(signal.SIGINT) == before
    stopped = threading.Event()
    with signals(stopped.set, stopped.set):
        assert not stopped.wait(0.05)
