"""Threads joined by channels: start, drain, cancel, failure. Standard library only.

How a flow ends:

* **Drain.** A feeder's iterator ends, its channel closes; each stage drains its channel and
  closes the next one; the consumer sees the end. Nothing is lost.
* **Cancel.** Every channel is cleared, everybody wakes; what was waiting or in hand is reported
  to the observer as dropped with the reason ``cancelled``.
* **Failure.** An exception in any feeder, stage or consumer gets a note with its stage, is
  recorded and cancels the whole flow; what the failing stage had in hand is dropped with the
  reason ``failed``. ``raise_errors()`` raises them as one ExceptionGroup, after the joins.

Every item that is fed ends in exactly one call of the observer: ``emitted`` or ``dropped``.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.flow.channel import Channel, ChannelStatistics, Policy
from pipeline.flow.merge import Merge
from pipeline.flow.outlet import Cancelled, EndOfStream
from pipeline.flow.patience import Patience
from pipeline.flow.turnstile import Turnstile
from pipeline.flow.worker import Call, Dropped, Expired, Source, Stage, Target, Worker

IDLE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Busy:
    """A thread that has been in one call of its stage for so many ``seconds``."""

    thread: str
    stage: str
    seconds: float


class Observer(Protocol):
    """Told of everything that happens to items. Called from many threads, never under a lock."""

    def fed(self, stage: str, item: Any) -> None:
        """``item`` entered the flow."""

    def served(self, stage: str, items: list[Any], seconds: float) -> None:
        """``stage`` took ``seconds`` of wall time over ``items`` together."""

    def dropped(self, stage: str, item: Any, reason: str) -> None:
        """``item`` left the flow unfinished."""

    def emitted(self, stage: str, item: Any) -> None:
        """``item`` left the flow finished."""

    def retired(self, stage: str, cpu_seconds: float) -> None:
        """A thread of ``stage`` ended, having used so much CPU time itself."""


class Flow:
    """Builds, runs and ends the threads of one line: stages added before ``start``, feeders at any time."""

    def __init__(self, observer: Observer, expired: Expired | None = None) -> None:
        """``expired`` is asked about each item before and after a stage's work with it; one that has
        is dropped there for the reason given: it expired while it waited for that stage, or in it."""
        self.observer = observer
        self.expired = expired
        self.errors: list[Exception] = []
        self.live = False
        """Whether a fresher item may take the place of one that waits: then what waits stays where it may."""
        self.baton = threading.Lock()
        """Held by a cheap stage while it works (see CHEAP_SECONDS), and by nobody who waits for a channel."""
        self.consumer: int | None = None
        """The thread that took results last (its ident)."""
        self.writers: set[int] = set()
        """Those of outputs, which frames wait for, too."""
        self._channels: list[Channel[Any]] = []
        self._resizable: list[Channel[Any]] = []
        self._merges: list[Merge[Any]] = []
        self._turnstiles: list[tuple[str, Turnstile[Any, Any]]] = []
        self._feeders: list[tuple[threading.Thread, Channel[Any]]] = []
        self._workers: list[threading.Thread] = []
        self._serving: list[tuple[threading.Thread, Worker]] = []
        self._consuming: tuple[threading.Thread, str, float] | None = None
        self._lock = threading.Lock()
        self._clearing = threading.Lock()
        self._cancelled = False
        self._on_cancel: list[Callable[[], None]] = []
        self._started = False

    # Building ---------------------------------------------------------------------------------

    def merge(self, stage: str, one_each: bool = False) -> Merge[Any]:
        """A fair merge; what it drops counts against ``stage``. ``one_each``: see :class:`Merge`."""
        merge: Merge[Any] = Merge(self._on_drop(stage), one_each)
        self._merges.append(merge)
        return merge

    def channel(
        self,
        name: str,
        stage: str,
        capacity: int,
        policy: Policy = "block",
        merge: Merge[Any] | None = None,
        window: int | None = None,
        fixed: bool = False,
    ) -> Channel[Any]:
        """A channel whose drops count against ``stage``, alone or as a member of ``merge``.

        ``window``: see :meth:`Merge.channel`. A ``fixed`` one keeps its capacity when the others
        are resized.
        """
        on_drop = self._on_drop(stage)
        channel: Channel[Any]
        if merge is None:
            channel = Channel(name, capacity, policy, on_drop)
        else:
            channel = merge.channel(name, capacity, policy, on_drop, window)
        with self._lock:
            if self._started:  # those of feeders that were taken off
                self._channels = [each for each in self._channels if not each.done]
                self._resizable = [each for each in self._resizable if not each.done]
            self._channels.append(channel)
            if not fixed:
                self._resizable.append(channel)
            late = self._cancelled
        if late:
            channel.cancel()
        return channel

    def feed(
        self, stage: str, name: str, iterate: Callable[[], Iterator[Any]], target: Channel[Any]
    ) -> threading.Thread:
        """Add a thread ``name`` that puts what ``iterate()`` yields into ``target``, then closes that.

        It starts with the flow, or at once where that runs already.
        """
        thread = threading.Thread(target=self._feeder, args=(stage, iterate, target), name=name, daemon=True)
        with self._lock:
            if self._started:
                self._feeders = [each for each in self._feeders if each[0].is_alive()]
                thread.start()
            self._feeders.append((thread, target))
        return thread

    def stage(
        self,
        name: str,
        calls: Sequence[Call],
        source: Source,
        target: Target,
        limit: int = 1,
        limit_live: int | None = None,
        linger: float = 0.0,
        most: int = 1,
        varies: bool = False,
        demand: Channel[Any] | None = None,
        lane: Callable[[Any], Hashable] | None = None,
    ) -> None:
        """Add a stage with one worker thread per entry of ``calls``: a list in, a list out, same order.

        A call gets up to ``limit`` items, ``limit_live`` while the flow is live (None: as many); up to
        ``most`` are taken in one go while it is not, and served by several calls, where those are quick (see
        HAND_SECONDS). One whose work ``varies`` from item to item never counts as cheap (see CHEAP_SECONDS).
        With ``demand``, its target, a worker of a live flow takes only when that channel's taker waits (and
        one more ahead, unless the source is behind): the items stay where a fresher one may still replace
        them.

        The output order is the order of taking, whatever the number of workers: that of the items which are
        of one ``lane``, so that those of others don't wait for a slow one; None: of all. An entry of a call's
        result may be :class:`Dropped`.
        """
        turnstile: Turnstile[Any, Any] | None = None
        if len(calls) > 1:
            turnstile = Turnstile(len(calls), lane)
            self._turnstiles.append((name, turnstile))
        stage = Stage(
            name, source, target, len(calls), turnstile, limit, limit_live, linger, most, varies, demand
        )
        for number, call in enumerate(calls):
            worker = Worker(self, stage, call)
            label = name if len(calls) == 1 else f"{name}-{number}"
            thread = threading.Thread(target=worker.run, name=label, daemon=True)
            self._workers.append(thread)
            self._serving.append((thread, worker))

    # Running ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every thread, takers before feeders."""
        for merge in self._merges:
            merge.seal()
        with self._lock:
            self._started = True
            for thread in [*self._workers, *(thread for thread, _ in self._feeders)]:
                thread.start()

    @property
    def waits_for_this_thread(self) -> bool:
        """Whether results wait until this thread takes or writes them: it must not wait for frames itself."""
        me = threading.get_ident()
        return me == self.consumer or me in self.writers

    def consume(
        self, stage: str, source: Source, call: Call, limit: int = 1, idle: Callable[[], None] | None = None
    ) -> Iterator[Any]:
        """Serve the last stage in the caller's thread; yield what it returns, until the end.

        ``idle`` is called whenever nothing has come for a tenth of a second.

        Ends quietly at the end of the stream, on cancellation and after a failure elsewhere
        (``raise_errors`` then raises). A caller that stops iterating cancels the flow.
        """
        hand: list[Any] = []
        drained = False
        me = threading.current_thread()
        cpu_started = time.thread_time()
        try:
            while True:
                self.consumer = threading.get_ident()
                hand = source.take(limit, patience=None if idle is None else IDLE_SECONDS)
                if not hand and idle is not None:
                    try:
                        idle()
                    except Exception as error:
                        self.fail(stage, error)
                        break
                hand.reverse()
                while hand:
                    item = hand[-1]
                    if self.expired is not None and (reason := self.expired(item)) is not None:
                        hand.pop()
                        self.observer.dropped(stage, item, reason)
                        continue
                    started = time.perf_counter()
                    self._consuming = me, stage, started
                    try:
                        results = call([item])
                    except Exception as error:
                        hand.pop()
                        self.observer.dropped(stage, item, "failed")
                        self.fail(stage, error)
                        raise Cancelled from None
                    self._consuming = None
                    self.observer.served(stage, [item], time.perf_counter() - started)
                    hand.pop()
                    self.observer.emitted(stage, item)
                    yield from results
        except EndOfStream:
            drained = True
        except Cancelled:
            pass
        finally:
            for item in hand:
                self.observer.dropped(stage, item, "cancelled")
            if not drained:
                self.cancel()
            self._consuming = None
            self.observer.retired(stage, time.thread_time() - cpu_started)

    def fail(self, stage: str, error: BaseException) -> None:
        """Record ``error`` as raised in ``stage`` and cancel the flow.

        What is no Exception (a SystemExit, say) would end a thread unheard; it is recorded as a
        RuntimeError.
        """
        if not isinstance(error, Exception):
            error = RuntimeError(f"{type(error).__name__}: {error}")
        error.add_note(f"raised in stage {stage!r}")
        with self._lock:
            self.errors.append(error)
        self.cancel()

    def drop(self, stage: str, results: Sequence[Any]) -> None:
        """Report results that will not be handed on: given up by the stage itself, or cancelled."""
        for result in results:
            if type(result) is Dropped:
                self.observer.dropped(stage, result.item, result.reason)
            else:
                self.observer.dropped(stage, result, "cancelled")

    def cancel(self) -> None:
        """Give up everything that is under way. May be called from any thread, more than once."""
        with self._lock:
            self._cancelled = True
        with self._clearing:  # see join_workers
            for _, turnstile in self._turnstiles:
                turnstile.cancel()
            for merge in self._merges:
                merge.cancel()
            for channel in self._channels:
                channel.cancel()
        for tell in self._on_cancel:
            tell()

    def on_cancel(self, tell: Callable[[], None]) -> None:
        """Call ``tell`` when the flow is cancelled. Before it starts; for those who wait elsewhere."""
        self._on_cancel.append(tell)

    @property
    def cancelled(self) -> bool:
        """Whether the flow was cancelled, by a failure or by its owner."""
        with self._lock:
            return self._cancelled

    def abandon_feeders(self, grace: float) -> list[str]:
        """Wait ``grace`` seconds for the feeders; close the channels of those that are still blocked.

        For feeders that were asked to stop and sit in a native call: the rest of the line can
        then drain and end without them. One that waits for space in its channel is not blocked: it
        ends when its item is taken. Returns the names of the threads that were given up.
        """
        deadline = time.monotonic() + grace
        with self._lock:
            feeders = list(self._feeders)
        return [
            thread.name
            for thread, channel in feeders
            if not self.await_feeder(thread, channel, deadline - time.monotonic())
        ]

    def await_feeder(
        self, thread: threading.Thread, channel: Channel[Any], grace: float, most: float = math.inf
    ) -> bool:
        """As :meth:`abandon_feeders`, for one; whether it ended. One that waits for space has ``most``
        seconds: its item is dropped then."""
        begun = time.monotonic()
        until = begun + grace
        while thread.is_alive():
            if channel.back_pressure:  # it answers as soon as its frame is taken
                until = min(max(until, time.monotonic() + grace), begun + max(grace, most))
            if time.monotonic() >= until:
                channel.close()
                return False
            thread.join(0.05)
        return True

    def join_workers(self) -> None:
        """Join the stages' threads: they end once drained or cancelled, after the call that they are in."""
        for thread in self._workers:
            if thread.ident is not None:
                thread.join()
        with self._clearing:  # whoever cancels may still be reporting what was cleared
            pass
        for stage, turnstile in self._turnstiles:
            self.drop(stage, turnstile.leftovers())

    def raise_errors(self) -> None:
        """Raise what was recorded, as one ExceptionGroup. To be called after ``join``."""
        with self._lock:
            errors = list(self.errors)
        if errors:
            raise ExceptionGroup("the line failed", errors)

    def resize(self, capacity: int) -> None:
        """Give every channel this capacity, but those of a fixed one."""
        for channel in self._resizable:
            channel.resize(capacity)

    def busy(self) -> list[Busy]:
        """The threads that are in a call of their stage right now."""
        now = time.perf_counter()
        calls = [(thread, worker.stage.name, worker.since) for thread, worker in self._serving]
        if (consuming := self._consuming) is not None:
            calls.append(consuming)
        return [Busy(thread.name, stage, now - since) for thread, stage, since in calls if since is not None]

    def statistics(self) -> list[ChannelStatistics]:
        """Of every channel."""
        return [channel.statistics() for channel in self._channels]

    # Threads ----------------------------------------------------------------------------------

    def _feeder(self, stage: str, iterate: Callable[[], Iterator[Any]], target: Channel[Any]) -> None:
        hand: Any = None
        items, patience = None, Patience()
        try:
            patience.set(not self.live)  # those of a decoder that is opened here, too
            items = iterate()
            for hand in items:
                if patience.holds is self.live:
                    patience.set(not self.live)
                if type(hand) is Dropped:
                    self.observer.fed(stage, hand.item)
                    self.observer.dropped(stage, hand.item, hand.reason)
                    continue
                self.observer.fed(stage, hand)
                try:
                    target.put(hand)
                except Cancelled:
                    self.observer.dropped(stage, hand, "cancelled")
                    break
        except BaseException as error:
            self.fail(stage, error)
        finally:
            # The iterator releases what it opened in this thread, not when it is collected.
            close = getattr(items, "close", None)
            if close is not None:
                try:
                    close()
                except BaseException as error:
                    self.fail(stage, error)
            target.close()
            self.observer.retired(stage, time.thread_time())

    def _on_drop(self, stage: str) -> Callable[[Any, str], None]:
        def on_drop(item: Any, reason: str) -> None:
            self.observer.dropped(stage, item, reason)

        return on_drop
