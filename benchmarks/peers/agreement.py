"""Whether two programs detected the same: the condition for comparing how fast they did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.vision.boxes import iou_matrix

LEAST_IOU, LEAST_SHARE, LEAST_SCORE = 0.98, 0.995, 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What was detected in ``frames`` frames: N detections, each with the number of its frame."""

    frames: int
    frame: NDArray[np.int64]
    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]
    class_id: NDArray[np.int32]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what an adapter wrote."""
        with np.load(path) as kept:
            return cls(int(kept["frames"]), *(kept[key] for key in ("frame", "xyxy", "score", "class_id")))


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of the reference's detections over the score, how many the other has, and the other way round."""

    reference: int
    found: int
    other: int
    confirmed: int

    @property
    def share(self) -> float:
        """The lesser of the two shares; 1 where neither side has any."""
        pairs = ((self.found, self.reference), (self.confirmed, self.other))
        return min(part / whole if whole else 1.0 for part, whole in pairs)

    @property
    def equal(self) -> bool:
        """Whether that is enough."""
        return self.share >= LEAST_SHARE

    def data(self) -> Mapping[str, Any]:
        """For JSON."""
        counts = {key: getattr(self, key) for key in ("reference", "found", "other", "confirmed")}
        return {"equal": self.equal, "share": self.share, **counts}


def agreement(reference: Found, other: Found) -> Agreement:
    """Compare two sets of detections of the same frames.

    A detection is found when the other side has one of its class in its frame with an IoU of at least
    ``LEAST_IOU``, which no second one can claim. Those over ``LEAST_SCORE`` are looked for, among all
    that the other side has: one may score .3001 here and .2999 there. Raises ValueError for different
    numbers of frames.
    """
    if reference.frames != other.frames:
        raise ValueError(f"expected as many frames: {reference.frames} and {other.frames}")
    return Agreement(*_matched(reference, other), *_matched(other, reference))


def _matched(wanted: Found, among: Found) -> tuple[int, int]:
    """How many of ``wanted`` are over the score, and how many of them stand in ``among``."""
    count = matched = 0
    for number in np.unique(wanted.frame[wanted.score > LEAST_SCORE]):
        mine = np.flatnonzero((wanted.frame == number) & (wanted.score > LEAST_SCORE))
        theirs = np.flatnonzero(among.frame == number)
        overlaps = iou_matrix(wanted.xyxy[mine], among.xyxy[theirs])
        overlaps[wanted.class_id[mine][:, None] != among.class_id[theirs]] = 0
        count += len(mine)
        if not len(theirs):
            continue
        for row in np.argsort(-wanted.score[mine], kind="stable"):
            best = overlaps[row].argmax()
            if overlaps[row, best] >= LEAST_IOU:
                matched += 1
                overlaps[:, best] = 0
    return count, matched
