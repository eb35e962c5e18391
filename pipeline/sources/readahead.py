"""A live stream, read ahead in a thread of its own: whatever the decoder is at, its sender is read at once.

So what lies here tells how far behind decoding is, and where it is too slow some is left out: over TCP the
sender would hold it instead, seconds to minutes of it, and tell nobody.

A live playlist (HLS, DASH) is played evenly. A segment comes in one go. Given as they come, its pictures
would push each other out of the line, and then none would come until the next one; so they are given by
their times, as every player does.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from av.packet import Packet
from av.stream import Stream

from pipeline.sources.playlist import Flags

MOST_BYTES = 64 << 20
"""That are read ahead: three segments of 10 s have 30 MB at 8 Mbit/s."""
PACKET_BYTES = 1200
"""That a packet takes beside its data, FFmpeg's share and ours (1.1 kB measured, of 375,000)."""
WINDOW_SECONDS = 15.0
"""Longer than a segment: from the arrival of one to the next, what is there shrinks by its length."""
LEAST_SECONDS = 0.5
"""So much is there at least when a segment comes, else the next one that comes late is a pause."""
SLACK_SECONDS = 0.25
"""By which what is there may grow before that is more than it was."""
MOST_RATE, LEAST_RATE = 2.0, 0.98
"""How fast the stream is played. Faster, what came late would be a burst; slower would be seen."""
BEGIN_SECONDS = 5.0
"""After joining, what there is has been loaded once no more has come to be held for so long. The most that
was held then is what is held just after a segment has come."""
EXCESS_SECONDS = 10.0
"""So much more may be held than that where decoding is too slow: some seconds of another load are caught up
with after it. Who looks at a camera through three segments is late by as much anyway."""
SKIP_SECONDS = 9.0
"""That are skipped at a time: a step of 10 s would be a jump of the camera's clock (see ``timestamps``)."""
SLOW_SECONDS = 5.0
"""Behind by more, decoding is too slow, and this is no hiccup; also where it is to catch up, and gains less
than a tenth."""
_LEAST_GAIN = 1.1
MOST_BEHIND = 2.0
"""Seconds of what is not paced that may be held, or more if it becomes less."""
GAIN_SECONDS, _GAIN = 2.0, 0.1
"""Seconds in which it has to become less, by a share of them; a hang of the network is caught up with."""
KEYLESS_SECONDS = 8.0
"""Where so much is held without a key picture, it goes on with another one: some streams have none."""
_FULL = 0.9
"""Share of MOST_BYTES: reading on goes in another thread."""
_SECONDS_PER_RATE = 8.0
_LATE_SECONDS = 0.5
_JUMP_SECONDS, _JUMP_STEPS = 1.0, 4.0
_UNTIMED = 0.04
"""The step of a packet without a time of its own, and what one counts for where the time jumps: else the lag
of a stream whose time stands still, or jumps all along, would not be seen."""
_TURN_SECONDS = 0.1


class UnheardError(Exception):
    """Nothing of the tracks that there were in the beginning comes any more, though reading goes on."""


