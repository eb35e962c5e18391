"""Whether a stream's pictures can be those of a working camera: frozen, black, covered, at a wrong rate.

A few pictures a second are looked at, at a grid of points straight from the decoder (``luma_grid``), which
takes some 30 µs; of the others the time of arrival is compared.

What tells a frozen picture from a scene in which nothing happens is the noise of the sensor. An encoder
leaves it out between two key pictures: of a still scene with noise, x264 had the decoder repeat every pixel
for as long as no key picture came (25 s). Each key picture codes it afresh: 58 to 91 % of the points
differed then, with a noise of 0.5 grey levels or more, and at most 0.5 % without any. So a stream is called
frozen when a key picture is the same as what was there before it, or after a much longer time where none
comes.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Decoded, Image, luma_grid

log = logging.getLogger(__name__)

Health = Literal["ok", "frozen", "black", "covered", "rate"]
HEALTHS: tuple[Health, ...] = get_args(Health)

LOOK_SECONDS = 0.4
"""Between two looks; a key picture that follows others is looked at as well."""
SAME_SHARE = 0.02
"""Points that may differ in what counts as the same picture: key pictures of one input differ in 0.5 %."""
WITHOUT_KEY = 6
"""Times ``frozen_seconds`` that a picture without any key picture has to stay the same."""
BLACK, NO_LONGER_BLACK = 16.0, 24.0
"""Luma (0 to 255) that a fiftieth of a black picture may exceed; and of one that ceases to be black."""
COVERED, NO_LONGER_COVERED = 3.0, 5.0
"""Standard deviation of luma over parts of the picture, of which noise is averaged out."""
RATE_SECONDS = 10.0
"""Over which the rate of arrival is measured."""
SLOW, FAST = 0.5, 2.0
RATE_MARGIN = 1.2
"""Times the declared rate; and by how much it has to come back within."""
SILENT_SECONDS = 2.0
"""So much of the time between two pictures counts at most: one that says nothing for long shows nothing."""
RECOVERED_SECONDS = 2.0
"""For so long a picture has to be well again."""


class _Held:
    """A condition that holds after ``seconds`` of nothing but evidence, until RECOVERED_SECONDS of none."""

    def __init__(self) -> None:
        self.holds = False
        self._since: float | None = None

    def skip(self, seconds: float) -> None:
        """So long nothing was to be seen."""
        if self._since is not None:
            self._since += seconds

    def tell(self, evident: bool, gone: bool, now: float, seconds: float) -> None:
        """``evident`` and ``gone`` may both be false: then it stays as it is."""
        if not (gone if self.holds else evident):
            self._since = None
            return
        if self._since is None:
            self._since = now
        if now - self._since >= (RECOVERED_SECONDS if self.holds else seconds):
            self.holds, self._since = not self.holds, None


class _Still:
    """Whether the picture stands still for too long to be a camera's."""

    def __init__(self) -> None:
        self.holds = False
        self._picture: NDArray[np.uint8] | None = None
        self._since = 0.0
        self._keys = 0
        self._changed: float | None = None

    def skip(self, seconds: float) -> None:
        """So long there were no pictures."""
        self._since += seconds
        if self._changed is not None:
            self._changed += seconds

    def tell(self, picture: NDArray[np.uint8], key: bool, now: float, seconds: float) -> None:
        # Against the picture that stillness began with, so that slow movement adds up.
        before = self._picture
        if before is not None and np.count_nonzero(picture != before) <= SAME_SHARE * picture.size:
            self._keys += key
            if now - self._since >= (seconds if self._keys else WITHOUT_KEY * seconds):
                self.holds = True
            return
        self._picture, self._since, self._keys = picture, now, 0
        if self.holds and before is not None:
            # A frozen camera that is connected to again shows another picture once, and no more.
            if self._changed is not None and now - self._changed <= seconds:
                self.holds, self._changed = False, None
            else:
                self._changed = now


