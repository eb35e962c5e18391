"""Ctrl-C and SIGTERM: the first one drains, the second one cancels; SIGHUP may mean something else.

Python runs its own handlers in the main thread only, between two bytecodes: not while a model
loads for a minute. So the C handler writes each signal's number into a socket, at once and as often
as it came; a thread of our own reads them, and another acts on them. Listening begins before anything
slow is imported, so a signal that comes early stops the line as soon as there is one; another one ends
the process there and then.
"""

from __future__ import annotations

import math
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
"""The exit code of a process that was asked twice."""
CANCELLING = (signal.SIGINT, signal.SIGTERM)
# A terminal that goes away says so, and its shell may say so again: that is not a second Ctrl-C.
HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
_DONE = 0
SAME_SECONDS = 0.1
"""Seconds within which another signal is the first one still: ``timeout -s INT`` passes on to its child what
a terminal has sent to the whole group, foreman sends SIGTERM then. Nobody presses Ctrl-C twice as quickly."""


def _on_terminal() -> bool:
    """Whether there is one that SIGHUP would come from, wherever standard error goes."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))  # not on Windows
    except OSError:
        return False
    return True


ON_TERMINAL = _on_terminal()
"""Whether the process began on a terminal, which may be closed before anything else asks."""


class Presses:
    """Tells a signal that somebody sent from the one before, passed on."""

    def __init__(self) -> None:
        self._until = -math.inf

    def counts(self, at: float) -> bool:
        """Whether what came ``at`` that time (monotonic seconds) is one by itself."""
        if at <= self._until:
            return False
        self._until = at + SAME_SECONDS
        return True


@dataclass(slots=True)
class _Listening:
    """Signals that are recorded."""

    heard: SimpleQueue[tuple[int, float]] = field(default_factory=SimpleQueue)
    """Their numbers, and when they came; _DONE at the end."""
    sockets: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)
    acted_on: bool = False
    """Whether somebody acts on what is heard. Under ``lock``, so that each signal is acted on once."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.sockets[1].setblocking(False)
        self.thread = threading.Thread(target=self._read, name="listen", daemon=True)
        self.thread.start()

    def _read(self) -> None:
        """Take down when each came, which whoever acts on them may get to know later. As long as nobody does,
        nothing is open that would have to be finished: a second one ends the process."""
        number, presses, asked = -1, Presses(), False
        while number != _DONE:
            (number,) = self.sockets[0].recv(1)
            at = time.monotonic()
            with self.lock:
                self.heard.put((number, at))
                if number in CANCELLING and not self.acted_on and presses.counts(at):
                    if asked:
                        os._exit(CANCELLED)
                    asked = True

    def end(self) -> None:
        self.sockets[1].send(bytes((_DONE,)))
        self.thread.join()
        for each in self.sockets:
            each.close()


_listening: _Listening | None = None


def listen(acted_on: bool = False) -> tuple[SimpleQueue[tuple[int, float]], dict[int, Any]]:
    """Record signals from now on; return where they are read, and the handlers there were.

    For the main thread. A hangup is recorded unless it is to be ignored (nohup). Until it is ``acted_on``, a
    second signal ends the process.
    """
    global _listening
    begun = _listening is not None
    if _listening is None:
        _listening = _Listening()
    with _listening.lock:
        _listening.acted_on = acted_on
    if not begun:
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
    thread. The previous handlers return at the end. What comes within 0.1 s of the first is one with it.
    """
    global _listening
    heard, previous = listen(acted_on=True)

    def act() -> None:
        wanted: tuple[int | None, ...] = (*CANCELLING, HANGUP)
        presses = Presses()
        for action in (first, second):
            while (said := heard.get())[0] != _DONE:
                number, at = said
                if hangup is not None and number == HANGUP:
                    hangup()
                elif number in wanted and presses.counts(at):
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
        assert _listening is not None
        signal.set_wakeup_fd(-1)
        _listening.end()
        thread.join()
        _listening = None
