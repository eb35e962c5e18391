"""The taking side of a hand-off between threads, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

OnDrop = Callable[[T, str], None]
"""Called with an item that the channel discards and the reason; never under the channel's lock."""


class EndOfStream(Exception):  # noqa: N818 - an ending, not an error
    """A closed channel has been drained."""


class Cancelled(Exception):  # noqa: N818 - an ending, not an error
    """The channel was cancelled, or closed while somebody still wanted to put."""


def _ignore(_item: object, _reason: str) -> None:
    """For channels whose drops nobody counts (tests)."""


class Outlet(Generic[T]):
    """The taking side, shared by a channel alone and by a merge of several."""

    def __init__(self, on_drop: OnDrop[T] | None) -> None:
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._cancelled = False
        self._on_drop: OnDrop[T] = on_drop or _ignore
        self._asked = 0
        """How many items the taker waits for right now."""

    def take(self, limit: int = 1, linger: float = 0.0, patience: float | None = None) -> list[T]:
        """Block for one item, take what is ready up to ``limit``, wait at most ``linger`` s for more.

        Waits at most ``patience`` s for the first one (None: as long as it takes), then returns
        an empty list. Raises EndOfStream when closed and drained, Cancelled when cancelled.
        """
        taken: list[T] = []
        deadline = 0.0
        with self._lock:
            while not self._cancelled:
                while len(taken) < limit and self._available():
                    taken.append(self._pop())
                if len(taken) >= limit or (taken and linger <= 0):
                    return taken
                if self._finished():
                    if taken:
                        return taken
                    raise EndOfStream
                if not taken:
                    self._ask(limit)
                    came = self._ready.wait(patience)
                    self._ask(0)
                    if not came:
                        return taken
                    continue
                # Lingering: the items are in hand already, so that their places in the channel
                # are free for the ones that are waited for.
                now = time.monotonic()
                deadline = deadline or now + linger
                if now >= deadline:
                    return taken
                self._ask(limit - len(taken))
                self._ready.wait(deadline - now)
                self._ask(0)
        for item in taken:
            self._on_drop(item, "cancelled")
        raise Cancelled

    def _available(self) -> bool:
        raise NotImplementedError

    def _pop(self) -> T:
        raise NotImplementedError

    def _ask(self, count: int) -> None:
        """The taker begins to wait for ``count`` items, or (0) has ended waiting."""
        self._asked = count

    def _finished(self) -> bool:
        raise NotImplementedError
