"""Ctrl-C and SIGTERM: the first one drains, the second one cancels; SIGHUP may mean something else.

Python runs its own handlers in the main thread only, between two bytecodes: not while a model
loads for a minute. So the C handler writes each signal's number into a socket, at once and as often
as it came, and a thread of our own acts on what it reads. Listening begins before anything slow
is imported, so a signal that comes early stops the line as soon as there is one.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

CANCELLING = (signal.SIGINT, signal.SIGTERM)
# A terminal that goes away says so, and its shell may say so again: that is not a second Ctrl-C.
HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
_DONE = b"\0"
_SAME = 0.1
"""Seconds within which the same signal is the first one still: ``timeout -s INT`` and other wrappers pass on
to their child what a terminal has sent to the whole group. Nobody presses Ctrl-C twice as quickly."""

_sockets: tuple[socket.socket, socket.socket] | None = None


def listen() -> tuple[socket.socket, dict[int, Any]]:
    """Record signals from now on; return where to read them, and the handlers there were.

    For the main thread. A hangup is recorded unless it is to be ignored (nohup).
    """
    global _sockets
    if _sockets is None:
        _sockets = socket.socketpair()
        _sockets[1].setblocking(False)
        signal.set_wakeup_fd(_sockets[1].fileno(), warn_on_full_buffer=False)
    previous: dict[int, Any] = {}
    for number in CANCELLING if HANGUP is None else (*CANCELLING, HANGUP):
        if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN:
            previous[number] = signal.signal(number, _heard)
    return _sockets[0], previous


def _heard(_number: int, _frame: FrameType | None) -> None:
    """Be there: without a handler of Python's nothing is written."""


@contextmanager
def signals(
    first: Callable[[], None], second: Callable[[], None], hangup: Callable[[], None] | None = None
) -> Iterator[None]:
    """Call ``first`` on the first signal and ``second`` on the next, both in a thread of their own.

    ``hangup`` is called on each SIGHUP instead (None: it counts as a first signal). To be used in the main
    thread. The previous handlers return at the end. The same signal again within 0.1 s counts once.
    """
    global _sockets
    received, previous = listen()

    def act() -> None:
        wanted: tuple[int | None, ...] = (*CANCELLING, HANGUP)
        before, until = _DONE, 0.0
        for action in (first, second):
            while (number := received.recv(1)) != _DONE:
                if hangup is not None and number[0] == HANGUP:
                    hangup()
                elif number[0] in wanted and (number != before or time.monotonic() > until):
                    break
            if number == _DONE:
                return
            before, until = number, time.monotonic() + _SAME
            action()
            wanted = CANCELLING

    thread = threading.Thread(target=act, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        assert _sockets is not None
        _sockets[1].send(_DONE)
        thread.join()
        signal.set_wakeup_fd(-1)
        for end in _sockets:
            end.close()
        _sockets = None
