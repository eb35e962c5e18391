"""Clips as coded pictures, one after the other, with the faults of what they show and when."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import av
from av.bitstream import BitStreamFilterContext

from pipeline.chaos.clip import FILTERS, TICKS, Clip, encode_black, restarts
from pipeline.chaos.faults import Fault
from pipeline.chaos.script import Victim
from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Shot:
    """One coded picture to be sent; times in ticks of 1/90000 s."""

    data: bytes
    """Annex B with parameter sets before each key frame, or a JPEG. Empty: nothing is sent in its time."""
    pts: int
    dts: int
    lasts: float
    """Seconds until the next one is to be sent."""
    key: bool
    clip: Clip


@dataclass(frozen=True, slots=True)
class _Coded:
    """A picture of a clip: its data, PTS - DTS and ticks to the next one, whether it is a key frame."""

    data: bytes
    late: int
    step: int
    key: bool


@dataclass(frozen=True, slots=True)
class _Cover:
    """What is shown in the place of the clip, and by which fault."""

    fault: Fault
    data: bytes


class Reel:
    """The pictures for one connection: from a clip's start, over and over or to its end."""

    def __init__(self, clips: Sequence[Clip], victim: Victim, loop: bool) -> None:
        self._clips, self._victim, self._loop = clips, victim, loop
        faults = victim.script.faults
        self._index = sum(fault.kind == "switch" and victim.missed(fault) for fault in faults)
        self._black: dict[Clip, bytes] = {}
        # In the clips' own time, without jumps:
        self._latest, self._resumed = -1, 0
        self._due = victim.script.now
        self._coded = self._pictures()
        self._begin()

    def _begin(self) -> None:
        """Be at the start of a clip: nothing of what was before covers it."""
        self._coded.close()
        self._coded = self._pictures()
        self._last_key: _Coded | None = None
        self._cover: _Cover | None = None
        self._hidden: Fault | None = None

    @property
    def clip(self) -> Clip:
        """The one that is played now."""
        return self._clips[self._index % len(self._clips)]

    def shots(self) -> Generator[Shot]:
        """Pictures, each with the faults of the moment at which it is due; to be asked for then.

        Not of the moment at which it is sent: a fault of so many seconds is of so many pictures, however busy
        the machine.
        """
        try:
            yield from self._played()
        finally:
            self._coded.close()

    def _played(self) -> Iterator[Shot]:
        victim = self._victim
        dts = shift = pts = jumped = jumps_behind = 0
        self._due = victim.played = victim.script.now
        empty = False
        while True:
            if victim.once_hit("switch", self._due):
                self._index += 1
                self._begin()
            if victim.once_hit("rewind", self._due):
                self._begin()
                dts, shift, jumped, self._latest = 0, 0, 0, -1
            if fault := victim.once_hit("jump", self._due):
                # A camera's clock jumps between two pictures as they are shown, not as they are sent.
                jumped, jumps_behind = jumped + round(fault["by"] * TICKS), self._latest
            one = next(self._coded, None)
            if one is None:
                if not self._loop:
                    return
                if empty:
                    raise ConfigError(
                        f"clip {self.clip.path}: it has no pictures any more; leave it as it is"
                    )
                self._coded, empty = self._pictures(), True
                continue
            empty = False
            if fault := victim.lasting("rate", self._due):
                victim.hit(fault)
                slow = round(TICKS / fault["fps"])
                one = replace(one, late=one.late * slow // one.step, step=slow)
            shown = self._shown(one, dts)
            if jumped and dts + shown.late > jumps_behind:
                shift, jumped = shift + jumped, 0
            if fault := victim.lasting("repeat", self._due):
                victim.hit(fault)
            else:
                pts = dts + shown.late + shift
            self._latest = max(self._latest, dts + shown.late)
            yield Shot(shown.data, pts, min(dts + shift, pts), one.step / TICKS, shown.key, self.clip)
            dts += one.step
            self._due += one.step / TICKS

    def _shown(self, one: _Coded, dts: int) -> _Coded:
        """What is sent in the place of the clip's picture; without data where that is nothing."""
        if self._last_key is None or (one.key and restarts(self.clip.codec, one.data)):
            self._last_key = one
        cover = self._cover
        if fault := self._victim.lasting("black", self._due):
            cover = _Cover(fault, self._black_picture())
        elif fault := self._victim.lasting("freeze", self._due):
            cover = cover or _Cover(fault, self._last_key.data)
        elif cover is not None and one.key:
            # Until then it goes on: a picture that refers to others which were not sent would be damage.
            self._hidden, self._resumed, cover = cover.fault, dts + one.late, None
        self._cover = cover
        if cover is not None:
            self._victim.hit(cover.fault)
            # It waits for no other, so between reordered pictures it may come too late to be shown.
            late = self._last_key.late
            return replace(one, data=cover.data if dts + late > self._latest else b"", late=late, key=True)
        if self._hidden is not None and dts + one.late < self._resumed:
            # Shown before the key frame that it comes after, it refers to what was covered.
            self._victim.hit(self._hidden)
            return replace(one, data=b"")
        return one

    def _pictures(self) -> Generator[_Coded]:
        """The clip's pictures, once."""
        with av.open(self.clip.path) as container:
            video = container.streams.video[0]
            period = round(TICKS / self.clip.fps)
            bitstream = BitStreamFilterContext(FILTERS[self.clip.codec], video)
            for packet in container.demux(video):
                for part in bitstream.filter(packet if packet.size else None):
                    base = part.time_base or video.time_base
                    assert base is not None
                    late = 0
                    if part.pts is not None and part.dts is not None:
                        late = max(0, round((part.pts - part.dts) * base * TICKS))
                    yield _Coded(bytes(part), late, period, part.is_keyframe)

    def _black_picture(self) -> bytes:
        if self.clip not in self._black:
            self._black[self.clip] = encode_black(self.clip)
        return self._black[self.clip]
