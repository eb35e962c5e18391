"""The threads of a stage: take, call, hand on."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.flow.channel import Channel
from pipeline.flow.merge import Merge
from pipeline.flow.outlet import Cancelled, EndOfStream
from pipeline.flow.turnstile import Turnstile

if TYPE_CHECKING:
    from pipeline.flow.flow import Flow


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a stage yields in place of an item that it gives up, with the reason (one word)."""

    item: Any
    reason: str


class Target(Protocol):
    """Where a stage puts its results: a channel, or what chooses one."""

    def put_all(self, items: Sequence[Any]) -> Sequence[Any]:
        """Hand over ``items`` in order; return those that nobody will ever take."""

    def forgo(self, items: Sequence[Any]) -> None:
        """``items`` were on their way here and have been given up."""

    def close(self) -> None:
        """No more will come."""


_FREE: AbstractContextManager[object] = nullcontext()

Call = Callable[[list[Any]], list[Any]]
Expired = Callable[[Any], str | None]
"""Why an item is not worth any more work, in one word; None where it is."""
Source = Channel[Any] | Merge[Any]


HAND_SECONDS = 0.002
"""Work that a worker may have in hand where its stage takes more than a call's items: waking threads for
each item costs more than a cheap item's work, and a dear one must not wait for others."""


CHEAP_SECONDS = 0.0001
"""Work on an item below which a stage is cheap: cheap stages work one at a time, with the flow's baton.

They hold the interpreter's lock nearly all the time, so they cannot run side by side anyway; and each native
call that lets go of it (a resize, a run of a small model) has to win it back from the others, which
costs more than the call. With a model that does nothing, 64x48 pictures and two cores: 9,850 frames/s
and 109 µs of CPU a frame, against 5,700 and 202 without (interleaved, medians).
"""


class Crew:
    """The workers of a stage; the last one to leave closes the next channel."""

    def __init__(self, count: int, target: Target, varies: bool) -> None:
        self._varies = varies
        self._lock = threading.Lock()
        self.size = self._count = count
        self._target = target
        self._least_seconds = 1.0

    @property
    def cheap(self) -> bool:
        """Whether an item takes less than CHEAP_SECONDS, and the next one will, too."""
        return self._least_seconds < CHEAP_SECONDS and not self._varies

    def served(self, item_seconds: float) -> None:
        """An item took so long. The least of late counts: more is often the wait for the interpreter."""
        self._least_seconds = min(1.2 * self._least_seconds, max(item_seconds, 1e-9))

    def leave(self) -> None:
        """A worker has ended."""
        with self._lock:
            self._count -= 1
            last = self._count == 0
        if last:
            self._target.close()


class Worker:
    """One thread of a stage."""

    def __init__(
        self,
        flow: Flow,
        name: str,
        call: Call,
        source: Source,
        target: Target,
        turnstile: Turnstile[Any, Any] | None,
        crew: Crew,
        limit: int,
        limit_live: int,
        linger: float,
        most: int,
        demand: Channel[Any] | None,
    ) -> None:
        self._flow = flow
        self._name = name
        self._call = call
        self._source = source
        self._target = target
        self._turnstile = turnstile
        self._crew = crew
        self._limit, self._limit_live = limit, limit_live
        self._linger = linger
        self._most = 1 if linger else max(1, most // limit)
        self._demand = demand
        self._spare = crew.size - 1
        """All of the crew may be at work, also where others ended without keeping their last promise."""
        self.stage = name
        self.since: float | None = None
        """When the call began that it is in (perf_counter seconds); None while it is in none."""
        self._calls = 1
        """How many calls' items are taken in one go: as many as are served in HAND_SECONDS."""

    def run(self) -> None:
        """Serve until there is nothing more to do; a failure is the flow's."""
        observer = self._flow.observer
        try:
            while self._serve():
                pass
        except BaseException as error:  # also SystemExit: a thread that ends unheard leaves the line waiting
            self._flow.fail(self._name, error)
        finally:
            self._crew.leave()
            observer.retired(self._name, time.thread_time())

    def _take(self) -> list[Any]:
        if self._demand is not None:
            # One is made ready ahead while the line keeps up: then it waits for a worker alone.
            ahead = self._spare + (not self._source.behind) if self._flow.live else math.inf
            self._demand.promise(ahead)
        calls = 1 if self._flow.live else self._calls
        return self._source.take(self._at_once() * calls, self._linger)

    def _at_once(self) -> int:
        """How many items a call gets at most."""
        return self._limit_live if self._flow.live else self._limit

    def _serve(self) -> bool:
        """Take, call, hand on. False when there is nothing more to do."""
        ticket = 0
        try:
            if self._turnstile is None:
                items = self._take()
            else:
                ticket, items = self._turnstile.enter(self._take)
        except (EndOfStream, Cancelled):
            return False
        with self._flow.baton if self._crew.cheap else _FREE:
            results = self._results_of(items)
        if self._turnstile is None:
            self._deliver(results)
        else:
            try:
                self._turnstile.leave(ticket, results, self._deliver)
            except Cancelled:
                self._flow.drop(self._name, results)
        return True

    def _results_of(self, items: list[Any]) -> list[Any]:
        """What the calls return, so many items to each."""
        observer, results, served = self._flow.observer, [], 0
        limit = self._at_once()
        expired = self._flow.expired
        self.since = began = started = time.perf_counter()
        try:
            for start in range(0, len(items), limit):
                part = items[start : start + limit]
                if expired is not None:
                    checked = _checked(expired, part)
                    results += [each for each in checked if type(each) is Dropped]
                    part = [each for each in checked if type(each) is not Dropped]
                    if not part:
                        continue
                answers = self._call(part)
                if len(answers) != len(part):
                    raise RuntimeError(f"took {len(part)} items and returned {len(answers)}")
                ended = time.perf_counter()
                observer.served(self._name, part, ended - started)
                self.since = started = ended
                served += len(part)
                # Again behind the work: what grew too old in it must not be told of the stage that follows.
                results += answers if expired is None else _checked(expired, answers)
        except BaseException:
            for item in items:
                observer.dropped(self._name, item, "failed")
            raise
        finally:
            self.since = None
        if not served:
            return results
        seconds = started - began
        self._crew.served(seconds / served)
        if self._most > 1:
            calls = -(-served // limit)
            a_call = max(seconds / calls, 1e-9)
            self._calls = max(1, min(self._most, int(HAND_SECONDS / a_call)))
        return results

    def _deliver(self, results: list[Any]) -> None:
        """Hand on; once cancelled, count what is left (the next take ends the worker)."""
        given_up = [result for result in results if type(result) is Dropped]
        if given_up:
            self._flow.drop(self._name, given_up)
            results = [result for result in results if type(result) is not Dropped]
        self._flow.drop(self._name, self._target.put_all(results))
        if given_up:
            self._target.forgo([each.item for each in given_up])
        if self._demand is not None:
            self._demand.settle()


def _checked(expired: Expired, items: Sequence[Any]) -> list[Any]:
    """``items``, with a Dropped in the place of each that has expired."""
    return [
        item if type(item) is Dropped or (reason := expired(item)) is None else Dropped(item, reason)
        for item in items
    ]
