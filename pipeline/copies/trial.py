"""What quantising each layer of a detector does to its detections, tried on calibration frames."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cores import usable_cores
from pipeline.detections import Detections
from pipeline.frame import Frame, Raw
from pipeline.runtime.model import Model
from pipeline.runtime.session import Session
from pipeline.stages.postprocess import Postprocess, Thresholds
from pipeline.stages.preprocess import BlobPool, Preprocess
from pipeline.vision.boxes import iou_matrix
from pipeline.vision.letterbox import Letterbox

LEAST_SCORE = 0.05
"""Detections above it are compared; those below are most of them, and noise."""
_FEWEST = 2
"""Frames on which a layer is tried, where time is short."""


def agreement(one: Detections, other: Detections) -> tuple[float, float]:
    """What two answers to one frame have in common, 2 Σ IoU·min(s, s'), and what there is, Σ s + Σ s'.

    Their ratio is 1 for equal answers and 0 where nothing meets: Dice's coefficient, with detections of
    one class paired one to one by falling IoU · least score. Unlike AP it answers to small changes.
    """
    both = iou_matrix(one.xyxy, other.xyxy).astype(np.float64)
    both *= np.minimum(one.confidence[:, None], other.confidence[None, :])
    both[one.class_id[:, None] != other.class_id[None, :]] = 0
    common = 0.0
    # A pair takes a row and a column: at most as many rounds as there are detections of one side.
    while both.size and (best := float(both.max())) > 0:
        row, column = np.unravel_index(int(both.argmax()), both.shape)
        common += best
        both[row], both[:, column] = 0, 0
    return 2 * common, float(one.confidence.sum(dtype=float) + other.confidence.sum(dtype=float))


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """A frame as the model is fed it, and what the model sees in it."""

    frame: Frame
    blob: NDArray[Any]
    letterbox: Letterbox
    seen: Detections


class Eyes:
    """A model's stages, for it and for copies of it that differ in nothing but their numbers."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._preprocess = Preprocess(model.spec, BlobPool(model.spec.dtype))
        self._postprocess = self._of(model.session)

    def sights(self, frames: Iterable[Frame]) -> Iterator[Sight]:
        """Yield each frame with its blob, which is its own, and what the model sees."""
        for frame in frames:
            (prepared,) = self._preprocess([frame])
            outputs = self._model.session.run(prepared.blob)
            found = self._seen(self._postprocess, frame, prepared.letterbox, outputs)
            # The picture itself is not needed again, and three times the size of its blob.
            bare = replace(frame, pixels=np.empty((0, 0, 3), np.uint8))
            yield Sight(bare, prepared.blob, prepared.letterbox, found)

    def agreement(self, copy: Path, sights: Sequence[Sight]) -> float:
        """How far the copy in that file agrees with the model, 0..1. Raises ModelError."""
        session = Session(copy, "cpu", 0, usable_cores())
        session.feed_size((self._model.spec.height, self._model.spec.width))
        read = self._of(session)
        pairs = [
            agreement(each.seen, self._seen(read, each.frame, each.letterbox, session.run(each.blob)))
            for each in sights
        ]
        common, there = (sum(column) for column in zip(*pairs, strict=True))
        return common / there if there else 1.0

    def _of(self, session: Session) -> Postprocess:
        model = replace(self._model, session=session)
        return Postprocess(model, Thresholds(LEAST_SCORE, model.iou_threshold, 100))

    @staticmethod
    def _seen(read: Postprocess, frame: Frame, box: Letterbox, outputs: Sequence[NDArray[Any]]) -> Detections:
        return read([Raw(frame, box, outputs)])[0].detections


class Telling:
    """Keeps, of the frames that come by, those in which the model sees most: they tell most."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._best: list[tuple[float, int, Sight]] = []
        self.frames = 0

    def __call__(self, sights: Iterable[Sight]) -> Iterator[Sight]:
        """Pass them on."""
        for sight in sights:
            entry = (float(sight.seen.confidence.sum()), -self.frames, sight)
            self.frames += 1
            if len(self._best) < self._count:
                heapq.heappush(self._best, entry)
            else:
                heapq.heappushpop(self._best, entry)
            yield sight

    @property
    def best(self) -> list[Sight]:
        """The frames in which something is seen, the fullest first."""
        return [sight for much, _, sight in sorted(self._best, reverse=True) if much > 0]


@dataclass(frozen=True, slots=True)
class Ranking:
    """``damage`` of each layer that was tried, 1 - agreement with it alone quantised, the worst first."""

    damage: dict[str, float]
    untried: int


def rank(
    units: Sequence[tuple[str, ...]],
    damage_of: Callable[[tuple[str, ...], int], float],
    frames: int,
    seconds: float,
    progress: Callable[[Iterable[tuple[str, ...]], int], Iterable[tuple[str, ...]]],
) -> Ranking:
    """Try each unit by itself, within about ``seconds``.

    ``damage_of`` takes a unit and on how many frames to try it. Where the first unit shows that time is
    short, the others are tried on fewer, two at least; those that time does not reach count as harmless.
    """
    begun = time.monotonic()
    damage: dict[str, float] = {}
    for unit in progress(units, len(units)):
        left = seconds - (time.monotonic() - begun)
        if left <= 0:
            break
        damage[unit[0]] = damage_of(unit, frames)
        spent = time.monotonic() - begun
        if len(damage) == 1 and spent * len(units) > seconds:
            frames = max(_FEWEST, int(frames * seconds / (spent * len(units))))
    worst = dict(sorted(damage.items(), key=lambda item: -item[1]))
    return Ranking(worst, len(units) - len(damage))
