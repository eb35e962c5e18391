"""Bounded hand-offs between threads.

A :class:`Channel` joins two stages; a :class:`Merge` joins several channels, one per stream,
to one taker and serves them in turn. Both end the same two ways, with no sentinels:

* ``close()``: no more puts; takers drain what is there, then get :class:`EndOfStream`.
* ``cancel()``: what is there is cleared and reported as dropped, both sides wake and get
  :class:`Cancelled`.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.flow.outlet import Cancelled, OnDrop, Outlet, T

if TYPE_CHECKING:
    from pipeline.flow.merge import Merge

OF_LATE = 16
"""Items over which the usual interval is averaged, more or less."""

Policy = Literal["block", "drop_oldest"]


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """``depth`` and ``high_watermark`` in items, the counts since the channel was made."""

    name: str
    capacity: int
    depth: int
    high_watermark: int
    puts: int
    drops: int


class Channel(Outlet[T]):
    """A bounded first-in-first-out hand-off. All methods may be called from any thread.

    ``policy`` says what ``put`` does when ``capacity`` items wait: ``block`` makes the putter
    wait (nothing is lost), ``drop_oldest`` discards what has waited. It may be changed until the first put.

    A ``drop_oldest`` channel that is full is behind: it keeps the freshest item alone, until its taker
    waits for items again. So a burst that the taker can work off loses nothing; but a taker that is too
    slow finds items of the putter's last period, since a queue that always stands only adds to their age.
    """

    def __init__(
        self,
        name: str,
        capacity: int,
        policy: Policy = "block",
        on_drop: OnDrop[T] | None = None,
        merge: Merge[T] | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"channel {name!r}: expected a capacity of at least 1, got {capacity}")
        super().__init__(on_drop)
        self.name = name
        self.capacity = capacity
        self.policy = policy
        self._merge = merge
        if merge is not None:
            self._lock, self._ready = merge._lock, merge._ready
        self._space = threading.Condition(self._lock)
        self._items: deque[T] = deque()
        self._closed = False
        self._high_watermark = 0
        self._puts = 0
        self._drops = 0
        self._blocked = 0
        self._window: int | None = None
        self._outside = 0
        self._has_turn = False
        self._behind = False
        self._promised = 0
        # In a merge: the round that it was served in last; when its latest item came, where the newest wins,
        # and how long after the one before they usually do.
        self._round = 0
        self._came = self._interval = math.inf

    def promise(self, spare: int = 0) -> None:
        """Wait until the taker waits for an item that nobody has promised, and promise one.

        Whoever promises calls :meth:`settle` once. ``spare``: so many more may be promised, or lie here,
        than are waited for. For a channel of which one takes at a time. Raises Cancelled if nobody will
        ever take it.
        """
        with self._lock:
            while not (self._cancelled or self._closed):
                if len(self._items) + self._promised < self._asked + spare:
                    self._promised += 1
                    return
                self._space.wait()
        raise Cancelled

    def settle(self) -> None:
        """A promise has been kept, or cannot be. Where there is none, none was asked for: the taker's flow
        was not live then."""
        if not self._promised:
            return
        with self._lock:
            self._promised = max(0, self._promised - 1)
            self._space.notify_all()

    def put(self, item: T) -> None:
        """Hand over ``item``. Raises Cancelled if nobody will ever take it; it is then the caller's."""
        if self.put_all([item]):
            raise Cancelled

    def put_all(self, items: Sequence[T]) -> Sequence[T]:
        """Hand over ``items`` in order; return those that nobody will ever take (after cancel or close).

        One hold of the lock and one wake of the taker for as many as there is space for.
        """
        evicted: list[T] = []
        waiting = self._items
        done = 0
        with self._lock:
            while done < len(items):
                if self.policy == "block":
                    while len(waiting) >= self.capacity and not (self._cancelled or self._closed):
                        self._blocked += 1
                        try:
                            self._space.wait()
                        finally:
                            self._blocked -= 1
                if self._cancelled or self._closed:
                    break
                if self._behind and not waiting and (self._merge or self)._asked:
                    self._behind = False
                if len(waiting) >= (1 if self._behind else self.capacity):
                    evicted += waiting
                    self._drops += len(waiting)
                    waiting.clear()
                    self._behind = True
                waiting.append(items[done])
                done += 1
                if self._merge is not None:
                    if self.policy == "drop_oldest":
                        self._comes(self._merge.clock())
                    if not self._has_turn:
                        self._merge._offer(self)
                self._puts += 1
                if len(waiting) > self._high_watermark:
                    self._high_watermark = len(waiting)
                self._ready.notify()
        for item in evicted:
            self._on_drop(item, "drop_oldest")
        return items[done:]

    def forgo(self, items: Sequence[T]) -> None:
        """Nothing here is for items that never came."""

    def take_while(self, wanted: Callable[[T], bool]) -> list[T]:
        """Take the items at the head that are ``wanted``, without waiting. For its only taker."""
        taken: list[T] = []
        with self._lock:
            while self._items and wanted(self._items[0]):
                taken.append(self._pop())
            if self._merge is not None:
                self._outside += len(taken)
                if taken and not self._items and self._has_turn:
                    self._merge._withdraw(self)
        return taken

    def resize(self, capacity: int) -> None:
        """Change the capacity; items beyond a smaller one stay until they are taken."""
        with self._lock:
            self.capacity = capacity
            self._space.notify_all()

    def narrow(self, window: int) -> None:
        """Change how many of its items may be outside; for a channel that is still empty."""
        with self._lock:
            self._window = window

    def release(self) -> None:
        """An item that the merge handed out has reached its end: the window has room for another."""
        with self._lock:
            self._outside -= 1
            if self._merge is not None and not self._has_turn:
                self._merge._offer(self)
                self._ready.notify()

    def close(self) -> None:
        """No more puts; a putter that waits gets Cancelled. May be called again."""
        with self._lock:
            self._closed = True
            self._ready.notify_all()
            self._space.notify_all()

    def cancel(self) -> None:
        """Clear, report every cleared item as dropped (reason ``cancelled``) and wake both sides."""
        with self._lock:
            self._cancelled = True
            cleared = list(self._items)
            self._items.clear()
            self._drops += len(cleared)
            self._ready.notify_all()
            self._space.notify_all()
        for item in cleared:
            self._on_drop(item, "cancelled")

    @property
    def behind(self) -> bool:
        """Whether it ran over, and the taker has not caught up since."""
        return self._behind

    @property
    def back_pressure(self) -> bool:
        """Whether somebody waits for space right now."""
        return self._blocked > 0

    def statistics(self) -> ChannelStatistics:
        """A consistent snapshot."""
        with self._lock:
            return ChannelStatistics(
                self.name, self.capacity, len(self._items), self._high_watermark, self._puts, self._drops
            )

    def _comes(self, now: float) -> None:
        interval, self._came = now - self._came, now
        usual = self._interval
        if interval >= 0:  # not the first
            self._interval = interval if usual == math.inf else usual + (interval - usual) / OF_LATE

    def _available(self) -> bool:
        return bool(self._items)

    def _pop(self) -> T:
        item = self._items.popleft()
        self._space.notify_all()  # who waits to put and who waits to promise are not the same
        return item

    def _ask(self, count: int) -> None:
        super()._ask(count)
        if count:
            self._space.notify_all()

    def _finished(self) -> bool:
        return self._closed

    def _done(self) -> bool:
        return self._closed and not self._items

    @property
    def done(self) -> bool:
        """Whether it is closed and drained."""
        with self._lock:
            return self._done()

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {len(self._items)}/{self.capacity}, {self.policy})"
