"""The packets of a container as its decoder is to be given them: as they come, of what is live without those
that decoding is too slow for, and of a live playlist evenly and none again."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

from av.packet import Packet
from av.stream import Stream

from pipeline.sources.playlist import Flags, Repeats
from pipeline.sources.readahead import Ahead, Pace, Steps, Unpaced

LOG = logging.getLogger(__name__)

_TOLD_EACH = 60.0
"""Seconds between two warnings that pictures are skipped."""
_GRACE = 1.0
"""Seconds after which FFmpeg's own time limit, which tells more, has been noticed."""
_TURN = 0.1
"""Seconds in which another thread has its turn."""
_NOT_RENEWED = "no new picture: the playlist is not renewed"


class Feed:
    """As they come."""

    ended = "the server closed it, or broke off"
    """What it may mean that something live is at its end."""
    stale = ""
    """Why nothing that came is new, where that is so."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self.waited = 0.0
        """Seconds that the last read took."""

    def read(self) -> Packet[Stream] | None:
        """The next one; None: there is no more. Raises what FFmpeg does, and UnheardError."""
        try:
            return next(self._flags, None)
        finally:
            self.waited = self._flags.waited

    def lacks_data(self, packet: Packet[Stream]) -> bool:
        """Whether the packet, the last one, does."""
        return self._flags.counts(packet)

    def await_turn(self, packet: Packet[Stream]) -> None:
        """Return when the packet, the last one and the video's, is to be decoded."""

    def resumes(self) -> bool:
        """Whether packets before the last one were left out; asked once."""
        return False

    def left_out(self) -> int:
        """How many pictures were since this was asked last."""
        return 0

    def never_came(self) -> int:
        """How many pictures did not, before the last packet, as far as that is told."""
        return 0

    def decodes(self, packet: Packet[Stream] | None) -> None:
        """The decoder is given the packet now, by whose time its picture will be known; None: the end."""

    def hides(self, pts: int | None) -> bool:
        """Whether the picture of that time was given before; asked once for each."""
        return False

    def hint(self, cause: str) -> str:
        """What may be amiss where the reading failed by that ``cause``; "" or more of a sentence."""
        return ""

    def close(self, container: Callable[[], None]) -> None:
        """End the reading; ``container`` closes it, and is called when nobody reads it any more."""
        container()


class LiveFeed(Feed):
    """Read ahead, and without what decoding is too slow for."""

    _last_read = 1.0
    """Seconds in which the next packet should come that ends the reading: an RTSP server is told of the end
    while there is still a process to tell it."""

    def __init__(
        self,
        flags: Flags,
        steps: Steps,
        stop: threading.Event,
        shown: str,
        *,
        limit: float,
        skips: bool = True,
    ) -> None:
        """``limit`` is FFmpeg's, in seconds without data; ``skips``: see :class:`Ahead`; ``shown`` is its
        name in the log."""
        super().__init__(flags)
        self._steps, self._stop, self._shown = steps, stop, shown
        self._limit, self._skips = limit, skips
        self._reader: Ahead | None = None
        self._left_out, self._resumes = 0, False
        self._told: tuple[float, int, float] = -math.inf, 0, 0.0
        """When it was logged last, and since then: how many pictures were left out, of how many seconds."""

    def read(self) -> Packet[Stream] | None:
        """The next one; ``waited`` is what FFmpeg took for it, earlier."""
        if self._reader is None:
            longest = self._limit + _GRACE
            self._reader = Ahead(
                self._flags, self._steps, self._stop, self._pace(), longest=longest, skips=self._skips
            )
        try:
            packet = next(self._reader, None)
        finally:
            self.waited = self._reader.waited
        if packet is not None and self._reader.skipped:
            self._resumes = True
            new = self._new(self._reader.skipped)
            self._left_out += new
            self._tell(new, self._reader.skipped_seconds)
        return packet

    def lacks_data(self, packet: Packet[Stream]) -> bool:
        """Whether the packet, the last one, does."""
        return self._reader is not None and self._reader.counts(packet)

    def resumes(self) -> bool:
        """Whether packets before the last one were left out; asked once."""
        resumes, self._resumes = self._resumes, False
        return resumes

    def left_out(self) -> int:
        """How many pictures were since this was asked last."""
        count, self._left_out = self._left_out, 0
        return count

    def close(self, container: Callable[[], None]) -> None:
        """End the reading; ``container`` may be called later, by the thread that reads ahead."""
        if self._reader is None:
            container()
        else:
            # One that was waited for for longer will not send another in that time.
            self._reader.close(container, self._last_read if self.waited < self._last_read else _TURN)

    def _pace(self) -> Pace | Unpaced:
        return Unpaced()

    def _new(self, packets: Sequence[Packet[Stream]]) -> int:
        return len(packets)

    def _tell(self, new: int, seconds: float) -> None:
        """Log, once a minute, what was skipped."""
        told, before, seconds_before = self._told
        count, seconds, now = before + new, seconds_before + seconds, time.monotonic()
        if now - told >= _TOLD_EACH:
            LOG.warning(
                "%s: decoding is too slow for it: %d pictures (%.1f s) were skipped",
                self._shown,
                count,
                seconds,
            )
            told, count, seconds = now, 0, 0.0
        self._told = told, count, seconds


class LivePlaylist(LiveFeed):
    """Given at its pictures' pace, and without what an earlier connection brought."""

    _last_read = _TURN
    """Segments are seconds apart, and no server waits for a goodbye."""

    ended = "the playlist was closed, or is not renewed"

    def __init__(
        self,
        flags: Flags,
        steps: Steps,
        stop: threading.Event,
        shown: str,
        repeats: Repeats,
        *,
        limit: float,
        skips: bool,
    ) -> None:
        """See LiveFeed."""
        super().__init__(flags, steps, stop, shown, limit=limit, skips=skips)
        self._repeats = repeats
        self._never_came = 0

    def await_turn(self, packet: Packet[Stream]) -> None:
        """Return when the packet, the last one and the video's, is due: at once where it is nothing new."""
        if self._reader is None or not packet.size:
            return
        again = self._repeats.again(packet, self._reader.step)
        self._never_came = 0 if again else self._reader.missing
        self.stale = _NOT_RENEWED if self._repeats.only else ""
        if not again:
            self._reader.wait()

    def never_came(self) -> int:
        """Segments that FFmpeg was refused, or that broke off; asked once."""
        count, self._never_came = self._never_came, 0
        return count

    def decodes(self, packet: Packet[Stream] | None) -> None:
        """The decoder is given the packet, the last one, now."""
        if packet is not None and packet.size:
            self._repeats.decodes(packet)

    def hides(self, pts: int | None) -> bool:
        """Whether the picture of that time was given before; asked once for each."""
        return self._repeats.hides(pts)

    def hint(self, cause: str) -> str:
        """What may be amiss where the reading failed by that ``cause``."""
        if self.stale:
            return f"; {self.stale}"
        if cause == "timeout":
            return "; segments that are longer than --stall-timeout need a larger one"
        return ""

    def _pace(self) -> Pace | Unpaced:
        return Pace()

    def _new(self, packets: Sequence[Packet[Stream]]) -> int:
        return sum(not self._repeats.again(each, None) for each in packets)
