"""A stream's connection to its source: in which state it is, and when a lost one is tried again.

::

    connecting ──▶ live ◀──▶ stalled            a picture came; none has come for STALLED_SECONDS
      ▲   │          │          │
      │   ▼          ▼          ▼
      └─ backing_off, auth_failed               a wait, longer with each failure
                     │
                     ├──▶ ended                 at its end, when stopped, or where no try could help
                     └──▶ paused                on purpose, until it is resumed

One thread (the stream's capture) moves it on; any may read it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from pipeline.errors import SourceError

log = logging.getLogger(__name__)

State = Literal["connecting", "live", "stalled", "backing_off", "auth_failed", "ended", "paused"]
STATES: tuple[State, ...] = get_args(State)

STALLED_SECONDS = 2.0
"""Without a picture a live stream is called stalled after so long, or after ten of its intervals, which the
first two pictures tell."""
STABLE_SECONDS = 30.0
"""A stream that ran for so long begins again with the shortest wait."""
_AT_LEAST = {"not_found": 5.0, "format": 5.0, "permission": 5.0, "certificate": 5.0}
"""Seconds to wait where the other side did answer, and another answer is not to be expected soon."""
_AUTH_SECONDS, _AUTH_MOST = 60.0, 3600.0
"""Cameras lock an account after some five refusals in a few minutes."""
_HOPELESS = frozenset({"hardware"})


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before the first new try, doubled for each further one up to ``most``.

    Each wait is drawn from its upper half ("equal jitter"; Brooker, Exponential Backoff And Jitter, 2015), so
    that many streams of one server that was restarted do not come back at the same moment.
    """

    first: float = 1.0
    most: float = 30.0

    def seconds(self, cause: str, failures: int, draw: Callable[[], float] = random.random) -> float:
        """The wait after ``failures`` in a row, at least 1, the last for ``cause``; ``draw`` is in [0, 1)."""
        first, most = (_AUTH_SECONDS, _AUTH_MOST) if cause == "auth" else (self.first, self.most)
        doubled = first * 2.0 ** min(failures - 1, 60)
        longest = min(max(doubled, _AT_LEAST.get(cause, 0.0)), max(most, _AT_LEAST.get(cause, 0.0)))
        drawn = longest * (0.5 + 0.5 * draw())
        return max(drawn, _AUTH_SECONDS) if cause == "auth" else drawn


class Episodes(NamedTuple):
    """How often a state was entered, and for how many seconds in all it held up to now."""

    times: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """A link at one moment. Times are seconds; ``retry_in`` is None unless it waits."""

    state: State
    for_seconds: float
    failures_in_a_row: int
    """0 where it is not lost; one that ended or was paused while it was keeps them."""
    retry_in: float | None
    lost_for: float | None
    """Since it could not be opened, or the last picture before it was lost, up to its end; None where it is
    not lost."""
    since_picture: float | None
    """Since the last picture came; None before the first."""
    error: str | None
    """Why it was lost last; redacted."""
    episodes: dict[State, Episodes]
    """Of each state that it has been in."""


