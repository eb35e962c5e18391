"""Whether a live stream is decoded too slowly: how far the reader is behind it.

Whoever sends it holds what is not read (over TCP seconds to minutes of it), so packets come late, and nobody
says so. Their own times tell: how far they fall behind the clock, against the least that they were behind it,
while none has to be waited for. Late ones that have to be waited for are the network's doing, or a camera's
whose clock is slow. JPEGs in parts and the like have no times of their own; of those nothing is known.
"""

from __future__ import annotations

import math
from collections import deque

MOST_SECONDS = 2.0
"""Behind by more, it is too slow, unless it catches up."""
WINDOW_SECONDS = 2.0
_LEAST_GAIN = 0.1
"""Share of a window that is caught up with in it, at least."""
_IDLE = 0.3
"""Share of a window that was spent waiting for data: decoding has time to spare. Where the cores are busy a
read of what is there may take 5 ms, too, an eighth of the time at 25 fps."""
_EDGE_SECONDS, _EDGE_IDLE = 0.3, 0.9
"""What there was is read where the last of it, so many seconds of the stream, took that share of its time to
come: on a busy machine its sender may be no more than twice as fast."""


class Lag:
    """Of one connection."""

    def __init__(self) -> None:
        self._stream = 0.0
        """Seconds of the stream since the first packet, or since its time jumped."""
        self._least: float | None = None
        """The least of the clock's time minus the stream's: what is behind that is late."""
        self._window: tuple[float, float] | None = None
        """When it began, and how far behind that was."""
        self._waited = 0.0
        self._window_least = math.inf
        self._last: deque[tuple[float, float]] = deque()
        """Steps and waits of the last _EDGE_SECONDS."""
        self._last_steps = 0.0
        self.seconds = 0.0
        """How far it is behind."""

    def begin(self, now: float) -> None:
        """Judge by what comes from now on."""
        self._window = now, self.seconds
        self._waited, self._window_least = 0.0, math.inf

    def too_long(self, step: float | None, waited: float, now: float) -> bool:
        """Whether decoding is too slow, told once a window at most. A packet of the video came, ``step``
        seconds of the stream after the one before (None: its time jumps), waited for for ``waited``."""
        if step is None or self._least is None or self._window is None:
            self._stream, self._least, self.seconds = 0.0, now, 0.0
            self._last.clear()
            self._last_steps = 0.0
            self.begin(now)
            return False
        self._stream += step
        late = now - self._stream
        self._least, self._window_least = min(self._least, late), min(self._window_least, late)
        self.seconds = late - self._least
        self._waited += waited
        self._last.append((step, waited))
        self._last_steps += step
        while self._last_steps - self._last[0][0] >= _EDGE_SECONDS:
            self._last_steps -= self._last.popleft()[0]
        begun, then = self._window
        if now - begun < WINDOW_SECONDS:
            return False
        idle = self._waited >= _IDLE * (now - begun)
        if idle:  # the clocks differ, or the network is slower than it was
            self._least = self._window_least
            self.seconds = late - self._least
        caught_up = then - self.seconds >= _LEAST_GAIN * (now - begun)
        self.begin(now)
        return self.seconds > MOST_SECONDS and not (idle or caught_up)

    def caught_up(self) -> bool:
        """Whether all that there was is read, as the last packets tell, while none is decoded."""
        waits = sum(waited for _, waited in self._last)
        if self._least is not None and waits >= _EDGE_IDLE * max(self._last_steps, _EDGE_SECONDS):
            self._least += self.seconds  # less is not to be had now
            self.seconds = 0.0
        return self.seconds <= 0
