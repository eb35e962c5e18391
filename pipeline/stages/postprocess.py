"""Raw outputs to detections: decode, keep the wanted classes, NMS, boxes back to the frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.detections import Detections
from pipeline.frame import Raw, Result
from pipeline.runtime.model import Model
from pipeline.vision.nms import nms


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What to keep. ``class_ids`` None keeps every class."""

    conf: float
    iou: float
    max_detections: int
    class_ids: tuple[int, ...] | None = None


class Postprocess:
    """Pure: may be shared by several workers."""

    def __init__(self, model: Model, thresholds: Thresholds) -> None:
        self._model = model
        self._thresholds = thresholds

    def __call__(self, raws: list[Raw]) -> list[Result]:
        """Raw to Result, one each."""
        return [Result(raw.frame, self._detections(raw)) for raw in raws]

    def _detections(self, raw: Raw) -> Detections:
        model, keep = self._model, self._thresholds
        box = raw.letterbox
        found = model.decode(raw.outputs, keep.conf, (box.input_height, box.input_width))
        boxes_xyxy, scores, class_id = found.xyxy, found.scores, found.class_id
        if keep.class_ids is not None:
            wanted = np.isin(class_id, keep.class_ids)
            boxes_xyxy, scores, class_id = boxes_xyxy[wanted], scores[wanted], class_id[wanted]
        if model.family.nms:
            grouping = class_id if model.family.class_aware else None
            chosen = nms(boxes_xyxy, scores, keep.iou, grouping, keep.max_detections)
        else:
            chosen = np.argsort(-scores, kind="stable")[: keep.max_detections]
        boxes = box.unletterbox(boxes_xyxy[chosen])
        # A box that lay in the padding alone is clipped to nothing.
        inside = boxes[:, 2:] > boxes[:, :2]
        if not inside.all():
            inside = inside.all(axis=1)
            boxes, chosen = boxes[inside], chosen[inside]
        return Detections(boxes, scores[chosen], class_id[chosen], model.labels)


def class_ids_of(labels: Sequence[str], wanted: Sequence[str] | None) -> tuple[int, ...] | None:
    """Indices of ``wanted`` labels, in any case of letters. Raises KeyError with the unknown label."""
    if wanted is None:
        return None
    by_label: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        by_label.setdefault(label.casefold(), []).append(index)
    return tuple(index for label in wanted for index in by_label[label.casefold()])
