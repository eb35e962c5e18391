"""Raw outputs to detections: decode, keep the wanted classes, NMS, boxes back to the frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.classification import Classification
from pipeline.decoders import Candidates
from pipeline.detections import Detections
from pipeline.frame import Raw, Result
from pipeline.runtime.model import Model
from pipeline.vision.boxes import Boxes
from pipeline.vision.letterbox import Letterbox
from pipeline.vision.masks import PrototypeMasks
from pipeline.vision.nms import nms
from pipeline.vision.rotated import corners, from_corners, rotated_nms

TOP_CLASSES = 5
"""Classes that are kept of a frame."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What to keep. ``class_ids`` None keeps every class.

    ``clip`` False leaves boxes as the model gives them, beyond the picture too: the published APs are
    of those.
    """

    conf: float
    iou: float
    max_detections: int
    class_ids: tuple[int, ...] | None = None
    clip: bool = True
    top_classes: int = TOP_CLASSES


class Postprocess:
    """Pure: may be shared by several workers. A classifier's frames get a classification, no boxes."""

    def __init__(self, model: Model, thresholds: Thresholds) -> None:
        self._model = model
        self._thresholds = thresholds

    def __call__(self, raws: list[Raw]) -> list[Result]:
        """Raw to Result, one each."""
        if self._model.family.task == "classify":
            return [self._classified(raw) for raw in raws]
        return [Result(raw.frame, self._detections(raw)) for raw in raws]

    def _classified(self, raw: Raw) -> Result:
        model, keep = self._model, self._thresholds
        found = model.decode(raw.outputs, keep.conf)
        if keep.class_ids is not None:
            found = found.take(np.isin(found.class_id, keep.class_ids))
        best = np.argsort(-found.scores, kind="stable")[: min(keep.max_detections, keep.top_classes)]
        classes = Classification(found.class_id[best], found.scores[best], model.labels)
        return Result(raw.frame, Detections.empty(model.labels), classes)

    def _detections(self, raw: Raw) -> Detections:
        model, keep = self._model, self._thresholds
        box = raw.letterbox
        found = model.decode(raw.outputs, keep.conf, (box.input_height, box.input_width))
        if keep.class_ids is not None:
            found = found.take(np.isin(found.class_id, keep.class_ids))
        boxes_xyxy, scores, class_id = found.xyxy, found.scores, found.class_id
        chosen: NDArray[np.int64] | slice
        if len(scores) < 2:  # as most pictures have it: nothing to sort, nothing that overlaps
            chosen = slice(keep.max_detections)
        elif model.family.nms:
            grouping = class_id if model.family.class_aware else None
            if found.rotated is None:
                chosen = nms(boxes_xyxy, scores, keep.iou, grouping, keep.max_detections)
            else:
                chosen = rotated_nms(found.rotated, scores, keep.iou, grouping, keep.max_detections)
        else:
            chosen = np.argsort(-scores, kind="stable")[: keep.max_detections]
        boxes = box.unletterbox(boxes_xyxy[chosen], clip=keep.clip)
        # A box that lay in the padding alone is clipped to nothing.
        inside = boxes[:, 2:] > boxes[:, :2]
        if not inside.all():
            inside = inside.all(axis=1)
            boxes, chosen = boxes[inside], np.arange(len(scores))[chosen][inside]
        if model.family.task == "detect" and found.keypoints is None:
            return Detections(boxes, scores[chosen], class_id[chosen], model.labels)
        return _with_further(found.take(chosen), boxes, box, model.labels)


def _with_further(found: Candidates, boxes: Boxes, box: Letterbox, labels: Sequence[str]) -> Detections:
    """What the candidates say beside their boxes, brought to the frame."""
    keypoints = polygons = rotated = masks = None
    if found.keypoints is not None:
        keypoints = found.keypoints.copy()
        places = box.unletterbox_points(keypoints[:, :, :2])
        limits = np.array([box.source_width, box.source_height], np.float32)
        np.clip(places, 0, limits, out=keypoints[:, :, :2])
    if found.rotated is not None:
        polygons = box.unletterbox_points(corners(found.rotated))
        rotated = from_corners(polygons)
    if found.mask_coefficients is not None and found.prototypes is not None:
        masks = PrototypeMasks(found.mask_coefficients, found.prototypes, box, boxes)
    return Detections(
        boxes,
        found.scores,
        found.class_id,
        labels,
        keypoints=keypoints,
        polygons=polygons,
        rotated=rotated,
        masks=masks,
    )


def class_ids_of(labels: Sequence[str], wanted: Sequence[str] | None) -> tuple[int, ...] | None:
    """Indices of ``wanted`` labels, in any case of letters. Raises KeyError with the unknown label.

    ImageNet's are words of one meaning ("goldfish, Carassius auratus"): each of them will do, because
    where labels are separated by commas, the whole cannot be said. A label that is the word comes first.
    """
    if wanted is None:
        return None
    by_label: dict[str, list[int]] = {}
    by_word: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        by_label.setdefault(label.casefold(), []).append(index)
        for word in words_of(label):
            by_word.setdefault(word.casefold(), []).append(index)
    by_label = by_word | by_label
    return tuple(index for label in wanted for index in by_label[label.casefold()])


def words_of(label: str) -> list[str]:
    """A label's words of one meaning; at least one, without commas where it has any other letters."""
    return [word.strip() for word in label.split(",") if word.strip()] or [label]