class Pace:
    """When packets are to be given: each its time after the one before, a little faster or slower.

    The lag behind the camera is that with which FFmpeg joins the list (its last three segments), which
    covers a segment that comes late. All that there is to read is read at once, so the seconds that lie here
    just before a segment comes tell how far we are behind. Where they have become more (a camera's clock that
    is faster than ours, a server that hung and then had everything) it is played faster, until they are as
    many as in the beginning; where next to none are left, a little slower. Where decoding is too slow for the
    stream, nothing but leaving some out keeps the lag from growing.
    """

    def __init__(self) -> None:
        self._due: float | None = None
        self._usual: float | None = None
        """Seconds that are there just before a segment comes."""
        self._window: tuple[float, float] | None = None
        """When it ends, and the least that was there in it."""
        self._before: float | None = None
        """The least of the window before."""
        self._begins: float | None = None
        """Until when the beginning lasts, unless more is held by then."""
        self._most = 0.0
        """Seconds that were there at most in the beginning."""
        self._given, self._held = 0.0, 0.0
        """When the last one is given, and what was there then."""
        self._behind = 0.0
        """Seconds by which packets that were there are taken too late."""

    def due(self, step: float | None, held: float, now: float) -> float:
        """When what comes ``step`` seconds of the stream after the last (None: it is the first, or the time
        jumps) is to be given, ``held`` more being there; not before ``now``."""
        if self._begins is None:
            self._begins = now + BEGIN_SECONDS
        if held > self._most and now <= self._begins and self._behind <= _LATE_SECONDS:
            self._most, self._begins = held, now + BEGIN_SECONDS
        rate = self._rate(held, now)
        if step is None or self._due is None:
            self._due, self._behind = now, 0.0
        else:
            self._due += step / rate
            if self._held < LEAST_SECONDS:  # it had to be waited for
                self._behind = 0.0
            else:
                in_time = step if now <= self._due else 0.0
                late = max(self._due, now) - self._given - step / min(rate, _LEAST_GAIN)
                self._behind = max(self._behind + late - in_time, 0.0)
            if now - self._due > _LATE_SECONDS:  # that, or decoding took so long
                self._due = now
        self._given, self._held = max(self._due, now), held
        return self._given

    def leaves(self, held: float, now: float, *, full: bool = False) -> float | None:
        """How many of the seconds that are ``held`` are to be left, where the others are to be skipped.
        ``full``: there is no room for more; none are left then, since as many again may lie at the server."""
        if self._behind <= SLOW_SECONDS or (held <= self._most + EXCESS_SECONDS and not full):
            return None
        if full:
            return 0.0
        return self._most if self._usual is None else self._usual

    def _rate(self, held: float, now: float) -> float:
        ends, least = self._window or (now + WINDOW_SECONDS, held)
        least = min(least, held)
        if now >= ends:
            if self._usual is None and self._before is not None:  # the first one began with nothing
                # An overload, or a hang, may have begun since.
                self._usual = max(min(least, self._most), LEAST_SECONDS)
            self._before, ends, least = least, now + WINDOW_SECONDS, held
        self._window = ends, least
        if self._usual is None or self._before is None:
            return 1.0
        least = min(least, self._before)
        if least < LEAST_SECONDS:
            return LEAST_RATE
        excess = least - self._usual - SLACK_SECONDS
        return min(1 + max(excess, 0.0) / _SECONDS_PER_RATE, MOST_RATE)


class Unpaced:
    """What comes when it is due, as of all that is live but playlists: it is given at once."""

    def __init__(self) -> None:
        self._since: tuple[float, float] | None = None
        """When there was too much, or that was looked at last, and how much it was."""

    def due(self, step: float | None, held: float, now: float) -> float:
        """At once."""
        return now

    def leaves(self, held: float, now: float, *, full: bool = False) -> float | None:
        """None of what is held, where that is too much and not caught up with; see :meth:`Pace.leaves`."""
        if held <= MOST_BEHIND and not full:
            self._since = None
            return None
        begun, before = self._since or (now, math.inf)
        if self._since is None:
            self._since = now, held
        if now - begun < GAIN_SECONDS and not full:
            return None
        caught_up = held <= before - _GAIN * (now - begun)
        self._since = (now, held) if caught_up else None
        return None if caught_up else 0.0


