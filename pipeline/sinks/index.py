"""MP4 files as a sequence of boxes: the index of a finished one moved to its front, an unfinished one cut.

With its index in front a browser plays a file while it loads. FFmpeg's ``faststart`` does this within the
file, which is no MP4 at all meanwhile. Here the whole file has its name already, and a copy takes its place
when that is whole, too: a kill at any moment costs nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.sinks.files import move, open_alone, remove

MOST_BYTES = 1 << 28
"""Larger files keep their index at the end: a line that is asked to stop must not copy for minutes. Players
and browsers seek in them all the same, where the server answers range requests."""
_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_HEADER = struct.Struct(">I4s")
_OFFSETS = 16
"""Bytes before the numbers of an ``stco`` box: size, type, version and flags, count."""


def index_to_front(path: Path, part: Path) -> bool:
    """Let ``path``, a finished MP4 or MOV, begin with its index; whether that was done.

    It is not for a file above ``MOST_BYTES``, and one that is laid out in another way than FFmpeg's. The copy
    is made as ``part``, the name under which runs write this file, so no other one begins meanwhile. Raises
    OSError where it cannot be made; ``path`` is then as it was, and ``part``, where this made it, removed.
    """
    if path.stat().st_size > MOST_BYTES:
        return False
    with open_alone(part) as copy:
        if os.fstat(copy.fileno()).st_size:
            raise FileExistsError(errno.EEXIST, f"another run left {part}")  # killed a moment ago
        try:
            # Read only now: another run may have put its own in this place before the name was locked.
            moved = _copy(path, copy)
            if moved:
                shutil.copymode(path, part)
                move(copy, part, path)
            else:
                remove(copy, part)
        except OSError:
            remove(copy, part)
            raise
    return moved


def _copy(path: Path, target: FileIO) -> bool:
    """Write the file with its index in front; whether it is laid out so that this can be done."""
    with path.open("rb") as source:
        boxes = list(_boxes(source))
        if [kind for kind, _, _ in boxes[:1] + boxes[-1:]] != [b"ftyp", b"moov"]:
            return False
        (_, _, first), (_, start, end) = boxes[0], boxes[-1]
        source.seek(start)
        index = bytearray(source.read(end - start))
        # All that follows the file's type comes to lie further back by the length of the index.
        if not _shift(index, 0, len(index), len(index)):
            return False
        source.seek(0)
        _write(target, source.read(first))
        _write(target, index)
        left = start - first
        while left:
            data = source.read(min(left, 1 << 20))
            _write(target, data)
            left -= len(data)
        os.fsync(target.fileno())
    return True


def cut_to_fragments(path: Path) -> None:
    """Cut an unfinished MP4 or MOV after its last whole fragment: players stumble over half of one.

    Raises OSError.
    """
    with path.open("r+b") as file:
        # A fragment is its index (moof) and its frames (mdat); the second is nothing without the first.
        ends = [end for kind, _, end in _boxes(file) if kind == b"mdat" or kind == b"moov"]
        if ends:
            file.truncate(ends[-1])


def _write(target: FileIO, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[target.write(view) :]


def _boxes(source: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte and end of each box of the file."""
    at, length = 0, os.fstat(source.fileno()).st_size
    while at + _HEADER.size <= length:
        source.seek(at)
        size, kind = _HEADER.unpack(source.read(_HEADER.size))
        if size == 1:
            size = int.from_bytes(source.read(8), "big")
        if size < _HEADER.size or at + size > length:
            return
        yield kind, at, at + size
        at += size


def _shift(index: bytearray, at: int, end: int, by: int) -> bool:
    """Add ``by`` to every chunk's place in the file; False where there is none that is kept in 32 bits."""
    found = False
    while at < end:
        size, kind = _HEADER.unpack_from(index, at)
        if kind in _PARENTS:
            found |= _shift(index, at + _HEADER.size, at + size, by)
        elif kind == b"stco":
            numbers = np.frombuffer(index, ">u4", (size - _OFFSETS) // 4, at + _OFFSETS)
            numbers += np.uint32(by)
            found = True
        at += size
    return found
