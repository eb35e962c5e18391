"""Numbers in a graph that follow from the size of its picture: what they may be made of."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_STRIDES = tuple(2**power for power in range(8))
_ANCHORS = (1, 2, 3, 4, 6, 9)
"""Boxes for each cell of a grid."""

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a number is made of: rows or columns of a grid, or all cells of some grids, so many times."""

    kind: Literal["rows", "columns", "cells"]
    strides: tuple[int, ...]
    anchors: int = 1

    def at(self, size: Size) -> int:
        """The number for pictures of this height and width."""
        grids = [tuple(-(-side // stride) for side in size) for stride in self.strides]
        if self.kind == "cells":
            return self.anchors * sum(rows * columns for rows, columns in grids)
        return grids[0][0] if self.kind == "rows" else grids[0][1]


def meanings(number: int, size: Size) -> list[Meaning]:
    """What ``number`` may be made of in a graph for pictures of this height and width."""
    found = [
        meaning
        for stride in _STRIDES
        for kind in ("rows", "columns")
        if (meaning := Meaning(kind, (stride,))).at(size) == number
    ]
    for first, last in itertools.combinations(range(len(_STRIDES) + 1), 2):
        once = Meaning("cells", _STRIDES[first:last])
        anchors, rest = divmod(number, once.at(size))
        if not rest and anchors in _ANCHORS:
            found.append(Meaning("cells", once.strides, anchors))
    return found


def is_even(values: NDArray[Any], axis: int) -> bool:
    """Whether values rise by the same step all along ``axis``, or are the same."""
    bends = np.diff(values.astype(np.float64), n=2, axis=axis)
    return bool(np.abs(bends).max(initial=0.0) <= 1e-4 * max(np.abs(values).max(initial=0.0), 1e-9))
