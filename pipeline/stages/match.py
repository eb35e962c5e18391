"""The second stage, first half: which objects are known from earlier frames, which must be asked about.

Objects hardly change from one frame to the next, so an answer is kept for some frames. Which object
of the last frames a box belongs to is told by its class and its overlap: as much of tracking as a
cache needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.classification import Labels
from pipeline.detections import Detections
from pipeline.frame import Frame, Result
from pipeline.vision.boxes import iou_matrix

SAME = 0.5
"""IoU from which two boxes of one class in two frames are one object."""


@dataclass(slots=True, eq=False)
class Known:
    """An object as it was last seen, and what it was taken for; ``asked`` is the frame of that answer.

    Frames are counted as they come here: what the line drops or leaves out makes no answer older.
    """

    box: NDArray[np.float32]
    class_id: int
    seen: int
    asked: int
    answer: tuple[int, float] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """A result that waits for answers about its objects (None: one that is not looked at)."""

    result: Result
    objects: Sequence[Known | None]

    @property
    def frame(self) -> Frame:
        """The frame, as of everything on the line."""
        return self.result.frame

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self.result.frame.stream

    def unanswered(self) -> Iterator[tuple[Known, NDArray[np.float32]]]:
        """The objects that nobody has asked about by now, with their boxes in this frame.

        Earlier frames in the line ask about theirs first, unless they were dropped.
        """
        for known, box in zip(self.objects, self.result.detections.xyxy, strict=True):
            if known is not None and known.answer is None:
                yield known, box


class Match:
    """Remembers the objects of each stream: one instance, one worker.

    ``class_ids`` says which classes of the detector are looked at (None: all), ``every`` for how
    many frames an answer holds, ``names`` what a class id of an answer means.
    """

    def __init__(self, names: Sequence[str], class_ids: Sequence[int] | None, every: int) -> None:
        self._names = names
        self._class_ids = None if class_ids is None else np.array(class_ids, np.int32)
        self._every = every
        self._known: dict[str, list[Known]] = {}
        self._frames: Counter[str] = Counter()

    def __call__(self, results: list[Result]) -> list[Result | Matched]:
        """A result with its objects' answers where all are known, else :class:`Matched`."""
        return [self._matched(result) for result in results]

    def forget(self, stream: str) -> None:
        """No more results of it come, unless it begins anew. From any thread, when the last has left."""
        self._known.pop(stream, None)
        self._frames.pop(stream, None)

    def _matched(self, result: Result) -> Result | Matched:
        count = self._frames[result.stream]
        self._frames[result.stream] += 1
        objects = self._objects_of(result, count)
        if all(each is None or each.answer is not None for each in objects):
            return answered(result, objects, self._names)
        return Matched(result, objects)

    def _objects_of(self, result: Result, count: int) -> list[Known | None]:
        """For each detection the object that it belongs to; None for those of other classes."""
        detections = result.detections
        known = [each for each in self._known.get(result.stream, ()) if count - each.seen <= self._every]
        wanted = np.arange(len(detections))
        if self._class_ids is not None:
            wanted = np.flatnonzero(np.isin(detections.class_id, self._class_ids))
        found: list[Known | None] = [None] * len(detections)
        pairs = self._pairs(detections, wanted, known)
        for index in wanted.tolist():
            class_id = int(detections.class_id[index])
            box, earlier = detections.xyxy[index], pairs.get(index)
            if earlier is not None and count - earlier.asked >= self._every:
                # Another one in its place: earlier frames that are still in hand keep its answer.
                known.remove(earlier)
                earlier = None
            if earlier is None:
                earlier = Known(box, class_id, count, count)
                known.append(earlier)
            earlier.box, earlier.seen = box, count
            found[index] = earlier
        self._known[result.stream] = known
        return found

    def _pairs(
        self, detections: Detections, wanted: NDArray[Any], known: Sequence[Known]
    ) -> dict[int, Known]:
        """Objects by the detection that goes on with them: the largest overlaps first, each once."""
        if not known or not len(wanted):
            return {}
        overlap = iou_matrix(detections.xyxy[wanted], np.stack([each.box for each in known]))
        overlap[detections.class_id[wanted][:, None] != np.array([each.class_id for each in known])] = 0
        pairs: dict[int, Known] = {}
        taken: set[int] = set()
        rows, columns = np.nonzero(overlap >= SAME)
        for at in np.argsort(-overlap[rows, columns], kind="stable").tolist():
            row, column = int(wanted[rows[at]]), int(columns[at])
            if row not in pairs and column not in taken:
                pairs[row] = known[column]
                taken.add(column)
        return pairs


def answered(result: Result, objects: Sequence[Known | None], names: Sequence[str]) -> Result:
    """``result`` with what its objects were taken for."""
    answers = [(-1, 0.0) if each is None or each.answer is None else each.answer for each in objects]
    labels = Labels(
        np.array([index for index, _ in answers], np.int32),
        np.array([score for _, score in answers], np.float32),
        names,
    )
    return Result(result.frame, replace(result.detections, second=labels), result.classification)
