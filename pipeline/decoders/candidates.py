"""What a decoder hands on, and the steps that all decoders share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelError

Floats = NDArray[np.floating[Any]]
# A float16 or 8-bit model may reach a little over 1; a logit goes far beyond.
_MAX_SCORE = 1.05


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """N candidate boxes of one image, in no particular order, before NMS.

    ``xyxy`` float32 [N, 4] in pixels of the model's input, left ≤ right and top ≤ bottom, not
    clipped. ``scores`` float32 [N] in 0..1. ``class_id`` int32 [N]. Every value is finite.
    """

    xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_id: NDArray[np.int32]
    keypoints: NDArray[np.float32] | None = None
    """[N, K, 3]: x and y in input pixels, and how surely the point is seen, 0..1."""
    rotated: NDArray[np.float32] | None = None
    """[N, 5]: centre x, centre y, width, height in input pixels; angle in radians, clockwise."""
    mask_coefficients: NDArray[np.float32] | None = None
    """[N, M]: a mask's logits are their product with ``prototypes``."""
    prototypes: NDArray[np.floating[Any]] | None = None
    """[M, h, w], over the whole input."""

    def take(self, chosen: NDArray[Any] | slice) -> Candidates:
        """Return those at ``chosen`` (indices, bool [N], or a slice), in that order."""
        return Candidates(
            self.xyxy[chosen],
            self.scores[chosen],
            self.class_id[chosen],
            None if self.keypoints is None else self.keypoints[chosen],
            None if self.rotated is None else self.rotated[chosen],
            None if self.mask_coefficients is None else self.mask_coefficients[chosen],
            self.prototypes,
        )

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        return f"Candidates({len(self)})"

    @classmethod
    def empty(cls) -> Candidates:
        """No candidates."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))

    @classmethod
    def checked(
        cls, xyxy: Floats, scores: Floats, class_id: NDArray[Any], **extra: NDArray[Any] | None
    ) -> Candidates:
        """Return what is sound of the boxes: those that are finite and not inside out.

        ``extra`` are the fields beside the three, which go with their boxes. Raises ModelError
        when the scores are no probabilities.
        """
        if xyxy.dtype != np.float32 or scores.dtype != np.float32:
            with np.errstate(over="ignore"):
                xyxy, scores = xyxy.astype(np.float32, copy=False), scores.astype(np.float32, copy=False)
        # All at once first: on a sound model, which is nearly all there are, that is the end of it.
        if extra or not (
            np.isfinite(xyxy).all() and np.isfinite(scores).all() and (xyxy[:, :2] <= xyxy[:, 2:]).all()
        ):
            sound = np.isfinite(xyxy).all(axis=1) & np.isfinite(scores)
            sound &= (xyxy[:, :2] <= xyxy[:, 2:]).all(axis=1)
            for name, part in extra.items():
                if part is not None and name != "prototypes":
                    sound &= np.isfinite(part).all(axis=tuple(range(1, part.ndim)))
            xyxy, scores, class_id = xyxy[sound], scores[sound], class_id[sound]
            extra = {
                name: part if part is None or name == "prototypes" else part[sound]
                for name, part in extra.items()
            }
        highest = float(scores.max(initial=0.0))
        if highest > _MAX_SCORE:
            raise ModelError(
                f"the model's scores reach {highest:.3g}; expected probabilities in 0..1: "
                f"export it with its sigmoid, or name the right family in its card"
            )
        if highest > 1.0:
            scores = np.minimum(scores, np.float32(1))
        return cls(xyxy, scores, class_id.astype(np.int32, copy=False), **extra)


def select(
    scores: Floats, conf_threshold: float, multi_label: bool, box_axis: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return box index, class index and score, [K] each, of what exceeds ``conf_threshold``.

    ``scores`` is [boxes, classes] with ``box_axis`` 0, or [classes, boxes] with 1. With
    ``multi_label`` every class of a box that exceeds it, else the best one (of equals the lower).

    One comparison over all scores, then work on its hits only: for NanoDet's 2704 × 80, 33 µs
    against 225 for ``scores.max(axis=1)``. A score that is not a number exceeds nothing.
    """
    passing = scores > conf_threshold
    hits = passing.ravel().nonzero()[0]  # as np.flatnonzero, in half the time
    if not multi_label and len(hits) > scores.shape[box_axis]:
        # An evaluation at a very low threshold; sorting so many hits is slower than looking at all.
        masked = np.where(passing, scores, -np.inf)
        best = masked.argmax(axis=1 - box_axis)
        box = np.flatnonzero(passing.any(axis=1 - box_axis))
        class_id = best[box]
        return box, class_id, scores[(box, class_id) if box_axis == 0 else (class_id, box)]
    indices = np.divmod(hits, scores.shape[1])
    box, class_id = indices if box_axis == 0 else indices[::-1]
    values = scores[indices]
    if multi_label or len(hits) < 2:
        return box, class_id, values
    order = np.lexsort((class_id, -values, box))
    box = box[order]
    first = np.ones(len(box), bool)
    np.not_equal(box[1:], box[:-1], out=first[1:])
    best = order[first]
    return box[first], class_id[best], values[best]


def matrix(output: NDArray[Any], family: str, expected: str) -> Floats:
    """Return a floating output [1, A, B] or [A, B] as [A, B]. Raises ModelError for another."""
    if output.ndim == 3 and output.shape[0] == 1:
        output = output[0]
    if output.ndim != 2 or output.dtype.kind != "f":
        raise malformed(family, expected, [output])
    return output


def malformed(family: str, expected: str, outputs: Sequence[NDArray[Any]]) -> ModelError:
    """Return the error of outputs that are not what the family has."""
    got = ", ".join(f"{output.dtype} {list(output.shape)}" for output in outputs) or "none"
    return ModelError(f"{family}: expected {expected}; got {got}; is {family} the model's family?")


def cell_count(input_hw: tuple[int, int], strides: Sequence[int]) -> int:
    """Return the number of grid cells of an input, over all strides."""
    return sum(-(-input_hw[0] // stride) * -(-input_hw[1] // stride) for stride in strides)


def cells_text(input_hw: tuple[int, int], strides: Sequence[int]) -> str:
    """Return where a number of cells comes from, such as ``80×80 + 40×40 + 20×20 cells``."""
    return " + ".join(f"{-(-input_hw[0] // s)}×{-(-input_hw[1] // s)}" for s in strides) + " cells"


def strides_for(
    count: int | None, input_hw: tuple[int, int] | None, choices: Sequence[tuple[int, ...]]
) -> tuple[int, ...] | None:
    """Return the first of ``choices`` that gives an input ``count`` cells; None where none does."""
    if count is None or input_hw is None:
        return None
    return next((strides for strides in choices if cell_count(input_hw, strides) == count), None)


@lru_cache(maxsize=64)
def grid(
    input_hw: tuple[int, int], strides: tuple[int, ...], offset: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the anchor point of each cell and its stride, in input pixels: [cells, 2] and [cells, 1].

    Float32, not writable. Cells go by stride, then by row, then by column; the point of column x
    and row y is ((x + ``offset``) · stride, (y + ``offset``) · stride).
    """
    points, sizes = [], []
    for stride in strides:
        rows, columns = (np.arange(-(-side // stride), dtype=np.float32) for side in input_hw)
        level = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        points.append((level + np.float32(offset)) * np.float32(stride))
        sizes.append(np.full((len(level), 1), stride, np.float32))
    point, size = np.concatenate(points), np.concatenate(sizes)
    point.setflags(write=False)
    size.setflags(write=False)
    return point, size
