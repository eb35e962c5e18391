"""Writes the headers of H.264 that tell of missing pictures, and no pictures: by the standard alone (ITU-T
H.264, 7.3.2.1.1, 7.3.2.2, 7.3.3), so that their reader is held against it and not against an encoder."""

from __future__ import annotations

P, B, I = 5, 6, 7  # noqa: E741
"""Types of slices: all of the picture's are of it."""


def _bits(*parts: tuple[int, int] | int) -> bytes:
    """Numbers of so many bits, or Exp-Golomb ones; then the trailing bits."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += "0" * ((part + 1).bit_length() - 1) + f"{part + 1:b}"
        elif part[1]:
            text += f"{part[0] % 2 ** part[1]:0{part[1]}b}"
    text += "1"
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def _unit(head: int, data: bytes) -> bytes:
    escaped = bytearray()
    for byte in data:
        if escaped[-2:] == b"\0\0" and byte <= 3:
            escaped.append(3)
        escaped.append(byte)
    return b"\0\0\0\1" + bytes([head]) + bytes(escaped)


class Headers:
    """Of one sequence. ``order_bits`` 0: nothing is told of the order of display."""

    def __init__(self, number_bits: int = 4, order_bits: int = 4, fields: bool = False, own: int = 0) -> None:
        self._number_bits, self._order_bits, self._fields, self._own = number_bits, order_bits, fields, own

    def sets(self) -> bytes:
        """Both parameter sets."""
        order: list[int] = [0, self._order_bits - 4] if self._order_bits else [2]
        size = (4, (0, 1), 10, 10, (not self._fields, 1))
        sequence = _bits((77, 8), (0, 8), (30, 8), self._own, self._number_bits - 4, *order, *size)
        return _unit(0x67, sequence) + _unit(0x68, _bits(self._own, self._own))

    def slice(
        self,
        number: int,
        place: int,
        kind: int = P,
        *,
        reference: bool = True,
        bottom: bool | None = None,
        first: int = 0,
    ) -> bytes:
        """The beginning of a picture (or of what goes on at macroblock ``first``), and some data. Of kind I
        with the number 0, it is an IDR one."""
        idr = kind == I and number == 0
        field = () if not self._fields else ((0, 1),) if bottom is None else ((1, 1), (bottom, 1))
        data = _bits(
            *(first, kind, self._own, (number, self._number_bits), *field),
            *((3,) if idr else ()),
            *((place, self._order_bits), (0xABCD_EF01, 32)),
        )
        return _unit((0x60 if reference else 0) | (5 if idr else 1), data)
