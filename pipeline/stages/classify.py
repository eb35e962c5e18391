"""The second stage: what each object of chosen classes is, by a classifier on its crop.

Objects hardly change from one frame to the next, so an answer is kept for some frames. Which object
of the last frames a box belongs to is told by its class and its overlap: as much of tracking as a
cache needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.classification import Labels
from pipeline.decoders.classifier import best
from pipeline.detections import Detections
from pipeline.frame import Image, Result
from pipeline.runtime.model import Model
from pipeline.vision.blobber import Blobber
from pipeline.vision.boxes import iou_matrix

SAME = 0.5
"""IoU from which two boxes of one class in two frames are one object."""
MOST_CROPS = 32
"""Crops in one run, where the model takes any number: more cost memory and win nothing."""


@dataclass(slots=True, eq=False)
class _Object:
    """An object as it was last seen, and what it was taken for at frame ``asked``."""

    box: NDArray[np.float32]
    class_id: int
    seen: int
    asked: int
    answer: tuple[int, float] = (-1, 0.0)


class Classify:
    """Remembers the objects of each stream: one instance, one worker.

    ``model`` is a classifier, ``class_ids`` which classes of the detector it looks at (None: all),
    ``every`` for how many frames an answer holds.
    """

    def __init__(self, model: Model, class_ids: Sequence[int] | None, every: int) -> None:
        self._model = model
        self._class_ids = None if class_ids is None else np.array(class_ids, np.int32)
        self._every = every
        # The crop is the object: its middle alone would lose the head or the wheels.
        self._spec = replace(model.spec, resize="stretch", stride=None)
        self._blobber = Blobber(self._spec)
        self._most = model.max_batch or MOST_CROPS
        self._blob = np.empty((self._most, *self._spec.blob_shape[1:]), self._spec.dtype)
        self._known: dict[str, list[_Object]] = {}

    def __call__(self, results: list[Result]) -> list[Result]:
        """Results with what their objects are; crops of all of them go through the model together."""
        objects = [self._objects_of(result) for result in results]
        new = [
            (result.frame.image, known)
            for result, found in zip(results, objects, strict=True)
            for known in found
            if known is not None and known.asked == result.frame.seq and known.answer[0] < 0
        ]
        for start in range(0, len(new), self._most):
            self._ask(new[start : start + self._most])
        return [
            Result(result.frame, self._labelled(result.detections, found), result.classification)
            for result, found in zip(results, objects, strict=True)
        ]

    def _objects_of(self, result: Result) -> list[_Object | None]:
        """For each detection the object that it belongs to; None for those of other classes."""
        detections, seq = result.detections, result.frame.seq
        known = [each for each in self._known.get(result.stream, ()) if seq - each.seen <= self._every]
        wanted = np.arange(len(detections))
        if self._class_ids is not None:
            wanted = np.flatnonzero(np.isin(detections.class_id, self._class_ids))
        found: list[_Object | None] = [None] * len(detections)
        pairs = self._pairs(detections, wanted, known)
        for index in wanted.tolist():
            class_id = int(detections.class_id[index])
            box, earlier = detections.xyxy[index], pairs.get(index)
            if earlier is not None and seq - earlier.asked >= self._every:
                # Another one in its place: earlier frames that are still in hand keep its answer.
                known.remove(earlier)
                earlier = None
            if earlier is None:
                earlier = _Object(box, class_id, seq, seq)
                known.append(earlier)
            earlier.box, earlier.seen = box, seq
            found[index] = earlier
        self._known[result.stream] = known
        return found

    def _pairs(
        self, detections: Detections, wanted: NDArray[Any], known: Sequence[_Object]
    ) -> dict[int, _Object]:
        """Objects by the detection that goes on with them: the largest overlaps first, each once."""
        if not known or not len(wanted):
            return {}
        overlap = iou_matrix(detections.xyxy[wanted], np.stack([each.box for each in known]))
        overlap[detections.class_id[wanted][:, None] != np.array([each.class_id for each in known])] = 0
        pairs: dict[int, _Object] = {}
        taken: set[int] = set()
        rows, columns = np.nonzero(overlap >= SAME)
        for at in np.argsort(-overlap[rows, columns], kind="stable").tolist():
            row, column = int(wanted[rows[at]]), int(columns[at])
            if row not in pairs and column not in taken:
                pairs[row] = known[column]
                taken.add(column)
        return pairs

    def _ask(self, new: Sequence[tuple[Image, _Object]]) -> None:
        for place, (image, each) in enumerate(new):
            self._blobber(_crop(image, each.box), out=self._blob[place : place + 1])
        outputs = self._model.session.run(self._blob[: len(new)])
        class_id, confidence = best(outputs[0], self._model.params)
        for (_, each), index, score in zip(new, class_id.tolist(), confidence.tolist(), strict=True):
            each.answer = index, score

    def _labelled(self, detections: Detections, found: Sequence[_Object | None]) -> Detections:
        answers = [(-1, 0.0) if each is None else each.answer for each in found]
        labels = Labels(
            np.array([index for index, _ in answers], np.int32),
            np.array([score for _, score in answers], np.float32),
            self._model.labels,
        )
        return replace(detections, second=labels)


def _crop(image: Image, box: NDArray[np.float32]) -> Image:
    """The pixels that a box touches, at least one."""
    height, width = image.shape[:2]
    left, top = min(int(box[0]), width - 1), min(int(box[1]), height - 1)
    right, bottom = max(math.ceil(box[2]), left + 1), max(math.ceil(box[3]), top + 1)
    return image[top:bottom, left:right]
