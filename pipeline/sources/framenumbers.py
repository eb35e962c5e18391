"""Whether a reference picture is missing from H.264: by the numbers that pictures carry.

Where a camera, or a network, loses a whole picture, FFmpeg's decoder repeats the one before in its place and
marks nothing. The rules are of ITU-T H.264: 7.4.3 (``frame_num``), 8.2.1.1 (order of display).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import islice

from pipeline.sources.parametersets import IDR, PPS, SLICE, SPS, B, P, ParameterSets, Slice

_START = b"\x00\x00\x01"
_LOOKED_AT = 4096
"""Bytes of a packet in which its parameter sets and its first slice begin."""
_HEADER = {SLICE: 48, IDR: 48}
_SET = 1024
_MOST_UNITS = 256
"""Of a packet that are looked at: slices stand among the first."""
"""Bytes of a unit that are read: what is looked for in a slice, and a parameter set, have fewer."""


class FrameNumbers:
    """Of one stream's packets, in the order of decoding."""

    def __init__(self, extradata: bytes = b"") -> None:
        """``extradata`` is the decoder's: with start codes, or an AVCDecoderConfigurationRecord (ISO/IEC
        14496-15, 5.3.3.1), whose stream has the lengths of units in their place."""
        self._length_size = 0
        """Bytes of a unit's length; 0: there are start codes."""
        self._sets = ParameterSets()
        self.rate: Fraction | None = None
        """Fields, or pictures, per second by the last packet's parameter sets; None: they do not say."""
        self._forget()
        self.learn(extradata)

    def learn(self, extradata: bytes) -> None:
        """Go by others from the next packet on, as FLV and MP4 may say in mid-stream."""
        units = _units(extradata, 0)
        if extradata[:1] == b"\x01" and len(extradata) > 6:
            self._length_size = (extradata[4] & 3) + 1
            units = _recorded(extradata)
        with suppress(IndexError):  # it is damaged; another one will come
            for kind, _, unit in units:
                self._sets.learn(kind, unit)

    def gap_before(self, packet: memoryview) -> bool:
        """Whether a picture that this packet's is coded from has not come. False for what cannot be read: the
        decoder will tell."""
        try:
            for kind, reference, unit in _units(bytes(packet[:_LOOKED_AT]), self._length_size):
                if kind in (SPS, PPS):
                    self._sets.learn(kind, unit)
                elif kind in (SLICE, IDR):
                    first = self._sets.read(kind, reference, unit)
                    self.rate = first.sequence.rate if first is not None else None
                    if first is None or first.sequence.gaps:
                        break
                    gap = self._is_gap(first)
                    return self._second_is_gap(packet, first) or gap if self._half is first else gap
        except IndexError:  # it is damaged
            pass
        self._forget()
        return False

    def holds_picture(self, packet: memoryview) -> bool:
        """Whether there is a slice in a packet."""
        parts = (packet[:_LOOKED_AT], packet)
        units = (unit for part in parts for unit in _units(bytes(part), self._length_size))
        return any(SLICE <= kind <= IDR for kind, _, _ in units)

    def _forget(self) -> None:
        self._last: int | None = None
        """The number of the last reference picture; None: nothing to compare with."""
        self._order: int | None = None
        """Its place in the order of display, since the last IDR picture."""
        self._anchor: int | None = None
        """That of the last one which is no B picture."""
        self._half: Slice | None = None
        """It, where it is a field whose other one is still to come."""

    def _second_is_gap(self, packet: memoryview, first: Slice) -> bool:
        """The same for the other field of a frame, where it stands in the same packet."""
        for kind, reference, unit in _units(bytes(packet), self._length_size):
            if kind in (SLICE, IDR):
                other = self._sets.read(kind, reference, unit)
                if other is not None and other.bottom is (not first.bottom):
                    return self._is_gap(other)
        return False

    def _is_gap(self, now: Slice) -> bool:
        if not now.begins and now.number == self._last:
            return False  # some containers give each slice a packet of its own
        half, self._half = self._half, None
        if half is not None and now.completes(half):
            if now.reference:
                self._order = self._place(now)
            return False
        gap = False
        if now.idr:  # it is made from no other
            self._order = self._anchor = now.order
        else:
            step = None if self._last is None else (now.number - self._last) % (1 << now.sequence.number_bits)
            order = self._place(now)
            # By chance the step may be right though an IDR picture, from which both are counted anew, is
            # missing; then a P picture may seem to come before one that it is made from.
            early = now.kind == P and self._anchor is not None and order is not None and order < self._anchor
            gap = half is not None or step not in (None, 1) or early
            if now.reference:
                self._order = order
                if now.kind != B:
                    self._anchor = order
        if now.reference:
            self._last = now.number
            self._half = now if now.bottom is not None else None
        return gap

    def _place(self, now: Slice) -> int | None:
        """A picture's place in the order of display: of those that its low bits stand for, the one nearest to
        the last reference picture's."""
        if now.order is None or self._order is None:
            return now.order
        span = 1 << now.sequence.order_bits
        return self._order - ((self._order - now.order + span // 2) % span - span // 2)


def _units(data: bytes, length_size: int) -> Iterator[tuple[int, bool, bytes]]:
    """Kind, whether it is referred to, and the first bytes of each unit: behind a start code, or behind its
    length where that has ``length_size`` bytes."""
    spans = _behind_lengths(data, length_size) if length_size else _behind_start_codes(data)
    for at, end in islice(spans, _MOST_UNITS):
        yield _unit(data, at, end)


def _unit(data: bytes, at: int, end: int) -> tuple[int, bool, bytes]:
    kind = data[at] & 0x1F
    unit = data[at + 1 : min(end, at + _HEADER.get(kind, _SET))]
    return kind, bool(data[at] & 0x60), unit.replace(b"\x00\x00\x03", b"\x00\x00")


def _recorded(record: bytes) -> Iterator[tuple[int, bool, bytes]]:
    """The same of the parameter sets in an AVCDecoderConfigurationRecord: those of sequences, and those of
    pictures, each with their number before them. Raises IndexError where it ends early."""
    at = 5
    for mask in (0x1F, 0xFF):
        count, at = record[at] & mask, at + 1
        for _ in range(count):
            begin = at + 2
            at = begin + int.from_bytes(record[at:begin], "big")
            yield _unit(record, begin, at)


def _behind_start_codes(data: bytes) -> Iterator[tuple[int, int]]:
    at = data.find(_START)
    while at >= 0 and at + 3 < len(data):
        at += 3
        end = data.find(_START, at)
        yield at, end if end >= 0 else len(data)
        at = end


def _behind_lengths(data: bytes, size: int) -> Iterator[tuple[int, int]]:
    at = size
    for _ in range(_MOST_UNITS):
        if at >= len(data):
            return
        end = at + int.from_bytes(data[at - size : at], "big")
        if end > at:
            yield at, end
        at = end + size
