"""A stream's way into the line, of which every nth frame is let in."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.histogram import Histogram

LEAST_FPS = 1.0
"""Frames per second that are let in of a stream, whatever the ages."""


class Lane:
    """How a stream's frames are let in. ``ages`` are those of its results, in seconds."""

    def __init__(self, stream: str, ages: Histogram) -> None:
        self.stream = stream
        self.every_nth = 1
        self.tick: Callable[[], None] | None = None
        """To be called at each frame, by whoever chooses ``every_nth``; None: nobody does."""
        self.fps = 0.0
        """Frames that came per second of the last window."""
        self._ages, self._before = ages, Histogram()
        self._arrived = 0

    def admits(self, number: int) -> bool:
        """Whether frame ``number`` is let in; to be asked of each, by one thread."""
        self._arrived += 1
        if self.tick is not None:
            self.tick()
        return number % self.every_nth == 0

    @property
    def kept_fps(self) -> float:
        """Frames per second that are let in."""
        return self.fps / self.every_nth

    @property
    def most(self) -> int:
        """The largest ``every_nth``."""
        return max(1, int(self.fps / LEAST_FPS))

    def results(self) -> int:
        """How many there were in this window; 0 of a stream whose frames nobody asks about."""
        return self._ages.count - self._before.count if self._arrived else 0

    def begin(self, seconds: float) -> Histogram:
        """Begin another window; the ages of the last one, which took so long."""
        self.fps, self._arrived = self._arrived / seconds, 0
        recent = self._ages.since(self._before)
        self._before = self._ages.copy()
        return recent
