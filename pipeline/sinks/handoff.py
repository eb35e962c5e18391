"""A sink with a thread of its own: a slow disk or a reader that does not read holds up nobody else.

A few results wait for the thread. Who brings one never waits: all streams and outputs have that thread in
common. When there is no room for one more,

* a result of a live stream takes the place of an older one, which is counted, for however long; when the sink
  goes on so does this;
* a file waits at its own source, before it takes the next picture, so that nothing is lost and no other
  stream held up. What the line has of files by then comes on top of the capacity: no more than its channels
  and stages hold. Half the room is for files even where live streams, which never wait, fill all of it.
  After ``patience`` seconds without progress the sink counts as stuck, and is lost; so it is at the end of
  the line, whatever waits for it. Once the line was asked to end, that is GRACE_SECONDS.

Nor is the sink given what has grown too old meanwhile (``expired``), of files as of live streams: the thread
drops that when its turn comes.

What is dropped here is in the next ``dropped_before`` of its stream: the sink's own account stays true.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass

from pipeline.errors import SinkWriteError
from pipeline.frame import Result
from pipeline.sinks.base import Sink
from pipeline.sinks.output import Expired, Lost, Output

log = logging.getLogger(__name__)

GRACE_SECONDS = 20.0
"""For a sink without progress when the line was asked to end; service managers kill after 30 s or more."""
ABORT_GRACE_SECONDS = 2.0
"""The same when the line was cancelled."""
TELL_SECONDS = 60.0
"""The log tells no more often that a sink is too slow."""
LEAST_CAPACITY, MOST_CAPACITY, BYTES = 8, 64, 64_000_000
"""Results that wait: as many as have so many bytes of pictures, a second of 720p: a live video misses nothing
while a busy machine gives the encoder no turn. Small ones come faster than threads wake."""


@dataclass(slots=True, eq=False)
class _Item:
    stream: str
    result: Result | None
    """None: the stream was removed, and this comes after all of it."""
    dropped_before: int = 0
    live: bool = False


class HandOff(Output):
    """Gives results to a sink in a thread of its own."""

    def __init__(
        self,
        name: str,
        sink: Sink,
        lost: Lost,
        patience: float | None = None,
        expired: Expired | None = None,
    ) -> None:
        """``patience``: seconds that a file, or the line's end, waits for a sink without progress; None: as
        long as it takes."""
        super().__init__(name, sink, lost, expired)
        self._patience = patience
        self._items: deque[_Item] = deque()
        self._in_hand: _Item | None = None
        """What the sink is writing now; None, too, once that is in the books."""
        self._aged: Counter[str] = Counter()
        """Frames that are missing before the first result of those that wait, by stream: those before it were
        too old. (``_owed`` are those before the next one that is put.)"""
        self._files = 0  # of the items, those that are of no live stream
        self._capacity = MOST_CAPACITY
        self._lock = threading.Lock()
        self._ready, self._changed = threading.Condition(self._lock), threading.Condition(self._lock)
        self._progress_at = 0.0
        """When the sink last ended a call, or was given something to do."""
        self._busy = False
        self._dropping = 0  # results in this spell of being too slow
        self._told, self._tell_after = False, 0.0
        self._hurried_at: float | None = None
        self._waits: dict[threading.Event, float] = {}  # files for room, by what stops them: since when
        self._cancelled = self._ending = self._aborting = self._ended = self._given_up = False
        self._thread = threading.Thread(target=self._run, name=f"sink:{name}", daemon=True)

    def start(self) -> None:
        """Start its thread."""
        self._thread.start()
        self.thread = self._thread.ident

    def put(self, result: Result, dropped_before: int, live: bool) -> None:
        """Leave a result for the thread, at once; see the module."""
        with self._lock:
            fit = BYTES // max(3 * result.frame.width * result.frame.height, 1)
            if fit < self._capacity:  # the largest pictures count, of whatever stream
                self._capacity = max(LEAST_CAPACITY, fit)
            fits = not live or len(self._items) < self._capacity or self._evict()
            self._owed[result.stream] += dropped_before
            if fits and not self.errors:
                self._append(_Item(result.stream, result, self._owed.pop(result.stream), live))
            else:
                self._drop(result.stream)
                self._owed[result.stream] += 1

    def wait_for_room(self, stop: threading.Event) -> None:
        """Hold a file up while there is no room. Returns, too, where the sink is lost, the line cancelled, or
        ``stop`` set and :meth:`look_again` called."""
        if self._has_room():  # nearly always: without the lock
            return
        stuck = None
        with self._lock:
            self._waits[stop] = time.monotonic()
            try:
                while not (self._has_room() or self._given_up or self._cancelled or stop.is_set()):
                    limit = self._limit(self._patience)
                    if limit is not None and limit <= 0:
                        stuck = self._stuck()
                    else:
                        self._changed.wait(limit)
            finally:
                del self._waits[stop]
        if stuck is not None:
            self._lose(stuck)

    def look_again(self) -> None:
        """A file was stopped: it need not wait for room."""
        with self._lock:
            if self._waits:
                self._changed.notify_all()

    def waited(self) -> float | None:
        """Seconds that a file has waited for room, the one that has waited longest; None: none waits."""
        with self._lock:
            return time.monotonic() - min(self._waits.values()) if self._waits else None

    def idle(self) -> None:
        """It is not told."""

    def release(self, stream: str) -> None:
        """A stream was removed: the thread is told when it has written what waits."""
        with self._lock:
            if not self.errors:
                self._append(_Item(stream, None))

    def hurry(self) -> None:
        """From now on it may make no progress for GRACE_SECONDS."""
        with self._lock:
            self._hurried_at = self._hurried_at or time.monotonic()
            self._changed.notify_all()

    def wake(self) -> None:
        """Nobody waits for room any more."""
        with self._lock:
            self._cancelled = True
            self._changed.notify_all()

    def begin_end(self, abort: bool) -> None:
        """Let the thread write what waits, or drop it, and finish the sink."""
        if self._thread.ident is None:
            super().begin_end(abort)
            return
        with self._lock:
            self._ending, self._aborting = True, abort
            if abort:
                self._clear()
            if not self._busy or abort:
                self._progress_at = time.monotonic()
            self._ready.notify()

    def end(self) -> None:
        """Wait for the thread; one that is stuck is left behind, and the sink is lost."""
        if self._thread.ident is None:
            return
        with self._lock:
            while not self._ended:
                # One that failed has nothing left to do but to close.
                patience = min(GRACE_SECONDS, self._patience or math.inf) if self.errors else self._patience
                limit = 0.0 if self._given_up else self._limit(patience)
                if limit is not None and limit <= 0:
                    if not self.errors:
                        self.errors.append(self._stuck())
                    self._clear()
                    self._settle(self.dropped)  # whatever may become of it
                    log.warning("the thread of output %s does not answer and is left behind", self.name)
                    return
                self._changed.wait(limit)
        self._thread.join()

    # With the lock held -----------------------------------------------------------------------

    def _append(self, item: _Item) -> None:
        self._items.append(item)
        self._files += not item.live
        if not self._busy:
            self._busy = True
            self._progress_at = time.monotonic()
            self._ready.notify()

    def _has_room(self) -> bool:
        """For files."""
        return len(self._items) < self._capacity or self._files < self._capacity // 2

    def _evict(self) -> bool:
        """Drop the oldest live result of the stream that has most here: a fast one evicts no slow one. False
        where there is none."""
        waiting = Counter(item.stream for item in self._items if item.live)
        if not waiting:
            return False  # files have all the room
        ((stream, _),) = waiting.most_common(1)
        oldest, *later = (item for item in self._items if item.live and item.stream == stream)
        self._items.remove(oldest)
        self._drop(stream)
        self._owed[stream] += 1 + oldest.dropped_before
        if later:
            later[0].dropped_before += self._owed.pop(stream)
        return True

    def _limit(self, patience: float | None) -> float | None:
        """Seconds that the sink may still take over what it is doing; None: no limit."""
        since = self._progress_at
        if self._aborting:
            patience = ABORT_GRACE_SECONDS
        elif self._hurried_at is not None:
            since, patience = max(since, self._hurried_at), GRACE_SECONDS
        return None if patience is None else since + patience - time.monotonic()

    def _stuck(self) -> SinkWriteError:
        self._given_up = True
        seconds = time.monotonic() - self._progress_at
        return SinkWriteError(
            f"output {self.name} made no progress for {seconds:.0f} s and was given up with "
            f"{len(self._items)} results waiting for it; look at its disk, or at the program that reads it"
        )

    def _drop(self, stream: str) -> None:
        """Count a result that the sink was too slow for."""
        self.dropped[stream] += 1
        self._dropping += 1
        now = time.monotonic()
        if now < self._tell_after or self._told or self.errors or self._cancelled:
            return
        self._told, self._tell_after = True, now + TELL_SECONDS
        log.warning("output %s is too slow; results are dropped for it, and counted", self.name)

    def _clear(self) -> None:
        for item in self._items:
            self.dropped[item.stream] += item.result is not None
        self._items.clear()
        self._files = 0
        self._changed.notify_all()

    def _settle(self, book: Counter[str]) -> None:
        """What is in the sink's hands goes into a book, once."""
        if self._in_hand is not None:
            book[self._in_hand.stream] += self._in_hand.result is not None
            self._in_hand = None

    def _next(self) -> _Item | None:
        """What is to be written, after what is in hand has been; waits for it. None at the end."""
        with self._lock:
            kept_up = True  # nothing has grown too old behind what was in hand
            waited_for_it = self._in_hand is not None
            if self._in_hand is not None:
                self._settle(self.written)
                self._progress_at = time.monotonic()
            while True:
                while not (self._items or self._ending or self.errors):
                    self._busy = waited_for_it = False
                    if kept_up:  # an empty queue is no sign of it where age has emptied it
                        self._caught_up()
                    self._ready.wait()
                if not self._items or self.errors:
                    return None
                item = self._items.popleft()
                self._files -= not item.live
                # One who waits is woken for several: a wake costs more than a quick sink takes.
                if self._waits and min(len(self._items), 2 * self._files) <= self._capacity // 2:
                    self._changed.notify_all()
                if item.result is None or self._expired is None or not self._expired(item.result):
                    break
                self._aged[item.stream] += 1 + item.dropped_before
                if waited_for_it:
                    kept_up = False
                    self._drop(item.stream)
                else:  # it came that old, to a sink that had nothing to do
                    self.dropped[item.stream] += 1
            if self._aged and item.result is not None:
                item.dropped_before += self._aged.pop(item.stream, 0)
            self._in_hand = item
            return item

    def _caught_up(self) -> None:
        if self._told and self._dropping:
            log.warning("output %s has caught up; it missed %d results", self.name, self._dropping)
            self._told = False
        self._dropping = 0

    # The sink's thread ------------------------------------------------------------------------

    def _run(self) -> None:
        while (item := self._next()) is not None:
            try:
                if item.result is None:
                    self.sink.release(item.stream)
                else:
                    self.sink.write(item.result, item.dropped_before)
            except BaseException as error:
                with self._lock:
                    self._settle(self.dropped)
                self._lose(error)
                break
        with self._lock:
            self._progress_at = time.monotonic()
        try:
            super().begin_end(self._aborting)
        except BaseException as error:  # a SystemExit would end the thread unheard
            self._lose(error)
        with self._lock:
            self._ended = True
            self._changed.notify_all()

    def _lose(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            error = RuntimeError(f"{type(error).__name__}: {error}")
        with self._lock:
            first = not self.errors
            self.errors.append(error)
            self._clear()
            self._ready.notify()
            tell = first and not self._ending
        if tell:
            self._lost(error)
