"""Whether a packet can be of the codec that its stream began with.

In MPEG-TS another codec may follow under the same number. FFmpeg's H.264 decoder makes pictures of MPEG-2's
data: repeated and smeared ones, most of them not marked. What follows the first start code tells them apart
(ITU-T H.264 table 7-1, H.265 table 7-1, H.262 table 6-1).
"""

from __future__ import annotations

from collections.abc import Callable

_START = b"\x00\x00\x01"
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
