"""What a table of boxes is measured in and how its rows go, told from a trial run's centres.

Each row of a one-stage detector belongs to a grid cell, and whatever the picture shows, most boxes
have their centre in or near their cell. So only the right reading puts the rows there: on real
models the median distance is .1 to .6 cells, and more than 20 with any other unit or order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.candidates import Floats, grid
from pipeline.decoders.family import Param, whole_numbers

Unit = Literal["pixels", "parts", "offsets"]
"""Of a centre: input pixels; parts of the input, 0..1; cells from its own cell's corner."""
UNIT_TEXT = {"pixels": "input pixels", "parts": "parts of the input", "offsets": "offsets within their cells"}

_NEAR = 1.5
_USUAL_STRIDE = 32
STRIDES_PARAM = Param(
    whole_numbers, "pixels of a grid cell at each level; an input of free size has a multiple of the last"
)


def stated_strides(strides: tuple[int, ...]) -> dict[str, Any]:
    """The parameter for strides that reach beyond the usual, of which a free input's size is a multiple."""
    return {"strides": strides} if strides[-1] > _USUAL_STRIDE else {}


@dataclass(frozen=True, slots=True)
class Order:
    """How rows go: by level, the finest first unless ``coarse_first``; within a level by anchor, then
    by cell, unless ``cell_first``."""

    coarse_first: bool = False
    cell_first: bool = False

    def __str__(self) -> str:
        levels = "coarsest" if self.coarse_first else "finest"
        return (
            f"{levels} level first, then by {'cell, then anchor' if self.cell_first else 'anchor, then cell'}"
        )


ORDERS = (Order(), Order(coarse_first=True), Order(cell_first=True), Order(True, True))


@dataclass(frozen=True, slots=True)
class Placed:
    """A reading that puts rows into their cells; ``distance``: the median one from there, in cells."""

    unit: Unit
    order: Order
    distance: float


def place(
    centers: NDArray[Any],
    input_hw: tuple[int, int],
    strides: tuple[int, ...],
    anchors: int = 1,
    units: Sequence[Unit] = ("pixels", "parts"),
) -> Placed | None:
    """Return the unit and order that put ``centers`` [anchors · cells, 2] into their cells; None for none."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = centers.astype(np.float32)
    finite = np.asarray(np.isfinite(values).all(axis=1), np.bool_)
    if len(values) != len(_middles(input_hw, strides, anchors, Order())[0]) or not finite.any():
        return None
    values = values[finite]
    best = min(_readings(values, finite, input_hw, strides, anchors, units), key=lambda r: r.distance)
    return best if best.distance < _NEAR else None


def _readings(
    values: Floats,
    finite: NDArray[np.bool_],
    input_hw: tuple[int, int],
    strides: tuple[int, ...],
    anchors: int,
    units: Sequence[Unit],
) -> Iterator[Placed]:
    size = np.array(input_hw[::-1], np.float32)
    for order in ORDERS if anchors > 1 else ORDERS[:2]:
        middle, stride = (part[finite] for part in _middles(input_hw, strides, anchors, order))
        for unit in units:
            with np.errstate(over="ignore"):
                if unit == "offsets":
                    apart = values - np.float32(0.5)
                else:
                    apart = (values * (size if unit == "parts" else 1) - middle) / stride
            yield Placed(unit, order, float(np.median(np.abs(apart))))


@lru_cache(maxsize=64)
def _middles(
    input_hw: tuple[int, int], strides: tuple[int, ...], anchors: int, order: Order
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The middle of each row's cell and its stride, input pixels: [anchors · cells, 2] and [.., 1]."""
    levels = [grid(input_hw, (stride,), 0.5) for stride in sorted(strides, reverse=order.coarse_first)]
    if order.cell_first:
        repeated = [[np.repeat(part, anchors, axis=0) for part in level] for level in levels]
    else:
        repeated = [[np.tile(part, (anchors, 1)) for part in level] for level in levels]
    points, sizes = (np.concatenate(part) for part in zip(*repeated, strict=True))
    return points, sizes