class Steps:
    """How far the stream's time goes from one packet of the video to the next."""

    def __init__(self, index: int, longest: float, hole: float = 0.0) -> None:
        """``index`` is the video's. A step of more than ``longest`` seconds is always a jump. One of up to
        ``hole`` before a key picture is none: what was taken then has not come, such as a segment."""
        self._index, self._longest, self._hole = index, longest, hole
        self.missing = 0
        """Pictures that a hole before the last packet lacks, as far as the time tells."""
        self._last: float | None = None
        self._steps: deque[float] = deque(maxlen=2)
        """The last ones forward, jumps too: a slow camera's are as long each time."""

    def counts(self, packet: Packet[Stream]) -> bool:
        """Whether a packet is the video's."""
        return packet.stream.index == self._index

    def after(self, packet: Packet[Stream]) -> float | None:
        """Seconds of the stream after the packet before; None for the first, and where the time jumps: back,
        as of an encoder that begins anew, or forward, past segments that left the list before they were read.
        """
        at = packet.pts if packet.dts is None else packet.dts  # dts: packets come in the order of decoding
        self.missing = 0
        if not self.counts(packet):
            return 0.0
        if at is None or packet.time_base is None:
            return _UNTIMED if packet.size else 0.0
        before, self._last = self._last, float(at * packet.time_base)
        if before is None:
            return None
        step = self._last - before
        if step == 0:
            return _UNTIMED if packet.size else 0.0
        most = max(_JUMP_SECONDS, _JUMP_STEPS * min(self._steps, default=0.0))
        if packet.dts is None and -most <= step < 0:  # a B-frame, shown before the one that it is made from
            self._last = before
            return 0.0
        usual = min(self._steps) if len(self._steps) == 2 else math.inf
        if most < step <= min(self._hole, self._longest) and packet.is_keyframe and 4 * usual < step:
            self.missing = round(step / usual) - 1
            return step
        if step > 0:
            self._steps.append(step)
        return step if 0 <= step <= min(most, self._longest) else None


@dataclass(frozen=True, slots=True)
class _Read:
    packet: Packet[Stream]
    broken: bool
    waited: float
    step: float | None
    missing: int

    @property
    def seconds(self) -> float:
        """Of the stream that it counts for."""
        return _UNTIMED if self.step is None else self.step

    @property
    def bytes(self) -> int:
        """Of memory."""
        return int(self.packet.size) + PACKET_BYTES


