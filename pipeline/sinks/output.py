"""A sink of a running line, and its books. One that fails is lost; the others need not know.

What happens then is for the line to say (``on_sink_error``): ``end`` it, or ``go_on`` without.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from pipeline.frame import Result
from pipeline.sinks.base import Sink

Expired = Callable[[Result], object]
"""Whether a result is too old by now (something true): the sink is not given it."""

Lost = Callable[[Exception], None]
"""Told of the error that cost a sink; never under a lock. It may raise that, in the thread that emits."""


class Output:
    """A sink that runs in the thread that emits: a window, a callback, what waits for nothing."""

    def __init__(self, name: str, sink: Sink, lost: Lost, expired: Expired | None = None) -> None:
        self.name = name
        self.sink = sink
        self.written: Counter[str] = Counter()
        """Results that it took, by stream."""
        self.dropped: Counter[str] = Counter()
        """Results that it did not get, by stream: they were too old, or it was full, lost, or cancelled."""
        self.errors: list[Exception] = []
        """The first is what it was lost by."""
        self.thread: int | None = None
        """The thread that writes (its ident), where that is its own."""
        self._lost = lost
        self._expired = expired
        self._owed: Counter[str] = Counter()  # frames that are missing before the next result, by stream
        self._released: deque[str] = deque()

    def start(self) -> None:
        """The line starts."""

    def put(self, result: Result, dropped_before: int, live: bool) -> None:
        """Give it a result, of a stream that is ``live`` or not. Raises what ``lost`` does."""
        if self._released and (failed := self._release()) is not None:
            self._lost(failed)
        if self.errors:
            self.dropped[result.stream] += 1
            return
        if self._expired is not None and self._expired(result):  # the outputs before this one took so long
            self.dropped[result.stream] += 1
            self._owed[result.stream] += 1 + dropped_before
            return
        if self._owed:
            dropped_before += self._owed.pop(result.stream, 0)
        try:
            self.sink.write(result, dropped_before)
        except Exception as error:
            self.dropped[result.stream] += 1
            self.errors.append(error)
            self._lost(error)
        except BaseException:  # Ctrl-C
            self.dropped[result.stream] += 1
            raise
        else:
            self.written[result.stream] += 1

    def idle(self) -> None:
        """No result has come for a while. Raises what ``lost`` does."""
        if self._released and (failed := self._release()) is not None:
            self._lost(failed)
        if self.errors:
            return
        try:
            self.sink.idle()
        except Exception as error:
            self.errors.append(error)
            self._lost(error)

    def release(self, stream: str) -> None:
        """A stream was removed, its results were put: the sink is told, in its turn. From any thread."""
        self._released.append(stream)

    def _release(self) -> Exception | None:
        """Tell the sink of streams that were removed; what it is lost by now."""
        while self._released and not self.errors:
            try:
                self.sink.release(self._released.popleft())
            except Exception as error:
                self.errors.append(error)
                return error
        return None

    def waited(self) -> float | None:
        """Seconds that a file has waited for it by now; None: none waits."""
        return None

    def hurry(self) -> None:
        """The line was asked to end: nobody waits much longer for this sink."""

    def wake(self) -> None:
        """The line was cancelled: whoever waits for room here need not."""

    def begin_end(self, abort: bool) -> None:
        """Finish the sink, or let go of it at once; an error stands in ``errors`` then."""
        try:
            if abort:
                self.sink.abort()
                return
            try:
                self._release()
            finally:
                self.sink.close()
        except Exception as error:
            self.errors.append(error)

    def end(self) -> None:
        """Wait until it is finished; with a limit where the line was asked to end."""
