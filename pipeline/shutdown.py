"""Ctrl-C and SIGTERM: the first one drains, the second one cancels; SIGHUP may mean something else.

Python runs its own handlers in the main thread only, between two bytecodes: not while a model
loads for a minute. So the C handler writes each signal's number into a socket, at once and as often
as it came; a thread of our own reads them, and another acts on them. Listening begins before anything
slow is imported, so a signal that comes early stops the line as soon as there is one.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import FrameType
from typing import Any

CANCELLED = 130
"""The exit code of a command that a signal has ended, rather than its work."""
CANCELLING = (signal.SIGINT, signal.SIGTERM)
# A terminal that goes away says so, and its shell may say so again: that is not a second Ctrl-C.
HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
_DONE = 0
SAME_SECONDS = 0.1
"""Seconds within which a further signal is the first one still: ``timeout -s INT`` and other wrappers pass on
to their child what a terminal has sent to the whole group, some as SIGTERM. Nobody presses Ctrl-C twice as
quickly."""


@dataclass(slots=True)
class _Listening:
    """Signals that are recorded."""

    heard: SimpleQueue[tuple[int, float]] = field(default_factory=SimpleQueue)
    """Their numbers, and when they came; _DONE at the end."""
    sockets: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)
    acted_on: bool = False
    """Whether somebody acts on them; until then there is nothing that would have to be finished."""
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.sockets[1].setblocking(False)
        self.thread = threading.Thread(target=self._read, name="listen", daemon=True)
        self.thread.start()

    def _read(self) -> None:
        """Take down when each came, which whoever acts on them may get to know later. Before anybody does,
        the second one ends the process, which may be waiting for a file."""
        number, until = -1, None
        while number != _DONE:
            (number,) = self.sockets[0].recv(1)
            at = time.monotonic()
            if number in CANCELLING and not self.acted_on:
                if until is not None and at > until:
                    os._exit(CANCELLED)
                until = at + SAME_SECONDS
            self.heard.put((number, at))

    def end(self) -> None:
        self.sockets[1].send(bytes((_DONE,)))
        self.thread.join()
        for each in self.sockets:
            each.close()


_listening: _Listening | None = None


def listen() -> tuple[SimpleQueue[tuple[int, float]], dict[int, Any]]:
    """Record signals from now on; return where they are read, and the handlers there were.

    For the main thread. A hangup is recorded unless it is to be ignored (nohup).
    """
    global _listening
    if _listening is None:
        _listening = _Listening()
        signal.set_wakeup_fd(_listening.sockets[1].fileno(), warn_on_full_buffer=False)
    previous: dict[int, Any] = {}
    for number in CANCELLING if HANGUP is None else (*CANCELLING, HANGUP):
        if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN:
            previous[number] = signal.signal(number, _heard)
    return _listening.heard, previous


def _heard(_number: int, _frame: FrameType | None) -> None:
    """Be there: without a handler of Python's nothing is written."""


@contextmanager
def signals(
    first: Callable[[], None], second: Callable[[], None], hangup: Callable[[], None] | None = None
) -> Iterator[None]:
    """Call ``first`` on the first signal and ``second`` on the next, both in a thread of their own.

    ``hangup`` is called on each SIGHUP instead (None: it counts as a first signal). To be used in the main
    thread. The previous handlers return at the end. What comes within 0.1 s of the first counts with it.
    """
    global _listening
    heard, previous = listen()
    assert _listening is not None
    _listening.acted_on = True

    def act() -> None:
        wanted: tuple[int | None, ...] = (*CANCELLING, HANGUP)
        until = 0.0
        for action in (first, second):
            while (said := heard.get())[0] != _DONE:
                number, at = said
                if hangup is not None and number == HANGUP:
                    hangup()
                elif number in wanted and at > until:
                    until = at + SAME_SECONDS
                    break
            else:
                return
            action()
            wanted = CANCELLING

    thread = threading.Thread(target=act, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        _listening.end()
        thread.join()
        _listening = None
