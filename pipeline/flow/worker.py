"""The threads of a stage: take, call, hand on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.flow.channel import Channel
from pipeline.flow.merge import Merge
from pipeline.flow.outlet import Cancelled, EndOfStream
from pipeline.flow.patience import Patience
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


@dataclass(slots=True)
class Stage:
    """What the workers of a stage go by, and share; the last one to leave closes the next channel."""

    name: str
    source: Source
    target: Target
    workers: int
    turnstile: Turnstile[Any, Any] | None = None
    """Keeps the order, where there are several workers."""
    limit: int = 1
    """Items that a call gets at most."""
    limit_live: int | None = None
    """The same while the flow is live; None: as many."""
    linger: float = 0.0
    """Seconds that a call waits for so many."""
    most: int = 1
    """Items that are taken in one go at most, and served by several calls."""
    varies: bool = False
    """Whether the work on one item says nothing of that on the next."""
    demand: Channel[Any] | None = None
    """The channel whose taker has to wait for items before any are taken."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _gone: int = 0
    _least_seconds: float = 1.0

    @property
    def cheap(self) -> bool:
        """Whether an item takes less than CHEAP_SECONDS, and the next one will, too."""
        return self._least_seconds < CHEAP_SECONDS and not self.varies

    def served(self, item_seconds: float) -> None:
        """An item took so long. The least of late counts: more is often the wait for the interpreter."""
        self._least_seconds = min(1.2 * self._least_seconds, max(item_seconds, 1e-9))

    def leave(self) -> None:
        """A worker has ended."""
        with self._lock:
            self._gone += 1
            last = self._gone == self.workers
        if last:
            self.target.close()


class Worker:
    """One thread of a stage."""

    def __init__(self, flow: Flow, stage: Stage, call: Call) -> None:
        self.stage = stage
        self.since: float | None = None
        """When the call began that it is in (perf_counter seconds); None while it is in none."""
        self._flow, self._call = flow, call
        self._most = 1 if stage.linger else max(1, stage.most // stage.limit)
        self._calls = 1
        """How many calls' items are taken in one go: as many as are served in HAND_SECONDS."""

    def run(self) -> None:
        """Serve until there is nothing more to do; a failure is the flow's."""
        flow, observer, patience = self._flow, self._flow.observer, Patience()
        try:
            while self._serve():
                if patience.holds is flow.live:
                    patience.set(not flow.live)
        except BaseException as error:  # also SystemExit: a thread that ends unheard leaves the line waiting
            self._flow.fail(self.stage.name, error)
        finally:
            self.stage.leave()
            observer.retired(self.stage.name, time.thread_time())

    def _take(self) -> list[Any]:
        stage, live = self.stage, self._flow.live
        if live and stage.demand is not None:
            # All others may be at work, also where some ended without keeping their last promise. One is made
            # ready ahead while the line keeps up: then it waits for a worker alone.
            stage.demand.promise(stage.workers - 1 + (not stage.source.behind))
        return stage.source.take(self._at_once() * (1 if live else self._calls), stage.linger)

    def _at_once(self) -> int:
        """How many items a call gets at most."""
        stage = self.stage
        return stage.limit_live if self._flow.live and stage.limit_live is not None else stage.limit

    def _serve(self) -> bool:
        """Take, call, hand on. False when there is nothing more to do."""
        ticket, turnstile = 0, self.stage.turnstile
        try:
            if turnstile is None:
                items = self._take()
            else:
                ticket, items = turnstile.enter(self._take)
        except (EndOfStream, Cancelled):
            return False
        with self._flow.baton if self.stage.cheap else _FREE:
            results = self._results_of(items)
        if turnstile is None:
            self._deliver(results)
        else:
            try:
                turnstile.leave(ticket, results, self._deliver)
            except Cancelled:
                self._flow.drop(self.stage.name, results)
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
                observer.served(self.stage.name, part, ended - started)
                self.since = started = ended
                served += len(part)
                # Again behind the work: what grew too old in it must not be told of the stage that follows.
                results += answers if expired is None else _checked(expired, answers)
        except BaseException:
            for item in items:
                observer.dropped(self.stage.name, item, "failed")
            raise
        finally:
            self.since = None
        if not served:
            return results
        seconds = started - began
        self.stage.served(seconds / served)
        if self._most > 1:
            calls = -(-served // limit)
            a_call = max(seconds / calls, 1e-9)
            self._calls = max(1, min(self._most, int(HAND_SECONDS / a_call)))
        return results

    def _deliver(self, results: list[Any]) -> None:
        """Hand on; once cancelled, count what is left (the next take ends the worker)."""
        given_up = [result for result in results if type(result) is Dropped]
        if given_up:
            self._flow.drop(self.stage.name, given_up)
            results = [result for result in results if type(result) is not Dropped]
        self._flow.drop(self.stage.name, self.stage.target.put_all(results))
        if given_up:
            self.stage.target.forgo([each.item for each in given_up])
        if self.stage.demand is not None:
            self.stage.demand.settle()


def _checked(expired: Expired, items: Sequence[Any]) -> list[Any]:
    """``items``, with a Dropped in the place of each that has expired."""
    return [
        item if type(item) is Dropped or (reason := expired(item)) is None else Dropped(item, reason)
        for item in items
    ]
