"""Whether a reference picture is missing from H.264: by the numbers that pictures carry (``frame_num``).

Where a camera, or a network, loses a whole picture, FFmpeg's decoder repeats the one before in its place and
marks nothing. Syntax and the rule are of ITU-T H.264: 7.3.2.1.1 (sequence parameter set), 7.3.3 (slice
header), 7.4.3 (frame_num).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

_START = b"\x00\x00\x01"
_SLICE, _IDR, _SPS = 1, 5, 7
_HIGH = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
"""Profiles whose parameter sets say more of colours."""
_LOOKED_AT = 4096
"""Bytes of a packet in which its parameter sets and its first slice begin."""
_HEADER = 1024
"""Bytes of a unit that are read: a parameter set has fewer."""


class FrameNumbers:
    """Of one stream's packets, in the order of decoding."""

    def __init__(self, extradata: bytes = b"") -> None:
        """``extradata`` is the decoder's: with start codes, or an AVCDecoderConfigurationRecord (ISO/IEC
        14496-15, 5.3.3.1), whose stream has the lengths of units in their place."""
        self._length_size = 0
        """Bytes of a unit's length; 0: there are start codes."""
        self._sets: dict[int, tuple[int | None, bool]] = {}
        """Of each parameter set, how many bits ``frame_num`` has (None: gaps are allowed), and whether a
        slice says of which colour plane it is."""
        self._last: int | None = None
        """That of the last reference picture; None: nothing to compare with."""
        if extradata[:1] == b"\x01" and len(extradata) > 6:
            self._length_size = (extradata[4] & 3) + 1
            # A record of parameter sets is that of units with lengths of two bytes.
            units = _units(extradata[6:], 2, extradata[5] & 31)
        else:
            units = _units(extradata, 0)
        with suppress(IndexError):  # it is damaged; another one will come
            for kind, _, unit in units:
                if kind == _SPS:
                    self._learn(unit)

    def gap_before(self, packet: memoryview) -> bool:
        """Whether a picture that this packet's is coded from has not come. False for what cannot be read: the
        decoder will tell."""
        try:
            for kind, reference, unit in _units(bytes(packet[:_LOOKED_AT]), self._length_size):
                if kind == _SPS:
                    self._learn(unit)
                elif kind == _IDR:
                    self._last = 0
                    return False
                elif kind == _SLICE:
                    return self._is_gap(unit, reference)
        except IndexError:  # it is damaged
            pass
        self._last = None
        return False

    def holds_picture(self, packet: memoryview) -> bool:
        """Whether there is a slice in a packet."""
        parts = (packet[:_LOOKED_AT], packet)
        units = (unit for part in parts for unit in _units(bytes(part), self._length_size))
        return any(_SLICE <= kind <= _IDR for kind, _, _ in units)

    def _is_gap(self, unit: bytes, reference: bool) -> bool:
        sets = set(self._sets.values())
        if len(sets) != 1:  # which one it goes by, the picture parameter sets would say
            return False
        ((length, colours),) = sets
        if length is None:
            return False
        bits = _Bits(unit)
        for _ in ("first_mb_in_slice", "slice_type", "pic_parameter_set_id"):
            bits.ue()
        if colours:
            bits.u(2)
        number, last = bits.u(length), self._last
        if reference:
            self._last = number
        return last is not None and (number - last) % 2**length > 1

    def _learn(self, unit: bytes) -> None:
        bits = _Bits(unit)
        profile = bits.u(8)
        bits.u(16)  # constraints, level
        own, colours = bits.ue(), False
        if profile in _HIGH:
            chroma = bits.ue()
            colours = chroma == 3 and bool(bits.u(1))
            bits.ue(), bits.ue(), bits.u(1)  # bit depths, transform bypass
            if bits.u(1):
                for number in range(12 if chroma == 3 else 8):
                    if bits.u(1):
                        _skip_scaling_list(bits, 16 if number < 6 else 64)
        length = bits.ue() + 4
        order = bits.ue()
        if order == 0:
            bits.ue()
        elif order == 1:
            bits.u(1), bits.ue(), bits.ue()
            for _ in range(bits.ue()):
                bits.ue()
        bits.ue()  # max_num_ref_frames
        self._sets[own] = None if bits.u(1) or length > 16 else length, colours


class _Bits:
    """Reads a unit's bits. Raises IndexError behind its end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def u(self, count: int) -> int:
        """An unsigned number of so many bits."""
        if count > self._left:
            raise IndexError("behind the end")
        self._left -= count
        return (self._value >> self._left) & ((1 << count) - 1)

    def ue(self) -> int:
        """An Exp-Golomb number (9.1)."""
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        """A signed one (9.1.1)."""
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _units(data: bytes, length_size: int, most: int | None = None) -> Iterator[tuple[int, bool, bytes]]:
    """Kind, whether it is referred to, and the first bytes of each unit (of the first ``most``): behind a
    start code, or behind its length where that has ``length_size`` bytes."""
    spans = _behind_lengths(data, length_size) if length_size else _behind_start_codes(data)
    for at, end in islice(spans, most):
        unit = data[at + 1 : min(end, at + _HEADER)]
        yield data[at] & 0x1F, bool(data[at] & 0x60), unit.replace(b"\x00\x00\x03", b"\x00\x00")


def _behind_start_codes(data: bytes) -> Iterator[tuple[int, int]]:
    at = data.find(_START)
    while at >= 0 and at + 3 < len(data):
        at += 3
        end = data.find(_START, at)
        yield at, end if end >= 0 else len(data)
        at = end


def _behind_lengths(data: bytes, size: int) -> Iterator[tuple[int, int]]:
    at = size
    while at < len(data):
        end = at + int.from_bytes(data[at - size : at], "big")
        if end > at:
            yield at, end
        at = end + size
