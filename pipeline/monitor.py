"""One thread that looks after the line: stages that are stuck, streams that stall, the service manager."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self

from pipeline.accounts import Accounts
from pipeline.flow import Busy, Flow
from pipeline.link import LinkStatus, State
from pipeline.notify import notify, watchdog_seconds

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
RUNS_MODELS = ("infer", "classify")
"""The stages whose calls open a model afresh, or wait until another one is."""
HEALING_SECONDS = 600.0
"""So much longer a call may take in which the model is opened afresh: an engine is built for minutes."""
AGES_SECONDS = 5.0
"""So long may no result be young enough before the log says so."""
STALLS_SECONDS = 3600.0
"""After so long without one that was told, a stall is told whatever their number is."""
UNDAMAGED_SECONDS = 60.0
"""After so long without a damaged picture, those of before are told of as over."""


class Monitored(Protocol):
    """What is looked after: the running pipeline."""

    @property
    def accounts(self) -> Accounts:
        """The books."""

    @property
    def flow(self) -> Flow | None:
        """None until the line has started."""

    @property
    def healing(self) -> bool:
        """Whether a model is being opened afresh right now."""

    @property
    def waited_for(self) -> Mapping[str, float]:
        """Outputs that files wait for right now, and for how many seconds."""


class Monitor:
    """Looks twice a second, while its context is open.

    A call of a stage that takes longer than ``limit`` seconds is stuck: it is reported once, with the stack
    of every thread, and ``stuck`` names it until it returns. One in which a model is opened afresh has
    HEALING_SECONDS more; waiting for an output that nobody reads, as files do for ever, is a warning.
    """

    def __init__(self, line: Monitored, limit: float, tick: float = TICK_SECONDS) -> None:
        self.stuck: list[str] = []
        """The threads that are stuck right now, with their stage and for how long."""
        self._line, self._limit = line, limit
        wanted = watchdog_seconds()
        self._tick = min(tick, limit / 4, wanted / 3 if wanted is not None else tick)
        self._told_manager = wanted is not None
        self._done = threading.Event()
        self._reported: set[str] = set()
        self._warned = self._told_of_ages = False
        self._ages, self._ages_at = (0, 0), time.monotonic()
        """Results, and frames that were too old for one, when that was looked at last."""
        self._stalls: dict[str, Stalls] = {}
        self._damage: dict[str, Damages] = {}
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)

    def __enter__(self) -> Self:
        _tell(READY=1, STATUS="running")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        _tell(STOPPING=1)

    def _run(self) -> None:
        while not self._done.wait(self._tick):
            self._look_for_stuck_stages()
            self._look_at_streams()
            self._look_at_damage()
            self._look_at_ages()
            if self._told_manager and not self.stuck and self._line.flow is not None:
                _tell(WATCHDOG=1)

    def _look_for_stuck_stages(self) -> None:
        flow = self._line.flow
        busy = flow.busy() if flow is not None else []
        healing = self._line.healing
        late = [
            each
            for each in busy
            if each.seconds > self._limit
            and not (healing and each.stage in RUNS_MODELS and each.seconds <= self._limit + HEALING_SECONDS)
        ]
        waits = {name: each for name, each in self._line.waited_for.items() if each > self._limit}
        if waits:
            self._warn_of(waits)
        else:
            self._warned = False
        for each in late:
            if each.thread not in self._reported:
                self._reported.add(each.thread)
                log.critical("%s", _report(each))
        self.stuck = [f"{each.stage} (thread {each.thread}, {each.seconds:.0f} s)" for each in late]
        for name in self._reported - {each.thread for each in late}:
            self._reported.discard(name)
            log.warning("thread %s goes on", name)

    def _warn_of(self, waits: Mapping[str, float]) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "the line has waited %.0f s for output %s, so that no result of a file is lost: look at its "
                "disk, or at the program that reads it",
                max(waits.values()),
                ", ".join(waits),
            )

    def _look_at_streams(self) -> None:
        for name, account in list(self._line.accounts.streams.items()):
            self._stalls.setdefault(name, Stalls(name)).look(account.link.status())

    def _look_at_damage(self) -> None:
        for name, account in list(self._line.accounts.streams.items()):
            self._damage.setdefault(name, Damages(name)).look(account.damaged, account.corrupt_packets)

    def _look_at_ages(self) -> None:
        now = time.monotonic()
        if now < self._ages_at + AGES_SECONDS:
            return
        totals = self._line.accounts.totals()
        old = sum(count for (_, reason), count in totals.dropped.items() if reason == "too_old")
        (emitted, old_before), self._ages = self._ages, (totals.emitted, old)
        self._ages_at = now
        if totals.emitted > emitted:
            self._told_of_ages = False
        elif old > old_before and not self._told_of_ages:
            self._told_of_ages = True
            log.warning(
                "no result is young enough: in %.0f s %d frames were dropped as too old, and none came out; "
                "allow more (max_age_ms), or take a faster model",
                AGES_SECONDS,
                old - old_before,
            )


class Stalls:
    """Those of a stream: of many the 1st, 2nd, 4th, 8th … is told, and one an hour."""

    def __init__(self, stream: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._before: State = "connecting"
        self._told, self._told_at = False, -math.inf
        """Whether the log has told of the last one, and when it told of one last."""

    def look(self, status: LinkStatus) -> None:
        """What its link is now."""
        before, self._before = self._before, status.state
        if status.state == "stalled" and before != "stalled":
            now, times = self._clock(), status.episodes["stalled"].times
            self._told = times & (times - 1) == 0 or now - self._told_at >= STALLS_SECONDS
            if self._told:
                self._told_at = now
                so_far = f" (stall {times} so far)" if times > 1 else ""
                silent = status.since_picture or 0.0
                log.warning("stream %s: stalled: no picture for %.1f s%s", self._stream, silent, so_far)
        elif status.state == "live" and before == "stalled" and self._told:
            log.info("stream %s: pictures come again", self._stream)


class Damages:
    """A stream's damaged pictures: told when they begin and when they are over, however many there are."""

    def __init__(self, stream: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._seen = self._before = (0, 0)
        self._since: float | None = None
        self._last = 0.0

    def look(self, pictures: int, packets: int) -> None:
        """``pictures`` have been damaged by now, and ``packets`` came damaged."""
        now, counts = self._clock(), (pictures, packets)
        if counts != self._seen:
            if self._since is None:
                self._since, self._before = now, self._seen
                log.warning(
                    "stream %s: data is lost or damaged; pictures that it spoils are counted, and marked or "
                    "dropped where --damaged says so",
                    self._stream,
                )
            self._seen, self._last = counts, now
        elif self._since is not None and now - self._last >= UNDAMAGED_SECONDS:
            log.info(
                "stream %s: no damage for %.0f s; in the %.0f s before, %d pictures were damaged, and %d "
                "packets came damaged",
                self._stream,
                now - self._last,
                self._last - self._since,
                pictures - self._before[0],
                packets - self._before[1],
            )
            self._since = None


def _report(busy: Busy) -> str:
    """What is stuck, and where every thread is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [
        f"thread {names.get(number, number)}:\n{''.join(traceback.format_stack(frame)).rstrip()}"
        for number, frame in sys._current_frames().items()
    ]
    where = f"thread {busy.thread} has been in one call for {busy.seconds:.0f} s"
    head = f"stage {busy.stage} makes no progress: {where}; what each thread does:"
    return "\n".join([head, *stacks])


def _tell(**states: str | int) -> None:
    try:
        notify(**states)
    except OSError as error:
        log.warning("the service manager cannot be told %s: %s", ", ".join(states), error.strerror)
