"""What H.264's parameter sets and slice headers say of a picture.

Syntax is of ITU-T H.264: 7.3.2.1.1 (sequence parameter set), 7.3.2.2 (picture parameter set), 7.3.3 (slice
header).
"""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import NamedTuple

SLICE, IDR, SPS, PPS = 1, 5, 7, 8
"""Kinds of units."""
_EXTENDED_SAR = 255
P, B = 0, 1
"""Types of slices; there are I slices, too, and two that nobody uses."""
_HIGH = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
"""Profiles whose parameter sets say more of colours."""


class Sequence(NamedTuple):
    """What a sequence parameter set says of the headers of its slices."""

    number_bits: int
    """Of ``frame_num``."""
    gaps: bool
    """Whether it may have gaps."""
    order_bits: int
    """Of ``pic_order_cnt_lsb``; 0: there is none."""
    colours: bool
    """Whether a slice says of which colour plane it is."""
    fields: bool
    """Whether it says if it is of a field."""
    rate: Fraction | None
    """Fields, or pictures, per second; None: it does not say."""


class Slice(NamedTuple):
    """What the beginning of a slice says of its picture."""

    sequence: Sequence
    begins: bool
    """Whether it is the first of its picture."""
    idr: bool
    reference: bool
    kind: int
    """P, B, or another."""
    number: int
    bottom: bool | None
    """None: it is no field."""
    order: int | None
    """The low bits of its place in the order of display; None: they are not told."""

    def completes(self, first: Slice) -> bool:
        """Whether it is the other field of the frame whose one field is ``first``."""
        return self.bottom is (not first.bottom) and self.number == first.number


class ParameterSets:
    """Those that have come; a new one takes the place of the one with its number."""

    def __init__(self) -> None:
        self._sequences: dict[int, Sequence] = {}
        self._pictures: dict[int, int] = {}
        """Of each picture parameter set, the sequence's that it goes by."""

    def learn(self, kind: int, unit: bytes) -> None:
        """Of an SPS or a PPS. Raises IndexError where it ends early."""
        bits = _Bits(unit)
        if kind == SPS:
            own, sequence = _sequence(bits)
            self._sequences[_below(32, own)] = sequence
        elif kind == PPS:
            own = _below(256, bits.ue())
            self._pictures[own] = _below(32, bits.ue())

    def read(self, kind: int, reference: bool, unit: bytes) -> Slice | None:
        """A slice's header; None: its parameter sets have not come. Raises IndexError where it ends early."""
        bits = _Bits(unit)
        begins = bits.ue() == 0
        of_slice = bits.ue() % 5
        sequence = self._sequences.get(self._pictures.get(bits.ue(), -1))
        if sequence is None:
            return None
        if sequence.colours:
            bits.u(2)
        number = bits.u(sequence.number_bits)
        bottom = bool(bits.u(1)) if sequence.fields and bits.u(1) else None
        if kind == IDR:
            bits.ue()  # idr_pic_id
        order = bits.u(sequence.order_bits) if sequence.order_bits else None
        return Slice(sequence, begins, kind == IDR, reference, of_slice, number, bottom, order)


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


def _below(most: int, number: int) -> int:
    """A set's number (7.4.2). Raises IndexError for one that cannot be: memory is not to grow with them."""
    if number >= most:
        raise IndexError("no such set")
    return number


def _sequence(bits: _Bits) -> tuple[int, Sequence]:
    """A sequence parameter set's number, and what it says."""
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
    number_bits = bits.ue() + 4
    order_type, order_bits = bits.ue(), 0
    if order_type == 0:
        order_bits = bits.ue() + 4
    elif order_type == 1:
        bits.u(1), bits.ue(), bits.ue()
        for _ in range(bits.ue()):
            bits.ue()
    bits.ue()  # max_num_ref_frames
    gaps = bool(bits.u(1))
    bits.ue(), bits.ue()  # width, height
    fields, rate = not bits.u(1), None
    with suppress(IndexError):
        rate = _rate(bits, fields)
    return own, Sequence(number_bits, gaps, order_bits, colours, fields, rate)


def _rate(bits: _Bits, fields: bool) -> Fraction | None:
    """Of what comes behind ``frame_mbs_only_flag``, up to the usability information (E.1.1) and within it."""
    bits.u(2 if fields else 1)
    if bits.u(1):
        bits.ue(), bits.ue(), bits.ue(), bits.ue()  # cropping
    if not bits.u(1):
        return None
    if bits.u(1) and bits.u(8) == _EXTENDED_SAR:
        bits.u(32)
    if bits.u(1):
        bits.u(1)  # overscan
    if bits.u(1):
        bits.u(4)  # video_format, range
        if bits.u(1):
            bits.u(24)  # colours
    if bits.u(1):
        bits.ue(), bits.ue()  # chroma_sample_loc_type
    if not bits.u(1):
        return None
    units, scale = bits.u(32), bits.u(32)
    return Fraction(scale, units) if units and scale else None


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last