class Ahead:
    """As the ``Flags`` whose packets it reads; it reads on while those before are waited for."""

    def __init__(
        self,
        packets: Flags,
        steps: Steps,
        stop: threading.Event,
        pace: Pace | Unpaced,
        *,
        longest: float = math.inf,
        skips: bool = True,
    ) -> None:
        """``steps`` are those of the packets. Once ``stop`` is set it is at its end. UnheardError is raised
        where no packet comes for ``longest`` seconds: FFmpeg's limit holds for data of any kind. Unless it
        ``skips``, who takes them slowly is given all of them."""
        self.waited = 0.0
        """Seconds that the last read took, of what was given last."""
        self.skipped: list[Packet[Stream]] = []
        """The video's packets before what was given last that are left out: decoding is too slow for them."""
        self.skipped_seconds = 0.0
        self.missing = 0
        """Pictures that have not come, before what was given last; see :class:`Steps`."""
        self._packets, self._steps, self._stop, self._skips = packets, steps, stop, skips
        self._pace, self._longest = pace, longest
        self._changed = threading.Condition()
        self._given: tuple[float | None, float] = None, 0.0
        """Of what was given last: its step, and the seconds that were held then."""
        self._held: deque[_Read] = deque()
        self._seconds = 0.0
        self._bytes = 0
        self._came = time.monotonic()
        """When the last packet did."""
        self._over: tuple[BaseException, float] | None = None
        """What ended the reading, and how long the last read took."""
        self._closed = self._ended = self._broken = False
        self._then: Callable[[], None] | None = None
        # By its name, capture:…, the process is ended at once where this is still in a native call.
        name = f"{threading.current_thread().name}:ahead"
        self._thread = threading.Thread(target=self._read, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Ahead:
        return self

    def __next__(self) -> Packet[Stream]:
        with self._changed:
            while not (self._held or self._over or self._stop.is_set()):
                self._changed.wait(_TURN_SECONDS)  # nothing tells of the stop
                if time.monotonic() - self._came > self._longest and not (self._held or self._over):
                    raise UnheardError
            if self._stop.is_set():
                self.waited = 0.0
                raise StopIteration
            if not self._held and self._over is not None:
                # Not kept: by its traceback it holds all of this, and what the decoder has.
                (error, self.waited), self._over = self._over, (StopIteration(), 0.0)
                try:
                    raise error
                finally:
                    del error
            self._skip()
            read = self._pop()
            self._changed.notify()
            self._given = None if self.skipped else read.step, self._seconds
        self.waited, self._broken, self.missing = read.waited, read.broken, read.missing
        return read.packet

    def _pop(self) -> _Read:
        read = self._held.popleft()
        self._bytes -= read.bytes
        self._seconds = self._seconds - read.seconds if self._held else 0.0
        return read

    def _skip(self) -> None:
        """Leave out what is too much, up to a key packet: from there on the decoder needs nothing of it."""
        self.skipped, before = [], self._seconds
        full, behind = self._bytes >= _FULL * MOST_BYTES, before - self._held[0].seconds
        left = self._pace.leaves(behind, time.monotonic(), full=full) if self._skips else None
        if left is None:
            return
        count, most, passed = 0, 0, 0.0
        for n, read in enumerate(self._held):
            passed += read.seconds
            if before - passed < left or (count and passed > SKIP_SECONDS):
                break
            if self._steps.counts(read.packet):
                count = n if read.packet.is_keyframe else count
                most = n if passed <= SKIP_SECONDS else most
        if not count and passed > KEYLESS_SECONDS:
            count = most
        left_out = [self._pop().packet for _ in range(count)]
        self.skipped = [packet for packet in left_out if self._steps.counts(packet) and packet.size]
        self.skipped_seconds = before - self._seconds

    def wait(self) -> None:
        """Return when what was given last is due, or the stop is set."""
        now = time.monotonic()
        delay = self._pace.due(*self._given, now) - now
        if delay > 0:
            self._stop.wait(delay)

    @property
    def step(self) -> float | None:
        """Seconds of the stream from the packet before to the one that was given last; see :class:`Steps`."""
        return self._given[0]

    @property
    def held_bytes(self) -> int:
        """Of memory that packets take which are read and not given yet."""
        return self._bytes

    def counts(self, packet: Packet[Stream]) -> bool:
        """Whether the packet, the one that was given last, lacks data."""
        return self._broken

    def close(self, then: Callable[[], None], seconds: float) -> None:
        """End the reading, and then call ``then``: here, or, where that takes more than so many ``seconds``,
        from its thread, since nothing but FFmpeg's time limit interrupts the wait for data."""
        with self._changed:
            if self._closed:  # by whoever closed it first, or its thread: twice at once, and FFmpeg crashes
                return
            self._closed = True
            self._changed.notify()
        self._thread.join(seconds)
        with self._changed:
            if not self._ended:
                self._then = then
                return
        then()

    def _read(self) -> None:
        try:
            self._read_all()
        finally:
            with self._changed:
                self._ended, then = True, self._then
            if then is not None:
                then()

    def _read_all(self) -> None:
        over: BaseException = StopIteration()
        try:
            for packet in self._packets:
                broken, step = self._packets.counts(packet), self._steps.after(packet)
                read = _Read(packet, broken, self._packets.waited, step, self._steps.missing)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._bytes < MOST_BYTES)
                    if self._closed:
                        return
                    self._held.append(read)
                    self._came = time.monotonic()
                    self._bytes += read.bytes
                    self._seconds += read.seconds
                    self._changed.notify()
        except BaseException as error:
            over = error.with_traceback(None)  # raised where the packets are taken
        with self._changed:
            self._over = over, self._packets.waited
            self._changed.notify()
