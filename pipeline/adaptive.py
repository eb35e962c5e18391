"""Ages held to a target: of each live stream so many frames are let into the line as keep results that fresh.

A line that has more frames than it can do drops the oldest, and stays within some three service times of
age; but it is busy all the time then, and each frame waits for others. With fewer frames it does not. How
few is not known beforehand: it depends on the model, on what else the machine does and on what the decoders
take.

So it is tried, in windows of two seconds. Where the 99th percentile of ages exceeds the target, frames are
left out, as many as take the rate to four fifths of what came through. Where it stays well below the target
for some windows, some more are let in. A try that fails makes the next one wait twice as long: so the line
settles instead of swinging, and still finds out when there is room again. Where fewer frames are no
fresher, they are let in again.

Frames are left out by ``every_nth``, one stream after the other: of the one that has most of its frames let
in, and let in again of the one that has fewest. So no stream is thinned out more than it takes, and steps
are small with many.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from statistics import median

from pipeline.histogram import Histogram
from pipeline.lane import Lane

log = logging.getLogger(__name__)

WINDOW_SECONDS, LONGEST_WINDOW_SECONDS = 2.0, 5.0
ENOUGH = 20
"""Results that make a window, unless that takes too long."""
ROOM = 0.7
"""Share of the target under which there may be room for more: between the two nothing is changed."""
AT_ONCE = 1.5
"""Times the target from which one window is enough to leave out frames; else it takes two."""
FEWER, MORE = 0.8, 1.25
"""Shares of the rate that it is changed to, if steps as small as that can be had."""
PATIENCE, MOST_PATIENCE = 3, 96
"""Windows of room before more is let in; doubled by each try that failed."""
TRIAL = 8
"""Windows that a try has to hold."""
CHANGED = 0.6
"""Share of the usual age under which something has changed for the better, and patience is at an end."""
KEEPS_UP = 0.9
"""Share of the frames let in that come out where none is dropped for want of time."""
FRESHER = 0.85
"""Times the ages before, where it helped to leave out frames."""


class Adaptive:
    """Chooses ``every_nth`` of all lanes, so that the p99 of ages stays within ``target`` seconds."""

    def __init__(self, target: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.target = target
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes: list[Lane] = []
        self._began = clock()
        self._due = self._began + WINDOW_SECONDS
        self._settling = False
        self._over = self._calm = self._better = self._trial = 0
        self._patience = PATIENCE
        self._before_trial: dict[Lane, int] = {}
        self._usual: float | None = None
        self._seen: deque[float] = deque(maxlen=5)
        """p99 of the last windows, since it exceeds the target and since the last change."""
        self._reference: tuple[float, float, dict[Lane, int]] | None = None
        """Usual p99, frames let in per second and ``every_nth`` since which nothing has grown fresher."""
        self._in_vain, self._in_vain_for, self._told = 0.0, 0, False

    def add(self, lane: Lane) -> None:
        """Choose for that one, too; again does no harm."""
        with self._lock:
            if lane not in self._lanes:
                lane.begin(1.0)
                self._lanes.append(lane)
                lane.tick = self.tick

    def remove(self, lane: Lane) -> None:
        """Nothing more comes by that one."""
        with self._lock:
            if lane in self._lanes:
                self._lanes.remove(lane)
                lane.tick = None
                self._before_trial.pop(lane, None)
                self._reference = None

    def tick(self) -> None:
        """A frame came, of any stream: decide, where that is due."""
        if self._clock() < self._due or not self._lock.acquire(blocking=False):
            return
        try:
            self._look()
        finally:
            self._lock.release()

    def _look(self) -> None:
        now = self._clock()
        seconds = now - self._began
        if sum(lane.results() for lane in self._lanes) < ENOUGH and seconds < LONGEST_WINDOW_SECONDS:
            self._due = now + WINDOW_SECONDS / 4
            return
        ages = Histogram()
        for lane in self._lanes:
            recent = lane.begin(seconds)
            if lane.fps:  # not those of files, which wait as long as they have to
                ages.add(recent)
        self._began, self._due = now, now + WINDOW_SECONDS
        # In the window after a change there are ages from before it.
        if self._settling:
            self._settling = False
        else:
            self._decide(ages.quantile(0.99), ages.count / seconds)

    def _decide(self, p99: float | None, through: float) -> None:
        """``p99`` seconds of age (None: nothing came out, for long), ``through`` results per second."""
        self._in_vain_for -= self._in_vain_for > 0
        if p99 is None or p99 > self.target:
            self._calm, self._over = 0, self._over + 1
            if p99 is not None:
                self._seen.append(p99)
            if self._over > 1 or p99 is None or p99 > AT_ONCE * self.target:
                self._let_in_fewer(p99, through)
            return
        self._over = 0
        self._seen.clear()
        if self._trial:
            self._trial -= 1
            if not self._trial:
                self._patience = max(PATIENCE, self._patience // 2)
        self._compare(p99)
        self._calm = self._calm + 1 if p99 <= ROOM * self.target else 0
        if self._calm >= self._patience:
            self._let_in_more(p99)

    def _compare(self, p99: float) -> None:
        """Lose no patience with tries that failed while the machine had other things to do."""
        usual = self._usual if self._usual is not None else p99
        self._better = self._better + 1 if p99 < CHANGED * usual else 0
        if self._better >= PATIENCE:
            self._patience, self._usual, self._better = PATIENCE, p99, 0
        elif not self._better:
            self._usual = usual + 0.1 * (p99 - usual)

    def _let_in_fewer(self, p99: float | None, through: float) -> None:
        before = self._every_nth()
        if self._trial:
            self._patience = min(2 * self._patience, MOST_PATIENCE)
            self._set(self._before_trial)
            self._reference = None
        elif self._is_in_vain(p99, through):
            return
        else:
            let_in = self._let_in()
            wanted = FEWER * (let_in if p99 is None else min(let_in, through))
            while self._let_in() > wanted:
                lane = max(self._lanes, key=lambda each: each.kept_fps if each.every_nth < each.most else 0)
                if lane.every_nth >= lane.most:
                    break
                lane.every_nth += 1
            if self._every_nth() == before:
                self._complain(p99, "and hardly any frame is let in")
        self._changed(before, p99)

    def _complain(self, p99: float | None, why: str) -> None:
        level, self._told = logging.DEBUG if self._told else logging.WARNING, True
        log.log(level, "%s, target %.0f ms: not to be had, %s", _age(p99), 1000 * self.target, why)

    def _is_in_vain(self, p99: float | None, through: float) -> bool:
        """Whether half as many frames made nothing fresher: then those are let in again."""
        let_in = self._let_in()
        # Frames that are still dropped for want of time make ages what they are.
        if p99 is None or through < KEEPS_UP * let_in:
            return False
        if self._in_vain_for and p99 <= AT_ONCE * self._in_vain:
            return True
        usual = median(self._seen)
        if self._reference is None or usual <= FRESHER * self._reference[0]:
            self._reference = usual, let_in, self._every_nth()
            return False
        _, before, every_nth = self._reference
        if let_in > before / 2:
            return False
        current = self._every_nth()
        self._set(every_nth)
        self._changed(current, p99)
        self._reference, self._in_vain, self._in_vain_for = None, usual, MOST_PATIENCE
        self._complain(p99, "fewer frames are no fresher")
        return True

    def _every_nth(self) -> dict[Lane, int]:
        return {lane: lane.every_nth for lane in self._lanes}

    def _set(self, every_nth: dict[Lane, int]) -> None:
        for lane, wanted in every_nth.items():
            lane.every_nth = wanted

    def _let_in_more(self, p99: float) -> None:
        before, self._told = self._every_nth(), False
        most = MORE * self._let_in()
        while thinned := [lane for lane in self._lanes if lane.every_nth > 1]:
            lane = min(thinned, key=lambda each: each.kept_fps)
            lane.every_nth -= 1
            if self._let_in() > most:
                if any(each.every_nth < before[each] for each in self._lanes if each is not lane):
                    lane.every_nth += 1
                break
        self._changed(before, p99)
        if self._settling:
            self._trial, self._before_trial = TRIAL, before

    def _let_in(self) -> float:
        """Frames per second, of all lanes."""
        return sum(lane.kept_fps for lane in self._lanes)

    def _changed(self, before: dict[Lane, int], p99: float | None) -> None:
        changed = [lane for lane in self._lanes if lane.every_nth != before[lane]]
        if not changed:
            return
        self._settling, self._usual = True, None
        self._seen.clear()
        self._over = self._calm = self._better = self._trial = 0
        told = ", ".join(f"{lane.stream} {before[lane]} → {lane.every_nth}" for lane in changed)
        log.info("%s, target %.0f ms: every_nth of %s", _age(p99), 1000 * self.target, told)


def _age(p99: float | None) -> str:
    return "no results" if p99 is None else f"p99 age {1000 * p99:.0f} ms"
