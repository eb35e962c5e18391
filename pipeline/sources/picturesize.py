"""How large a picture file claims to be, read from its first bytes, before anything is decoded."""

from __future__ import annotations

import struct

_PNG = b"\x89PNG\r\n\x1a\n"
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG, PNG, BMP, WebP or TIFF file; None for what is none, or is cut short."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(_PNG):
            width, height = struct.unpack_from(">II", data, 16)
            return width, height
        if data.startswith(b"BM"):
            return _bmp(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(data)
    except (struct.error, IndexError):
        pass  # cut short
    return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """The frame header's (ITU-T T.81, B.2.2)."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            return None
        kind = data[at + 1]
        if kind in (0x00, 0xFF):  # no marker, or one that is filled up
            at += 1
        elif kind in _ALONE:
            at += 2
        elif kind in _SOF:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _bmp(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a height below zero: its rows begin at the top


def _webp(data: bytes) -> tuple[int, int] | None:
    """Of the canvas, or of the one picture (WebP container specification; RFC 6386, 9.1)."""
    kind = data[12:16]
    if kind == b"VP8X":
        return (
            1 + int.from_bytes(data[24:27], "little"),
            1 + int.from_bytes(data[27:30], "little"),
        )
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff(data: bytes) -> tuple[int, int] | None:
    """ImageWidth and ImageLength of the first directory (TIFF 6.0; BigTIFF)."""
    order = "<" if data[:1] == b"I" else ">"
    big = b"+" in data[2:4]
    (at,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, at)
    at += 8 if big else 2
    sides: dict[int, int] = {}
    for entry in range(min(count, 4096)):
        tag, kind = struct.unpack_from(f"{order}HH", data, at + entry * (20 if big else 12))
        if tag in (256, 257):
            where = at + entry * (20 if big else 12) + (12 if big else 8)
            form = {3: "H", 4: "I", 16: "Q"}.get(kind)
            if form is None:
                return None
            (sides[tag],) = struct.unpack_from(f"{order}{form}", data, where)
    return (sides[256], sides[257]) if len(sides) == 2 else None
