"""What a live playlist (HLS, DASH) needs beyond other streams: where its segments meet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import av.error
from av.packet import Packet
from av.stream import Stream

_AHEAD = 2
"""When a segment begins, the demuxer still holds the last picture of the one before, the parser another."""


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
