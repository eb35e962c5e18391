"""Whether a packet can be of the codec that its stream began with, and whether a JPEG is all there.

In MPEG-TS another codec may follow under the same number. FFmpeg's H.264 decoder makes pictures of MPEG-2's
data: repeated and smeared ones, most of them not marked. What follows the first start code tells them apart
(ITU-T H.264 table 7-1, H.265 table 7-1, H.262 table 6-1).

A JPEG that breaks off FFmpeg's decoder completes with grey, and says nothing. Its end and another's beginning
cannot stand in the data of a scan (ITU-T T.81, F.1.2.3: 0xFF is followed by zero there).
"""

from __future__ import annotations

from collections.abc import Callable

_START = b"\x00\x00\x01"
_BEGIN, _END = b"\xff\xd8", b"\xff\xd9"
_LOOKED_AT = 64
"""Bytes of a packet in which its first start code stands."""


def _h264(head: bytes) -> bool:
    return not head[0] & 0x80 and 1 <= head[0] & 0x1F <= 23


def _hevc(head: bytes) -> bool:
    return not head[0] & 0x80 and (head[0] >> 1) & 0x3F <= 40 and head[1] & 0x07 > 0


_CHECKS: dict[str, Callable[[bytes], bool]] = {"h264": _h264, "hevc": _hevc}


def checker(codec: str, container: str) -> Callable[[memoryview], bool] | None:
    """What says whether a packet's data is of ``codec``; None where no other can come, or be told."""
    check = _CHECKS.get(codec)
    if check is None or container != "mpegts":
        return None

    def could_be(packet: memoryview) -> bool:
        first = bytes(packet[:_LOOKED_AT])
        at = first.find(_START) + len(_START)
        return at < len(_START) or len(first) < at + 2 or check(first[at : at + 2])

    return could_be


class WholeJpegs:
    """Whether the pictures of a JPEG stream come whole. One that ends none as it should is not judged."""

    def __init__(self) -> None:
        self._ends = False

    def __call__(self, packet: memoryview) -> bool:
        """Whether this one is: it has its end, and no other picture begins before that."""
        data = bytes(packet)
        begun, end = _scan(data), data.rfind(_END)
        whole = 0 < begun < end
        if whole and (other := data.find(_BEGIN, begun, end)) > 0:
            whole = data.find(_END, begun, other) > 0  # such as the second field of an interlaced one
        self._ends = self._ends or whole
        return whole or not self._ends


def _scan(data: bytes) -> int:
    """Where the first scan's header begins; 0 where none does. Segments before it may hold another JPEG."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:
            return at
        filled = data[at + 1] == 0xFF
        at += 1 if filled else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0
