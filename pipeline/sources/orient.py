"""Turning a stored picture the way it is to be seen, by its display matrix."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.frame import Image


class Orientation(NamedTuple):
    """Swap the axes (or not), then mirror left-right and top-bottom (or not)."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, image: Image) -> Image:
        """Return ``image``, uint8 [height, width, 3], turned; contiguous; itself when upright."""
        if self == UPRIGHT:
            return image
        import cv2  # seldom needed, and 25 MB of the process of an isolated source

        if self.transpose:
            image = np.asarray(cv2.transpose(image), np.uint8)
        if self.flip_x or self.flip_y:
            code = -1 if self.flip_x and self.flip_y else int(self.flip_x)
            image = np.asarray(cv2.flip(image, code), np.uint8)
        return image


UPRIGHT = Orientation()


def from_display_matrix(data: bytes) -> Orientation | None:
    """The orientation that nine native int32 (FFmpeg's display matrix) ask for.

    A stored point (x, y) is shown at (a·x + c·y, b·x + d·y), where the matrix begins a b u c d
    (libavutil/display.h; 16.16 fixed point). None when it asks for no multiple of 90 degrees.
    """
    a, b, _, c, d = (int(v) for v in np.frombuffer(data, np.int32)[:5])
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if straight > 20 * max(abs(b), abs(c)):
        return Orientation(False, a < 0, d < 0)
    if crossed > 20 * max(abs(a), abs(d)):
        return Orientation(True, c < 0, b < 0)
    return None
