"""Face detectors' heads: outputs [1, boxes, width] for each stride, told by their rows and widths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.candidates import Floats, cell_count, grid

LANDMARKS = 5
"""Eyes, nose and corners of the mouth."""


def levels(
    shapes: Sequence[tuple[int | None, ...]],
    input_hw: tuple[int, int],
    strides: Sequence[int],
    widths: Sequence[int],
    each: int,
) -> list[list[int]] | None:
    """Return for each stride the places of its outputs, one for each of ``widths``; None for others.

    ``shapes`` are [1, N, width] or [N, width], in any order; N is ``each`` times a stride's cells.
    """
    if len(shapes) != len(strides) * len(widths) or any(len(shape) not in (2, 3) for shape in shapes):
        return None
    left = list(range(len(shapes)))
    found = []
    for stride in strides:
        count = each * cell_count(input_hw, (stride,))
        level = []
        for width in widths:
            place = next((index for index in left if shapes[index][-2:] == (count, width)), None)
            if place is None:
                return None
            left.remove(place)
            level.append(place)
        found.append(level)
    return found


def grids(
    input_hw: tuple[int, int], strides: Sequence[int]
) -> Iterator[tuple[NDArray[np.float32], np.float32]]:
    """Give for each stride the corners of its cells, float32 [cells, 2] in input pixels, and the stride."""
    for stride in strides:
        yield grid(input_hw, (stride,), 0.0)[0], np.float32(stride)


def landmarks(points: Floats) -> NDArray[np.float32]:
    """Return x and y of 5 points [N, 10] as keypoints [N, 5, 3]: no point is said to be hidden, so 1."""
    keypoints = np.ones((len(points), LANDMARKS, 3), np.float32)
    keypoints[:, :, :2] = points.reshape(len(points), LANDMARKS, 2)
    return keypoints


def probable(arrays: Sequence[NDArray[Any]]) -> bool:
    """Whether all are probabilities; float16 and 8-bit models reach a little over 0..1."""
    return all(bool(((array >= -0.05) & (array <= 1.05)).all()) for array in arrays)
