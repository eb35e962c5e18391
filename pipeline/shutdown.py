"""Ctrl-C and SIGTERM: the first one drains, the second one cancels.

The handler only records, because it interrupts the main thread at an arbitrary point, with
whatever lock that thread holds; a thread of its own acts on what was recorded.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals(first: Callable[[], None], second: Callable[[], None]) -> Iterator[None]:
    """Call ``first`` on the first signal and ``second`` on the next, both outside the handler.

    To be used in the main thread. The previous handlers return at the end.
    """
    # SimpleQueue.put is reentrant: it may interrupt anything, also itself.
    received: SimpleQueue[int | None] = SimpleQueue()

    def record(number: int, _frame: FrameType | None) -> None:
        received.put(number)

    def act() -> None:
        for action in (first, second):
            if received.get() is None:
                return
            action()

    previous = {number: signal.signal(number, record) for number in SIGNALS}
    thread = threading.Thread(target=act, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        received.put(None)
        thread.join()
        for number, handler in previous.items():
            signal.signal(number, handler)
