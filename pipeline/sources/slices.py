"""Key pictures of H.264 whose slices come in packets of their own, put together again.

GStreamer's ``rtph264pay`` with ``config-interval=-1`` sends the parameter sets before each slice of a key
picture. To FFmpeg's parser they begin another picture (as ITU-T H.264, 7.4.1.2.3 has it), so it makes packets
of each: decoded, they are so many pictures, all patched up, and those that follow are spoilt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import av.error
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from pipeline.sources.parametersets import IDR, SLICE

_START = b"\x00\x00\x01"
_MOST_UNITS = 64
"""That are looked at before a packet's first slice: parameter sets, and messages."""


def joined(packets: Iterator[Packet[Stream]], video: VideoStream) -> Iterator[Packet[Stream]]:
    """``packets`` with start codes, those of one key picture of ``video`` as one. Raises what they do, after
    those that were held back.

    A key picture waits for the next packet where such pictures came before, and at first, when nothing is
    known. The parser has waited as long for the beginning of each.
    """
    held: deque[Packet[Stream]] = deque()
    """A key picture, and what came since that is not of the video."""
    splits: bool | None = None
    last: int | None = None
    try:
        for packet in packets:
            if packet.stream.index != video.index:
                held.append(packet)
                if len(held) == 1:
                    yield from _given(held)
                continue
            # The beginning of the very first one has no time where its end has one: servers tell it later.
            same = bool(held) if last is None else packet.pts == last
            at = _continues(packet) if same else 0
            if held and at:
                held[0], splits = _joined(held[0], packet, at), True
                continue
            if at:
                splits = True
            elif held and splits is None:
                splits = False
            yield from _given(held)
            last = packet.pts
            if packet.is_keyframe and splits is not False and packet.size:
                held.append(packet)
            else:
                yield packet
    except av.error.FFmpegError:
        yield from _given(held)
        raise
    yield from _given(held)


def _given(held: deque[Packet[Stream]]) -> Iterator[Packet[Stream]]:
    while held:
        yield held.popleft()


def _joined(first: Packet[Stream], second: Packet[Stream], at: int) -> Packet[Stream]:
    """One packet of both, the second's parameter sets left out: its slices begin ``at`` that byte."""
    whole = Packet(bytes(first) + bytes(second)[at:])
    whole.stream, whole.time_base = first.stream, first.time_base
    timed = second if first.pts is None else first
    whole.pts, whole.dts, whole.duration = timed.pts, timed.dts, timed.duration
    whole.is_keyframe = True
    whole.is_corrupt = first.is_corrupt or second.is_corrupt
    return whole


def _continues(packet: Packet[Stream]) -> int:
    """Where the start code of a packet's first slice stands, if that is not its picture's first one; else 0.

    The first bit behind the header of its unit tells: where it is set, ``first_mb_in_slice`` is 0 (7.3.3).
    """
    data = bytes(packet)
    at = data.find(_START)
    for _ in range(_MOST_UNITS):
        if not 0 <= at < len(data) - 4:
            return 0
        if data[at + 3] & 0x1F in (SLICE, IDR):
            return 0 if data[at + 4] & 0x80 else at
        at = data.find(_START, at + 3)
    return 0
