"""Order for parallel workers: items leave in the order in which they were taken.

A worker takes its items and draws a ticket under one lock, works, and leaves through the
turnstile in ticket order. A worker that is ready before its turn lays its results down and
takes new work, unless it is a whole window ahead: then it waits, which bounds what lies there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from pipeline.flow.outlet import Cancelled

T = TypeVar("T")
R = TypeVar("R")


class Turnstile(Generic[T, R]):
    """``window`` is how many tickets past the next one due may lie ready: the number of workers."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._entry = threading.Lock()
        self._issued = 0
        self._changed = threading.Condition()
        self._due = 0
        self._ready: dict[int, list[R]] = {}
        self._delivering = False
        self._cancelled = False

    def enter(self, take: Callable[[], list[T]]) -> tuple[int, list[T]]:
        """Take and draw a ticket as one step. Whatever ``take`` raises comes through."""
        with self._entry:
            items = take()
            ticket = self._issued
            self._issued += 1
            return ticket, items

    def leave(self, ticket: int, results: list[R], deliver: Callable[[list[R]], None]) -> None:
        """Have ``results`` delivered when their turn comes, by this thread or by another one.

        ``deliver`` is called outside the lock by one thread at a time and may block (that is
        back-pressure). Raises Cancelled with ``results`` still the caller's, or what
        ``deliver`` raises.
        """
        with self._changed:
            while ticket >= self._due + self._window and not self._stopped():
                self._changed.wait()
            if self._stopped():
                raise Cancelled
            self._ready[ticket] = results
            if self._delivering:
                return
            self._delivering = True
        while True:
            with self._changed:
                if self._due not in self._ready or self._stopped():
                    self._delivering = False
                    return
                due = self._ready.pop(self._due)
            deliver(due)
            with self._changed:
                self._due += 1
                self._changed.notify_all()

    def _stopped(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Nothing leaves any more; waiting workers get Cancelled."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def leftovers(self) -> list[R]:
        """Remove and return the results that never left: for the books, after all workers are joined."""
        with self._changed:
            left = [result for ticket in sorted(self._ready) for result in self._ready[ticket]]
            self._ready.clear()
            return left
