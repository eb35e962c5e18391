"""Order for parallel workers: items leave in the order in which they were taken, those of each lane.

A worker takes its items and draws a ticket in one step, works, and leaves through the turnstile once nothing
of the same lanes is before it: streams do not wait for each other's slow items. A worker that is ready
before its turn lays its results down and takes new work, unless as much lies there as others work on: then
it waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from pipeline.flow.outlet import Cancelled

T = TypeVar("T")
R = TypeVar("R")


class Turnstile(Generic[T, R]):
    """For so many ``workers``. ``lane`` says of what items one is; None: all are of one."""

    def __init__(self, workers: int, lane: Callable[[T], Hashable] | None = None) -> None:
        self._most_ready = workers - 1
        self._lane = lane
        self._entry = threading.Lock()
        self._issued = 0
        self._changed = threading.Condition()
        self._inside: dict[int, frozenset[Hashable]] = {}
        """Lanes of the items that have not left, by ticket; in the order of tickets."""
        self._ready: dict[int, list[R]] = {}
        self._delivering = False
        self._cancelled = False

    def enter(self, take: Callable[[], list[T]]) -> tuple[int, list[T]]:
        """Take and draw a ticket as one step. Whatever ``take`` raises comes through."""
        with self._entry:
            items = take()
            ticket = self._issued
            self._issued += 1
            lanes: frozenset[Hashable] = frozenset([None] if self._lane is None else map(self._lane, items))
            with self._changed:
                self._inside[ticket] = lanes
            return ticket, items

    def leave(self, ticket: int, results: list[R], deliver: Callable[[list[R]], None]) -> None:
        """Have ``results`` delivered when their turn comes, by this thread or by another one.

        ``deliver`` is called outside the lock by one thread at a time and may block (that is
        back-pressure). Raises Cancelled with ``results`` still the caller's, or what
        ``deliver`` raises.
        """
        with self._changed:
            while len(self._ready) >= self._most_ready and not (self._cancelled or self._due(ticket)):
                self._changed.wait()
            if self._cancelled:
                raise Cancelled
            self._ready[ticket] = results
            if self._delivering:
                return
            self._delivering = True
        while True:
            with self._changed:
                due = next(filter(self._due, self._ready), None)
                if due is None or self._cancelled:
                    self._delivering = False
                    return
                leaving = self._ready.pop(due)
            deliver(leaving)
            with self._changed:
                del self._inside[due]
                self._changed.notify_all()

    def _due(self, ticket: int) -> bool:
        """Whether no earlier ticket is inside that has a lane of this one's."""
        lanes = self._inside[ticket]
        for earlier, theirs in self._inside.items():
            if earlier == ticket:
                break
            if not lanes.isdisjoint(theirs):
                return False
        return True

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
