"""Ages held to a target: of each live stream so many frames are let into the line as keep results that fresh.

A line that has more frames than it can do drops the oldest, and stays within some three service times of
age; but it is busy all the time then, and each frame waits for others. With fewer frames it does not. How
few is not known beforehand: it depends on the model, on what else the machine does and on what the decoders
take.

So it is tried, in windows of two seconds. Where the 99th percentile of ages exceeds the target, frames are
left out, as many as take the rate to four fifths of what came through. Where it stays well below the target
for some windows, some more are let in. A try that fails, of either kind, is taken back and makes the next
one wait twice as long: so the line settles instead of swinging, and still finds out when there is room
again, or when what could not be had can be.

A search for the target is given up where two steps, a third fewer frames, did not bring ages half of the
way to it: what they come of then is not the line's load. (One step may be too small to tell from chance.)
Ages are compared with those before every earlier step, the first among them: if only the last were looked
at, a single window that happens to be fresh would hide what was before it, and each loss would be small.
Whether frames are still dropped for want of time is not asked, for some always are where others use the
machine. Then as many are let in as before the first step since which nothing has grown fresher.

Frames are left out by ``every_nth``, one stream after the other: of the one that has most of its frames let
in, and let in again of the one that has fewest. So no stream is thinned out more than it takes, and steps
are small with many.
"""

from __future__ import annotations

import logging
import math
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
OVER = 2
"""Windows above the target, one after the other, that it takes to leave out frames."""
FEWER, MORE = 0.8, 1.25
"""Shares of the rate that it is changed to, if steps as small as that can be had."""
FRESHER = 0.85
"""Times the ages before, where they have grown fresher and it is not chance."""
PATIENCE, MOST_PATIENCE = 3, 96
"""Windows of room before more is let in; doubled by each try that failed."""
RESIGNED, MOST_RESIGNED = 32, 1024
"""Windows before frames are left out again after a search in vain; doubled by each."""
TRIAL = 8
"""Windows that a try has to hold."""
CHANGED, LATELY = 0.6, 5
"""Share of the usual age, and windows below it, or as far above: another load, of which no failure tells."""


class Adaptive:
    """Chooses ``every_nth`` of all lanes, so that the p99 of ages stays within ``target`` seconds."""

    def __init__(self, target: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.target = target
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes: list[Lane] = []
        self._began = clock()
        self._due = self._began + WINDOW_SECONDS
        self._settling = self._told = False
        self._held = self._calm = 0
        self._before_trial: dict[Lane, int] = {}
        self._seen: deque[float] = deque(maxlen=4 * LATELY)
        """p99 of the windows since the last change; infinite where nothing came out, for long."""
        self._steps: list[tuple[float, dict[Lane, int]]] = []
        """p99 and ``every_nth`` before each step of this search for the target."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        """With another load: what failed may succeed now."""
        self._patience, self._resigned, self._resignation = PATIENCE, 0, RESIGNED
        self._steps.clear()
        while len(self._seen) > LATELY:
            self._seen.popleft()

    def add(self, lane: Lane) -> None:
        """Choose for that one, too; again does no harm."""
        with self._lock:
            if lane not in self._lanes:
                lane.begin(1.0)
                self._lanes.append(lane)
                lane.tick = self.tick
                self._begin_anew()

    def remove(self, lane: Lane) -> None:
        """Nothing more comes by that one."""
        with self._lock:
            if lane in self._lanes:
                self._lanes.remove(lane)
                lane.tick = None
                self._before_trial.pop(lane, None)
                self._begin_anew()

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
            p99 = ages.quantile(0.99)
            self._decide(math.inf if p99 is None else p99, ages.count / seconds)

    def _decide(self, p99: float, through: float) -> None:
        """``p99`` seconds of age, ``through`` results per second."""
        self._seen.append(p99)
        self._resigned -= self._resigned > 0
        if self._is_other():
            self._begin_anew()
        self._calm = self._calm + 1 if p99 <= ROOM * self.target else 0
        if p99 <= self.target:
            self._held += 1
            if self._held >= TRIAL and self._before_trial:
                self._before_trial, self._patience = {}, max(PATIENCE, self._patience // 2)
                self._steps.clear()
            if self._calm >= self._patience:
                self._let_in_more(p99)
        elif len(self._seen) >= OVER and (age := min(list(self._seen)[-OVER:])) > self.target:
            self._let_in_fewer(age, through)

    def _is_other(self) -> bool:
        """Whether all ages of late are far from what they were before."""
        before, lately = list(self._seen)[:-LATELY], list(self._seen)[-LATELY:]
        if len(before) < LATELY:
            return False
        usual = median(before)
        return max(lately) < CHANGED * usual or CHANGED * min(lately) > usual

    def _let_in_fewer(self, p99: float, through: float) -> None:
        before, held, self._held = self._every_nth(), self._held, 0
        # The target held, and ages as old as these are new: another search. Those that were there before the
        # last one belong to it; else ages that rise now and then would have ever more frames left out.
        if held >= TRIAL and all(age < FRESHER * p99 for age, _ in self._steps):
            self._steps.clear()
        if self._before_trial:
            self._patience = min(2 * self._patience, MOST_PATIENCE)
            self._set(self._before_trial)
        elif self._resigned:
            return
        elif any(p99 > (age + self.target) / 2 for age, _ in self._steps[:-1]):
            self._set(next((nth for age, nth in self._steps if p99 > FRESHER * age), before))
            self._resigned, self._resignation = self._resignation, min(2 * self._resignation, MOST_RESIGNED)
            self._steps.clear()
            self._complain(p99, "fewer frames are no fresher")
        else:
            let_in = FEWER * min(self._let_in(), through or math.inf)
            while self._let_in() > let_in:
                lane = max(self._lanes, key=lambda each: each.kept_fps if each.every_nth < each.most else 0)
                if lane.every_nth >= lane.most:
                    break
                lane.every_nth += 1
            if self._every_nth() == before:
                self._complain(p99, "and hardly any frame is let in")
            else:
                self._steps.append((p99, before))
        self._changed(before, p99)

    def _complain(self, p99: float, why: str) -> None:
        level, self._told = logging.DEBUG if self._told else logging.WARNING, True
        log.log(level, "%s, target %.0f ms: not to be had, %s", _age(p99), 1000 * self.target, why)

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
            self._before_trial = before

    def _let_in(self) -> float:
        """Frames per second, of all lanes."""
        return sum(lane.kept_fps for lane in self._lanes)

    def _changed(self, before: dict[Lane, int], p99: float) -> None:
        changed = [lane for lane in self._lanes if lane.every_nth != before[lane]]
        if not changed:
            return
        self._settling, self._before_trial = True, {}
        self._held = self._calm = 0
        self._seen.clear()
        told = ", ".join(f"{lane.stream} {before[lane]} → {lane.every_nth}" for lane in changed)
        log.info("%s, target %.0f ms: every_nth of %s", _age(p99), 1000 * self.target, told)


def _age(p99: float) -> str:
    return "no results" if math.isinf(p99) else f"p99 age {1000 * p99:.0f} ms"
