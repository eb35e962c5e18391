"""What a live playlist (HLS, DASH) needs beyond other streams: its pictures' pace, what was read before, and
where its segments meet."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from zlib import crc32

import av.error
from av.packet import Packet
from av.stream import Stream

RATE = 1.001
"""Seconds of the stream that are played in a second: a camera's clock may run faster than ours."""
EDGE_SECONDS = 0.5
"""A read that waits so long waits for a segment that is not there yet. A server takes less to answer."""
_CATCH_UP = 2.0
"""How much faster than they were taken late pictures are given."""
_JUMP_SECONDS, _JUMP_STEPS = 1.0, 4.0
MOST_SEEN = 2000
"""Packets that are remembered: 80 s at 25 fps, more than the three segments that a list is joined at."""
_WRAP = 1 << 33
_AHEAD = 2
"""When a segment begins, the demuxer still holds the last picture of the one before, the parser another."""


class Pace:
    """Holds packets back until they are due, as every player does: a segment comes in one go.

    Given as they come, the pictures of a segment would push each other out of the line, and then none would
    come until the next one. So they are played by their time, from the first on: the lag behind the camera
    stays what it was when FFmpeg joined the list (its last three segments), and covers one that comes late.

    The lag never grows for good. The stream is played a little faster than the clock, so that data does not
    pile up where the camera's clock is the faster one. A late packet moves nothing while data is there: what
    was missed is caught up with, at twice the speed, as a burst would be dropped. Only where the data itself
    had to be waited for, which is at the live edge, does the time count anew from now: there is nothing to
    catch up with. (A shorter wait is a server's answer: with each segment, those would add up.) It does so
    where the time jumps, too: back, as of an encoder that begins anew, or forward, past segments that left
    the list before they were read, because the lag was too large.
    """

    def __init__(self) -> None:
        self._anchor: tuple[float, float] | None = None
        """A moment of our clock, and the stream's time then."""
        self._last = self._step = 0.0
        self._given = -math.inf

    def wait(self, packet: Packet[Stream], waited: float, stop: threading.Event) -> None:
        """Return when the packet, which ``waited`` seconds were spent on, is due, or ``stop`` is set."""
        at = packet.pts if packet.dts is None else packet.dts  # dts: packets come in the order of decoding
        if at is None or packet.time_base is None:
            return
        now = time.monotonic()
        delay = self.due(float(at * packet.time_base), waited, now) - now
        if delay > 0:
            stop.wait(delay)

    def due(self, at: float, waited: float, now: float) -> float:
        """When what the stream has at its second ``at`` is to be given; not before ``now``."""
        step, self._last = at - self._last, at
        jumps = step < 0 or step > max(_JUMP_SECONDS, _JUMP_STEPS * self._step)
        self._step = max(step, 0.0)
        due = now
        if self._anchor is not None and not jumps:
            begun, first = self._anchor
            due = begun + (at - first) / RATE
        if self._anchor is None or jumps or (due < now and waited >= EDGE_SECONDS):
            self._anchor, due = (now, at), now
        else:
            due = max(due, now, self._given + step / _CATCH_UP)
        self._given = due
        return due


class Repeats:
    """Tells the packets that an earlier connection has brought: one to a list that is not renewed any more,
    or not yet, begins with its last segments again."""

    def __init__(self, seen: list[int]) -> None:
        """``seen`` is what was read before, and learns from this (see ``Remembered``)."""
        self._seen, self._before = seen, frozenset(seen)
        self._left = len(seen)
        self._hidden: Counter[int | None] = Counter()
        """Times of their pictures."""
        self.only = False
        """Whether packets came, and none of them was new."""
        self._new = not seen

    def again(self, packet: Packet[Stream]) -> bool:
        """Whether the packet was read before, and so was all that came before it over this connection.

        A stream that goes round in a circle brings more of them than are remembered: those are new.
        """
        # The time alone would do for no server that begins anew, the bytes for no picture without noise.
        time_of = -1 if packet.pts is None else packet.pts % _WRAP
        name = crc32(memoryview(packet), crc32(b"%d %d" % (time_of, packet.size)))
        if not self._new and name in self._before and self._left > 0:
            self._left -= 1
            self._hidden[packet.pts] += 1
            self.only = True
            return True
        self._new, self.only = True, False
        self._seen.append(name)
        del self._seen[:-MOST_SEEN]
        return False

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

    def __iter__(self) -> Iterator[Packet[Stream]]:
        return self

    def __next__(self) -> Packet[Stream]:
        if self._ahead:
            packet = self._ahead.popleft()
        elif self._over is not None:
            raise self._over
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
