"""How large a picture file claims to be, read from its headers, before anything is decoded.

A file can name its size more than once, and readers differ in which one they take: so it is the largest that
counts, or the file has no size at all.
"""

from __future__ import annotations

import struct
from contextlib import suppress

_PNG = b"\x89PNG\r\n\x1a\n"
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_END = 0xD9
_TIFF_SIDES = frozenset({256, 257, 322, 323})


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG, PNG, BMP, WebP or TIFF file; None for what is none, or is cut short."""
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(_PNG):
            width, height = struct.unpack_from(">II", data, 16)
            return (width, height) if data[12:16] == b"IHDR" else None
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
    """The largest frame header's (ITU-T T.81, B.2.2), up to the end of the image."""
    found: list[tuple[int, int]] = []
    at = 2
    with suppress(struct.error, IndexError):  # cut short, maybe after its header
        while (at := data.find(b"\xff", at)) >= 0:
            kind = data[at + 1]
            if kind in (0x00, 0xFF):  # no marker, or one that is filled up
                at += 1
            elif kind == _END and found:
                break
            elif kind in _ALONE or kind == _END:
                at += 2
            else:
                if kind in _SOF:
                    height, width = struct.unpack_from(">HH", data, at + 5)
                    found.append((width, height))
                at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return _largest(found)


def _bmp(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return abs(width), abs(height)  # a height below zero: its rows begin at the top


def _webp(data: bytes) -> tuple[int, int] | None:
    """The largest of canvas, pictures and frames (WebP container specification; RFC 6386, 9.1)."""
    found: list[tuple[int, int]] = []
    at = 12
    with suppress(struct.error):  # cut short, maybe after its header
        while True:
            kind, length = struct.unpack_from("<4sI", data, at)
            at += 8
            if kind in (b"VP8X", b"ANMF"):
                sides = struct.unpack_from("<HBHB", data, at + (4 if kind == b"VP8X" else 6))
                found.append((1 + sides[0] + (sides[1] << 16), 1 + sides[2] + (sides[3] << 16)))
            elif kind == b"VP8L":
                (bits,) = struct.unpack_from("<I", data, at + 1)
                found.append((1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)))
            elif kind == b"VP8 ":
                width, height = struct.unpack_from("<HH", data, at + 6)
                found.append((width & 0x3FFF, height & 0x3FFF))
            # A frame's own chunks follow its 16 bytes of header.
            at += 16 if kind == b"ANMF" else length + (length & 1)
    return _largest(found)


def _tiff(data: bytes) -> tuple[int, int] | None:
    """ImageWidth and ImageLength, or TileWidth and TileLength, of the first directory (TIFF 6.0; BigTIFF)."""
    order = "<" if data[:1] == b"I" else ">"
    big = b"+" in data[2:4]
    (at,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)
    (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, at)
    at += 8 if big else 2
    sides: dict[int, int] = {}
    for entry in range(min(count, 4096)):
        tag, kind = struct.unpack_from(f"{order}HH", data, at + entry * (20 if big else 12))
        if tag in _TIFF_SIDES:
            where = at + entry * (20 if big else 12) + (12 if big else 8)
            form = {3: "H", 4: "I", 16: "Q"}.get(kind)
            if form is None or tag in sides:  # libtiff takes the first of two, others the last
                return None
            (sides[tag],) = struct.unpack_from(f"{order}{form}", data, where)
    if 256 not in sides or 257 not in sides:
        return None
    # A tile is read whole, also where it is larger than the picture.
    return max(sides[256], sides.get(322, 0)), max(sides[257], sides.get(323, 0))


def _largest(found: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Of every width and every height; None of nothing."""
    return (max(width for width, _ in found), max(height for _, height in found)) if found else None
