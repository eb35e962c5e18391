"""Pictures that carry their own number: for tests, benchmarks and a first try without a camera.

A picture is a grid of 8 columns and 5 rows of dark and bright cells. The first four rows are the
bytes of the number, highest byte and bit first; the fifth is a check byte. Two grey levels far
apart and large cells survive a lossy codec, and a wrong reading is an error, not a wrong number.
"""

from __future__ import annotations

import functools
import itertools
import re
import threading
import time
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from pipeline.config import StreamConfig
from pipeline.errors import ConfigError
from pipeline.frame import Image
from pipeline.sources.base import Picture, Remembered, Source, SourceSpec
from pipeline.sources.opened import Once

COLUMNS, ROWS = 8, 5
SMALLEST, LARGEST = 8, 16384
_DARK, _BRIGHT = 32, 224
_SYNTAX = "synthetic:WxH[@FPS][?frames=N], such as synthetic:640x480@25?frames=100"
_PATTERN = re.compile(r"(?P<w>\d+)x(?P<h>\d+)(?:@(?P<fps>[\d./]+))?(?:\?frames=(?P<frames>\d+))?")


def encode_number(number: int, height: int, width: int) -> Image:
    """Draw ``number`` modulo 2³² as a fresh uint8 [height, width, 3] picture.

    Height and width are at least 8; a codec wants cells of 8 pixels, so 40 x 64 or more.
    """
    return _draw(np.empty((height, width, 3), np.uint8), number)


def _draw(image: Image, number: int, first: int = 0) -> Image:
    """Draw the rows of cells from ``first`` on; what is above them stays."""
    height, width = image.shape[:2]
    edges = _edges(height, ROWS)
    data = (number & 0xFFFFFFFF).to_bytes(4, "big")
    for row, byte in enumerate((*data, _check(data))[first:], start=first):
        image[edges[row] : edges[row + 1]] = _line(byte, width)
    return image


def read_number(image: Image) -> int:
    """Read the number that :func:`encode_number` drew, from uint8 [height, width, 3].

    Raises ValueError when the picture holds no such number.
    """
    height, width = image.shape[:2]
    ys, xs = _edges(height, ROWS), _edges(width, COLUMNS)
    values = []
    for top, bottom in itertools.pairwise(ys):
        byte = 0
        for left, right in itertools.pairwise(xs):
            # The middle of a cell: a lossy codec rings at the edges.
            y_pad, x_pad = (bottom - top) // 4, (right - left) // 4
            cell = image[top + y_pad : bottom - y_pad, left + x_pad : right - x_pad]
            byte = byte * 2 + int(cell.mean() > (_DARK + _BRIGHT) / 2)
        values.append(byte)
    data = bytes(values[:4])
    if values[4] != _check(data):
        raise ValueError(f"no number in this picture: bytes {data.hex()} with check byte {values[4]:02x}")
    return int.from_bytes(data, "big")


def check_synthetic(address: str) -> tuple[int, int, Fraction, int | None]:
    """Width, height, frames per second and number of frames (None: endless) of ``WxH@FPS?frames=N``.

    Raises ConfigError.
    """
    match = _PATTERN.fullmatch(address)
    if match is None:
        raise ConfigError(f"cannot understand 'synthetic:{address}': expected {_SYNTAX}")
    width, height = int(match["w"]), int(match["h"])
    if not (SMALLEST <= width <= LARGEST and SMALLEST <= height <= LARGEST):
        raise ConfigError(
            f"'synthetic:{address}': width and height must be within {SMALLEST}..{LARGEST}, "
            f"got {width}x{height}"
        )
    try:
        fps = Fraction(match["fps"] or 25).limit_denominator(1001)
    except (ValueError, ZeroDivisionError):
        fps = Fraction(0)
    if not 0 < fps <= 1000:
        raise ConfigError(
            f"'synthetic:{address}': frames per second must be within 0..1000, got {match['fps']}"
        )
    frames = int(match["frames"]) if match["frames"] else None
    if frames == 0:
        raise ConfigError(f"'synthetic:{address}': frames must be at least 1; leave it out for endless")
    return width, height, fps, frames


class SyntheticSource(Once):
    """Numbered pictures, as fast as they are taken."""

    live = False

    def __init__(self, address: str, stop: threading.Event) -> None:
        super().__init__()
        self._width, self._height, self._fps, self._frames = check_synthetic(address)
        self._stop = stop
        self.frame_count, self.declared_fps = self._frames, float(self._fps)
        length = "endless" if self._frames is None else f"{self._frames} frames"
        self.description = f"synthetic, {self._width}x{self._height}, {float(self._fps):g} fps, {length}"

    def _pictures(self) -> Iterator[Picture]:
        width, height, time_base, clock = self._width, self._height, 1 / self._fps, time.perf_counter
        number = 0
        whole = np.empty((height, width, 3), np.uint8)
        while number != self._frames and not self._stop.is_set():
            begun = clock()
            # The first three bytes are the same for 256 pictures.
            image = _draw(whole, number, 3 if number % 256 else 0).copy()
            yield Picture(image, number, time_base, clock() - begun)
            number += 1


def open_synthetic(
    spec: SourceSpec, stream: StreamConfig, stop: threading.Event, _: Remembered | None = None
) -> Source:
    """Open ``synthetic:WxH@FPS?frames=N``. Raises ConfigError."""
    del stream
    return SyntheticSource(spec.address, stop)


@functools.lru_cache(maxsize=8)
def _edges(length: int, cells: int) -> tuple[int, ...]:
    """Where cells begin and end along ``length`` pixels."""
    return tuple(i * length // cells for i in range(cells + 1))


@functools.lru_cache(maxsize=2048)
def _line(byte: int, width: int) -> Image:
    """One line of pixels, uint8 [width, 3], of the row of cells that shows ``byte``."""
    bits = (byte >> np.arange(COLUMNS - 1, -1, -1)) & 1
    levels = np.where(bits, _BRIGHT, _DARK).astype(np.uint8)
    return np.repeat(np.repeat(levels, np.diff(_edges(width, COLUMNS)))[:, None], 3, axis=1)


def _check(data: bytes) -> int:
    """A check byte that is not zero for an all-dark picture, nor ones for an all-bright one."""
    return (sum(byte * weight for weight, byte in enumerate(data, start=1)) * 7 + 0x5A) & 0xFF
