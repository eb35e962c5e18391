"""When each frame of a written video is shown: real times, repaired only where they cannot be."""

from __future__ import annotations

from fractions import Fraction

from pipeline.frame import Frame

_GAP_LIMIT = Fraction(3600)
"""Seconds. A longer pause is shown as this long, and a PTS that leaps further is another clock's:
MP4 keeps the distance of two frames in 31 bits, 6.6 hours at 90 kHz."""
_JITTER_LIMIT = Fraction(1)
"""Seconds. A PTS further behind than this is from a clock that was set back, as by a reconnect."""


class Timeline:
    """Turns the frames' own times into strictly increasing ticks that begin at 0.

    The distances between PTS are kept, so a dropped frame leaves its gap and a variable frame
    rate stays variable. One PTS out of order is put a tick behind the one before; two in a row,
    a step back of more than a second or a leap of more than an hour mean a new clock, which is
    joined on by the time that really passed between the two captures. Without any PTS, frames
    are 1 / ``fps`` apart (counted by ``seq``), or as far apart as their captures where ``fps``
    is None.

    ``tick`` is the time base of the result in seconds.
    """

    def __init__(self, tick: Fraction, fps: Fraction | None = None) -> None:
        self._tick = tick
        self._fps = fps
        self._previous: Frame | None = None
        self._ticks = 0
        self._position = Fraction(0)
        """Seconds from the first frame to the latest in time."""
        self._origin: Fraction | None = None
        """Source time of position 0; None where the present clock is not known yet."""
        self._out_of_order = False

    def place(self, frame: Frame) -> int:
        """Return the tick at which ``frame`` is shown; call it once for each, in order."""
        previous, self._previous = self._previous, frame
        source = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
        if previous is None:
            self._origin = source
            return 0
        position = self._by_clock(source)
        if position is None:
            position = max(self._position, self._ticks * self._tick) + self._step(previous, frame, source)
            self._origin = None if source is None else source - position
        self._position = max(self._position, position)
        self._ticks = max(round(position / self._tick), self._ticks + 1)
        return self._ticks

    def _by_clock(self, source: Fraction | None) -> Fraction | None:
        """The position by the source's clock; None where it has none, or not the one of before."""
        if source is None or self._origin is None:
            return None
        position = source - self._origin
        ahead = position - self._position
        second, self._out_of_order = self._out_of_order and ahead <= 0, ahead <= 0
        return None if second or not -_JITTER_LIMIT <= ahead <= _GAP_LIMIT else position

    def _step(self, previous: Frame, frame: Frame, source: Fraction | None) -> Fraction:
        if source is None and self._fps is not None:
            step = (frame.seq - previous.seq) / self._fps
        else:
            step = Fraction(frame.captured_at - previous.captured_at)
        return min(max(step, Fraction(0)), _GAP_LIMIT)