class _Rate:
    """Pictures per second, over the last RATE_SECONDS in which some came."""

    def __init__(self) -> None:
        self.fps: float | None = None
        self._count = 0
        self._marks: deque[tuple[float, int]] = deque()

    def skip(self, seconds: float) -> None:
        """So long nothing came, which is no matter of a rate."""
        self._marks = deque((at + seconds, count) for at, count in self._marks)

    def arrived(self) -> None:
        self._count += 1

    def mark(self, now: float) -> None:
        self._marks.append((now, self._count))
        while len(self._marks) > 2 and now - self._marks[1][0] >= RATE_SECONDS:
            self._marks.popleft()
        then, count = self._marks[0]
        if now - then >= RATE_SECONDS:
            self.fps = (self._count - count) / (now - then)


class StreamHealth:
    """Of one stream. One thread, that of its capture, tells it of pictures; any may read.

    States are of the pictures that came last: whether any come is told by the stream's link.
    """

    def __init__(self, stream: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.declared_fps: float | None = None
        self.states: tuple[Health, ...] = ()
        """What holds now, ``ok`` alone where nothing else does; empty before the first look, and where none
        is taken."""
        self._stream, self._clock = stream, clock
        self.watched = False
        """Whether it wants to be told of pictures."""
        self._frozen_seconds = self._black_seconds = 10.0
        self._not_ready_when: frozenset[str] = frozenset()
        self._times: Counter[Health] = Counter()
        self._seconds: dict[Health, float] = {}
        self._since: dict[Health, float] = {}
        self._forget()

    def _forget(self) -> None:
        """Begin to look, or begin anew."""
        self._still, self._rate = _Still(), _Rate()
        self._black, self._covered, self._off_rate = _Held(), _Held(), _Held()
        self._due = 0.0
        self._looked = self._came = self._clock()
        """When a picture was looked at last, and when the last one came."""
        self._away = False
        """Whether the source was opened anew since."""
        self._unseen = False
        """Whether pictures came since that nobody looked at."""
        self._key = True

    @property
    def fps(self) -> float | None:
        """Pictures that came per second of the last ten; None before there were as many."""
        return self._rate.fps

    @property
    def episodes(self) -> dict[Health, dict[str, float]]:
        """How many ``times`` each state but ``ok`` began to hold, and for how many ``seconds`` in all that
        pictures came."""
        looked, since = self._looked, dict(self._since)
        seconds = {
            state: self._seconds.get(state, 0.0) + max(0.0, looked - since.get(state, looked))
            for state in list(self._times)
        }
        return {
            state: {"times": self._times[state], "seconds": round(seconds[state], 3)} for state in seconds
        }

    @property
    def unfit(self) -> list[str]:
        """The states for which it is not ready."""
        return [state for state in self.states if state in self._not_ready_when]

    def watch(
        self, watched: bool, frozen_seconds: float, black_seconds: float, not_ready_when: Collection[str]
    ) -> None:
        """Whether pictures are looked at, and what to go by."""
        if watched and not self.watched:
            self._forget()
        self.watched = watched
        self._frozen_seconds, self._black_seconds = frozen_seconds, black_seconds
        self._not_ready_when = frozenset(not_ready_when)
        if not watched:
            self.states = ()
            self._close(*self._since)

    def renewed(self) -> None:
        """The pictures that come now are another source's: those before say nothing of them."""
        held = [WORDS[state] for state in self.states if state in WORDS]
        if held:
            log.info("stream %s is looked at anew; it was %s", self._stream, ", ".join(held))
        self.states, self.declared_fps = (), None
        self._close(*self._since)
        self._forget()

    def begin(self, declared_fps: float | None) -> None:
        """The source was opened, and says that so many pictures a second will come (None: nothing)."""
        self.declares(declared_fps)
        self._due, self._key = 0.0, True
        self._away, self._unseen = True, False

    def declares(self, declared_fps: float | None) -> None:
        """The source says that so many pictures a second come from now on (None: nothing)."""
        # FFmpeg calls the ticks of RTP's clock a frame rate where it knows none.
        declared = declared_fps if declared_fps and 0 < declared_fps <= 1000 else None
        if declared != self.declared_fps:
            # Else the rate is measured on: one that is opened anew every few seconds has one, too.
            self._rate, self._off_rate = _Rate(), _Held()
        self.declared_fps = declared

    def missed(self) -> None:
        """A picture came that nobody looks at."""
        self._rate.arrived()
        self._unseen = True

    def picture(self, pixels: Image | Decoded, key: bool) -> None:
        """A picture came. ``key``: it was coded by itself, not as a difference from others."""
        self._rate.arrived()
        now, follows, before = self._clock(), self._key, self._came
        self._key, self._came = key, now
        if now < self._due and (follows or not key):
            return
        # Time without pictures is no time of the same, or of black ones. A source that was opened anew had
        # one more picture to give than intervals between them: the gap counts for one.
        missed = now - self._looked - SILENT_SECONDS
        if self._away:
            missed = now - before - (1 / self.declared_fps if self.declared_fps else 0.0)
        if missed > 0:
            if not self._unseen:
                self._rate.skip(missed)
            for each in (self._still, self._black, self._covered, self._off_rate):
                each.skip(missed)
            self._since = {state: since + missed for state, since in self._since.items()}
        self._away = False
        self._due, self._looked, self._unseen = now + LOOK_SECONDS, now, False
        self._look(luma_grid(pixels), key, now)

    def _look(self, luma: NDArray[np.uint8], key: bool, now: float) -> None:
        self._still.tell(luma, key, now, self._frozen_seconds)
        brightest = float(np.partition(luma, -luma.size // 50, axis=None)[-luma.size // 50])
        self._black.tell(brightest <= BLACK, brightest > NO_LONGER_BLACK, now, self._black_seconds)
        rows, columns = luma.shape
        parts = luma.reshape(rows // 4, 4, columns // 4, 4).mean(axis=(1, 3))
        # Below the upper level it is black where it was: one that never was may still be covered.
        flat, dark = float(parts.std()), self._black.holds and brightest <= NO_LONGER_BLACK
        self._covered.tell(
            flat < COVERED and not dark, flat > NO_LONGER_COVERED or dark, now, self._black_seconds
        )
        self._rate.mark(now)
        self._off_rate.tell(*_off(self._rate.fps, self.declared_fps), now, 0.0)
        self._say(
            (
                ("frozen", self._still.holds, f"the same for {self._frozen_seconds:g} s while pictures come"),
                ("black", self._black.holds, f"nothing brighter than {BLACK:g} of 255"),
                ("covered", self._covered.holds, "hardly any difference between its parts"),
                ("rate", self._off_rate.holds, self._told_rate()),
            )
        )

    def _told_rate(self) -> str:
        return f"{self._rate.fps or 0:.3g} pictures a second come, {self.declared_fps or 0:g} are declared"

    def _say(self, found: Collection[tuple[Health, bool, str]]) -> None:
        before = self.states
        self.states = tuple(state for state, holds, _ in found if holds) or ("ok",)
        if self.states == before:
            return
        for state, holds, why in found:
            if holds and state not in before:
                log.warning("stream %s is %s: %s", self._stream, WORDS[state], why)
                self._times[state] += 1
                self._since[state] = self._looked
            elif not holds and state in before:
                self._close(state)
                log.info("stream %s is no longer %s", self._stream, WORDS[state])

    def _close(self, *states: Health) -> None:
        """They hold no longer."""
        for state in states:
            held = self._looked - self._since.pop(state, self._looked)
            self._seconds[state] = self._seconds.get(state, 0.0) + held


WORDS: dict[Health, str] = {
    "frozen": "frozen",
    "black": "black",
    "covered": "covered",
    "rate": "off its declared rate",
}


def _off(fps: float | None, declared: float | None) -> tuple[bool, bool]:
    """Whether a rate is far from the declared one, and whether it is clearly near it."""
    if fps is None or declared is None:
        return False, declared is None
    share = fps / declared
    off = not SLOW <= share <= FAST
    return off, SLOW * RATE_MARGIN <= share <= FAST / RATE_MARGIN