class Link:
    """The connection of one stream. ``backoff`` None: one that is lost is not tried again."""

    def __init__(
        self,
        stream: str,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.stream = stream
        self.backoff = backoff
        self.failures: Counter[str] = Counter()
        """Each time that it could not be opened or was lost, by cause."""
        self.reconnects: Counter[str] = Counter()
        """Each time that it was live again, by what had ended it before."""
        self._clock, self._draw = clock, draw
        self._lock = threading.Lock()
        self._state: State = "connecting"
        self._since = clock()
        self._times: Counter[State] = Counter()
        self._seconds: dict[State, float] = {}
        """Of both, what was before the state that it is in, which is none before anything was tried."""
        self._live_since: float | None = None
        self._lost_at: float | None = None
        self._lost_for = ""
        self._tries = 0
        """Failures since the last picture."""
        self._in_a_row = 0
        """And since it last ran for STABLE_SECONDS."""
        self._auth_in_a_row = 0
        self._retry_at: float | None = None
        self._refused_until: float | None = None
        """A refused password is not tried before, whatever happens to the stream meanwhile."""
        self._error: str | None = None
        self._watched = False
        self._last_picture: float | None = None
        self._interval: float | None = None
        """Between two pictures, of late; None before there were two. It outlives a loss."""
        self._declared: float | None = None
        """The same, as the source says; None: it does not."""
        self._patience = STALLED_SECONDS
        """For how long a second picture is waited for where nothing is declared."""
        self._goes_elsewhere = False
        """Renewed, while pictures of the old one came: what is known of those holds until it is left."""
        self._held = False
        self._changing: State | None = None
        """What it is from the end of its connection on, within a change."""
        self._put_off: State | None = None
        """What it is at the end of a change that leads to no other connection."""

    @property
    def state(self) -> State:
        """As of now: a live stream of which nothing is heard is stalled without anybody's doing."""
        with self._lock:
            return self._now()[0]

    @property
    def up(self) -> bool:
        """Whether pictures come."""
        return self.state == "live"

    def refused(self) -> float:
        """It begins anew with the same password: the seconds that are left of the wait after a refusal."""
        with self._lock:
            left = (self._refused_until or 0.0) - self._clock()
            if self._refused_until is None or left <= 0:
                return 0.0
            self._enter("auth_failed")
            self._retry_at = self._refused_until
            return left

    def connecting(self) -> None:
        """The source is being opened."""
        with self._lock:
            self._put_off = None
            self._enter("connecting")

    @contextmanager
    def changing(self, to: State) -> Iterator[None]:
        """Within the block its connection is ended to have it paused, or for the sake of another one
        (connecting): no end, and no pause, unless there is no other one."""
        with self._lock:
            self._changing, self._put_off = to, None
        try:
            yield
        finally:
            self._changed()

    def expect(self, declared_fps: float | None, stall_timeout: float) -> None:
        """The source is open: what it declares of its pictures, and for how long it may be silent."""
        self._declared = 1 / declared_fps if declared_fps else None
        self._patience = max(STALLED_SECONDS, stall_timeout)

    def picture(self, live: bool, at: float | None = None) -> None:
        """A picture came, ``at`` (None: now); ``live``: the next ones come by themselves, so that their
        absence is a stall."""
        now = self._clock() if at is None else at
        if self._state == "live":  # the one that runs for each picture
            assert self._last_picture is not None
            took = now - self._last_picture
            if took >= STALLED_SECONDS and self._watched:
                self._look_for_stall(now)
            if self._interval is None:  # the first pictures may come in one burst
                self._interval = max(took, self._declared or 0.0)
            else:
                self._interval += 0.1 * (took - self._interval)
            self._last_picture = now
            return
        with self._lock:
            self._enter("live")
            self._live_since, self._last_picture, self._watched = now, now, live
            again, tries, lost_at = self._lost_for, self._tries, self._lost_at
            if again:
                self.reconnects[again] += 1
            self._lost_for, self._lost_at, self._tries = "", None, 0
        if lost_at is not None:
            word = "live again" if again else "live"
            # None since it was changed, though it had been lost before.
            failures = f" and {tries} failure{'s' * (tries != 1)}" if tries else ""
            log.info("stream %s: %s, after %.1f s%s", self.stream, word, now - lost_at, failures)

    def holds(self, held: bool) -> None:
        """No other picture is asked for until the line has taken the last one, which is no stall."""
        with self._lock:
            if self._held and not held and self._last_picture is not None:
                self._last_picture = self._clock()
            self._held = held

    def failed(self, error: SourceError) -> float | None:
        """It could not be opened, or was lost: the seconds to wait; None where no try is to be made."""
        backoff = self.backoff
        with self._lock:
            now = self._clock()
            self.failures[error.cause] += 1
            self._error = str(error)
            if self._state == "live" and self._live_since is not None:
                if now - self._live_since >= STABLE_SECONDS:
                    self._in_a_row = self._auth_in_a_row = 0
                self._lost_for = error.cause
            if self._lost_at is None:
                last = self._last_picture if self._state == "live" else None
                self._lost_at = now if last is None else last
            self._in_a_row += 1
            self._tries += 1
            refused = error.cause == "auth"
            self._auth_in_a_row = self._auth_in_a_row + 1 if refused else 0
            if backoff is None or error.cause in _HOPELESS:
                return None
            failures = self._auth_in_a_row if refused else self._in_a_row
            wait = backoff.seconds(error.cause, failures, self._draw)
            self._enter("auth_failed" if refused else "backing_off")
            self._retry_at = now + wait
            self._refused_until = self._retry_at if refused else None
            tries, lost_for = self._tries, now - self._lost_at
        # A camera that is gone for a month should not fill the log: its loss is told, and tries 2, 4, 8, …
        level = logging.WARNING if tries & (tries - 1) == 0 else logging.DEBUG
        kept = " only, so that the camera does not lock the account" if refused else ""
        so_far = f" (try {tries}, {lost_for:.1f} s without it)" if tries > 1 else ""
        log.log(level, "stream %s: %s; trying again in %.1f s%s%s", self.stream, error, wait, kept, so_far)
        return wait

    def renewed(self) -> None:
        """It goes elsewhere, with another password, or is added anew: what failed before says nothing of
        that."""
        with self._lock:
            self._in_a_row = self._auth_in_a_row = self._tries = 0
            if self._state == "ended" and self._lost_at is not None:
                self._lost_at = self._since  # nobody waited for it then
            self._error = self._refused_until = None
            self._goes_elsewhere = self._state == "live"
            if not self._goes_elsewhere:
                self._interval = None

    def ended(self) -> None:
        """It is over."""
        self._close("ended")

    def paused(self) -> None:
        """It is closed until it is resumed."""
        self._close("paused")

    def _changed(self) -> None:
        with self._lock:
            self._changing = None
            if self._put_off is not None:
                self._enter(self._put_off)

    def _close(self, state: State) -> None:
        with self._lock:
            self._put_off = state if self._changing else None
            self._enter(self._changing or state)

    def status(self) -> LinkStatus:
        """A consistent snapshot."""
        with self._lock:
            now = self._clock()
            state, since = self._now()
            until = since if state in ("ended", "paused") else now
            return LinkStatus(
                state,
                now - since,
                0 if self._lost_at is None else self._in_a_row,
                max(0.0, self._retry_at - now) if self._retry_at is not None else None,
                None if self._lost_at is None else until - self._lost_at,
                None if self._last_picture is None else now - self._last_picture,
                self._error,
                self._episodes(now),
            )

    def _episodes(self, now: float) -> dict[State, Episodes]:
        times, seconds = Counter(self._times), dict(self._seconds)
        self._spent(now, times, seconds)
        return {state: Episodes(times[state], seconds.get(state, 0.0)) for state in STATES if times[state]}

    def _spent(self, now: float, times: Counter[State], seconds: dict[State, float]) -> None:
        """Add what the present state has taken; a stall is part of what began as live."""
        state, since = self._at(now)
        if state != self._state:
            times[state] += 1
            seconds[self._state] = seconds.get(self._state, 0.0) + since - self._since
        seconds[state] = seconds.get(state, 0.0) + now - since

    def _look_for_stall(self, now: float) -> None:
        """A picture came late: where that was a stall, it is live from now."""
        with self._lock:
            if self._at(now)[0] == "stalled":
                self._spent(now, self._times, self._seconds)
                self._times["live"] += 1
                self._since = now

    def _now(self) -> tuple[State, float]:
        return self._at(self._clock())

    def _at(self, now: float) -> tuple[State, float]:
        """The state, and since when."""
        if self._state == "live" and self._watched and not self._held and self._last_picture is not None:
            interval = self._declared if self._interval is None else self._interval
            wait = self._patience if interval is None else max(STALLED_SECONDS, 10 * interval)
            stalls_at = self._last_picture + wait
            if now >= stalls_at:
                return "stalled", stalls_at
        return self._state, self._since

    def _enter(self, state: State) -> None:
        self._retry_at = None
        if state != self._state or not self._times:
            log.debug("stream %s: %s → %s", self.stream, self._state, state)
            now = self._clock()
            if self._state in ("paused", "ended") and self._lost_at is not None:
                self._lost_at = min(now, self._lost_at + now - self._since)  # nobody missed it meanwhile
            self._spent(now, self._times, self._seconds)
            self._times[state] += 1
            self._held = False  # whoever held it up may have been given up in the middle of that
            if self._goes_elsewhere:
                self._goes_elsewhere, self._interval = False, None
            self._state, self._since = state, now
