"""What a live playlist (HLS, DASH) brings with it: what was read before, and where segments meet."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from zlib import crc32

import av.error
from av.packet import Packet
from av.stream import Stream

MOST_SEEN = 20_000
"""Packets that are remembered: of the three segments that a list is joined at, at 100 fps with sound, too."""
MOST_HIDDEN_SECONDS = 90.0
"""Of the stream, over one connection: three segments of 30 s. A server that begins anew with the very same
bytes and times is dark for no longer."""
_SPARE = 1000
"""Of a list its beginning is not deleted each time."""
_WRAP = 1 << 33
_AHEAD = 2
"""When a segment begins, the demuxer still holds the last picture of the one before, the parser another."""


class Repeats:
    """Tells the packets that an earlier connection has brought: one to a list that is not renewed any more,
    or not yet, begins with its last segments again."""

    def __init__(self, seen: list[int]) -> None:
        """``seen`` is what was read before, and learns from this (see ``Remembered``)."""
        self._seen, self._before = seen, frozenset(seen)
        self._left, self._seconds = len(seen), MOST_HIDDEN_SECONDS
        self._last = False
        """Whether the last packet was read before."""
        self._hidden: Counter[int | None] = Counter()
        """Times of their pictures."""
        self.only = False
        """Whether packets came, and none of them was new."""
        self._new = not seen

    def again(self, packet: Packet[Stream], step: float | None) -> bool:
        """Whether the packet was read before, and so was all that came before it over this connection. It is
        ``step`` seconds of the stream after that (None: not to be told).

        A stream that goes round in a circle brings more of them than are remembered: those are new.
        """
        # The time alone would do for no server that begins anew, the bytes for no picture without noise.
        time_of = -1 if packet.pts is None else packet.pts % _WRAP
        name = crc32(memoryview(packet), crc32(b"%d %d" % (time_of, packet.size)))
        self._seconds -= step or 0.0
        if not self._new and name in self._before and self._left > 0 and self._seconds >= 0:
            self._left -= 1
            self.only = self._last = True
            return True
        self._new, self.only, self._last = True, False, False
        self._seen.append(name)
        if len(self._seen) >= MOST_SEEN + _SPARE:
            del self._seen[:-MOST_SEEN]
        return False

    def decodes(self, packet: Packet[Stream]) -> None:
        """The decoder is given the last packet now, by whose time its picture will be known."""
        if self._last:
            self._hidden[packet.pts] += 1

    def hides(self, pts: int | None) -> bool:
        """Whether the picture of that time is of such a packet; asked once for each."""
        if not self._hidden[pts]:
            return False
        self._hidden[pts] -= 1
        return True


class Flags:
    """Packets of MPEG-TS, and which of those that FFmpeg flags lack data.

    Each segment of a playlist is a file of its own, which may count its packets from anywhere. FFmpeg takes
    that for a loss, and flags what it holds of the segment before when the next one begins: its last picture,
    or the one before that. Segments come whole, and begin with a key picture: so close before one, a flag
    says nothing.
    """

    def __init__(self, packets: Iterator[Packet[Stream]], index: int, *, segments: bool) -> None:
        """``index`` is the video's; not of ``segments``, every flag counts."""
        self._packets, self._index, self._segments = packets, index, segments
        self._ahead: deque[Packet[Stream]] = deque()
        self._over: BaseException | None = None
        self._spared: Packet[Stream] | None = None
        self.waited = 0.0
        """Seconds that the last read took."""

    def __iter__(self) -> Iterator[Packet[Stream]]:
        return self

    def __next__(self) -> Packet[Stream]:
        begun = time.monotonic()
        try:
            return self._read()
        finally:
            self.waited = time.monotonic() - begun

    def _read(self) -> Packet[Stream]:
        if self._ahead:
            packet = self._ahead.popleft()
        elif self._over is not None:
            over, self._over = self._over, StopIteration()  # not kept: see Ahead
            try:
                raise over
            finally:
                del over
        else:
            packet = next(self._packets)
        if self._segments and packet.is_corrupt and packet.stream.index == self._index:
            self._spared = packet if packet.is_keyframe or self._key_follows() else None
        return packet

    def counts(self, packet: Packet[Stream]) -> bool:
        """Whether the packet, the one that was given last, lacks data."""
        return bool(packet.is_corrupt) and packet is not self._spared

    def _key_follows(self) -> bool:
        while True:
            video = [each for each in self._ahead if each.stream.index == self._index and each.size]
            if len(video) >= _AHEAD or any(each.is_keyframe for each in video):
                return any(each.is_keyframe for each in video[:_AHEAD])
            if self._over is not None:
                return False
            try:
                self._ahead.append(next(self._packets))
            except (StopIteration, av.error.FFmpegError) as over:
                self._over = over
