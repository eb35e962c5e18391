"""A stream's presentation times, made to rise whatever the sender does; each repair is counted.

RTP and MPEG-TS count in 32 and 33 bits, cameras set their clocks, encoders restart: what comes after may lie
hours away. Recorders, trackers and whoever reads the results want one clock for one stream.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

_JUMP = 10
"""Seconds between two pictures that are taken for a jump, no pause; as FFmpeg's dts_delta_threshold."""
_WRAPS = (1 << 33, 1 << 32)
"""Ticks after which MPEG-TS and RTP count from 0 again."""
_STEP = Fraction(1, 25)
"""Seconds: the time between two pictures while none is known."""


class Timestamps:
    """Calling it with a picture's time gives the one to use, in the same time base, later than all before.

    An untouched stream keeps its own. ``repaired`` counts by what was wrong: ``missing`` (follows the last by
    the usual interval), ``duplicate``, ``wrap`` (continued), ``jump`` (back in time, or forward by more than
    10 s that did not pass: it goes on by the time that did pass).
    """

    def __init__(self) -> None:
        self.repaired: Counter[str] = Counter()
        self._time_base: Fraction | None = None
        # In ticks of it:
        self._raw: int | None = None
        self._last: int | None = None
        self._offset = self._step = self._latest = self._jump = 0
        self._guessed = 0
        self._arrived = 0.0
        self._again = False

    def restart(self) -> None:
        """What comes next is a new connection's, or another round's: it counts from anywhere."""
        self._again = True

    def __call__(
        self, pts: int | None, time_base: Fraction | None, arrived: float, *, pauses: bool = False
    ) -> int | None:
        """``arrived`` is monotonic seconds; ``pauses``: a file's, which may hold long ones and is read at any
        speed."""
        if time_base is None or (pts is None and self._last is None):
            return pts
        # Two Fractions are compared in Python: the same one, as most often, need not be.
        if time_base is not self._time_base and time_base != self._time_base:
            self._count_in(time_base)
        passed, self._arrived = arrived - self._arrived, arrived
        if pts is not None and self._raw is not None and not self._again:
            step = pts - self._raw
            if 0 < step <= self._jump or (pauses and step > 0):
                latest = max(1, min(step, self._jump) // (1 + self._guessed))
                # The lesser of two: one alone may be a gap.
                self._raw, self._step, self._latest = pts, min(latest, self._latest), latest
                self._guessed = 0
                return self._later(pts + self._offset)
        return self._repair(pts, time_base, passed, pauses)

    def _repair(self, pts: int | None, time_base: Fraction, passed: float, pauses: bool) -> int:
        last = self._last
        if last is None:
            assert pts is not None
            self._raw, self._again = pts, False
            return self._later(pts)
        gone = round(passed / time_base)
        if pts is None or (pts == self._raw and not self._again):
            self.repaired["missing" if pts is None else "duplicate"] += 1
            self._guessed += 1
            # Behind a gap, such as RTSP has it until the sender tells the time: as long as that took.
            return self._later(last + (max(gone, self._step) if self._again and not pauses else self._step))
        before, self._raw, self._guessed = self._raw, pts, 0
        step = pts - before if before is not None and not self._again else None
        # A file is read faster than it plays: there the clock says nothing.
        follows = last + (self._step if pauses else max(gone, self._step))
        if step is None:
            self._again = False
            self._offset = follows - pts
        elif wrap := next((ticks for ticks in _WRAPS if 0 < step + ticks <= self._jump), 0):
            self.repaired["wrap"] += 1
            self._offset += wrap
        elif step < 0 or step - gone > self._jump:
            self.repaired["jump"] += 1
            self._offset = follows - pts
        return self._later(pts + self._offset)

    def _later(self, wanted: int) -> int:
        last = self._last
        self._last = wanted if last is None or wanted > last else last + 1
        return self._last

    def _count_in(self, time_base: Fraction) -> None:
        """Go on in another time base, with a connection that comes to it, too."""
        if self._time_base is not None and self._last is not None:
            self._last = math.ceil(self._last * self._time_base / time_base)
            self._step = round(self._step * self._time_base / time_base)
            self._again = True
        else:
            self._step = max(1, round(_STEP / time_base))
        self._jump = self._latest = int(_JUMP / time_base)
        self._time_base = time_base
