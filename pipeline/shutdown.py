"""Ctrl-C and SIGTERM: the first one drains, the second one cancels.

The handler only records, because it interrupts the main thread at an arbitrary point, with
whatever lock that thread holds; a thread of its own acts on what was recorded. Recording
begins before anything slow is imported (``listen``), so a signal that comes early stops the line
as soon as there is one.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

CANCELLING = (signal.SIGINT, signal.SIGTERM)
# A terminal that goes away says so, and its shell may say so again: that is not a second Ctrl-C.
HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows

# SimpleQueue.put is reentrant: it may interrupt anything, also itself.
_received: SimpleQueue[int | None] = SimpleQueue()


def listen() -> dict[int, object]:
    """Record signals from now on; return the handlers there were. For the main thread.

    A hangup is recorded unless it is to be ignored (nohup).
    """
    previous: dict[int, object] = {}
    for number in CANCELLING if HANGUP is None else (*CANCELLING, HANGUP):
        if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN:
            previous[number] = signal.signal(number, _record)
    return previous


def _record(number: int, _frame: FrameType | None) -> None:
    _received.put(number)


@contextmanager
def signals(first: Callable[[], None], second: Callable[[], None]) -> Iterator[None]:
    """Call ``first`` on the first signal and ``second`` on the next, both outside the handler.

    To be used in the main thread. The previous handlers return at the end.
    """

    def act() -> None:
        number = _received.get()
        if number is None:
            return
        first()
        while number is not None:
            number = _received.get()
            if number in CANCELLING:
                second()
                return

    previous = listen()
    thread = threading.Thread(target=act, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        _received.put(None)
        thread.join()
        while not _received.empty():  # what came after the second one
            _received.get()
        for number, handler in previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
