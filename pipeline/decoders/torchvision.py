"""Torchvision's detectors, exported with all that they do: SSD, RetinaNet, FCOS, Faster R-CNN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.background import (
    BACKGROUND_LABEL,
    CLASSES,
    COCO_IDS,
    numbered,
    whose_numbers,
)
from pipeline.decoders.candidates import Candidates, malformed
from pipeline.decoders.family import Family, InputDefaults, Match, View

_EXPECTED = "boxes [N, 4], labels [N] (integers) and scores [N], in any order"


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],  # noqa: ARG001
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Take boxes [N, 4] (xyxy in input pixels), labels [N] and scores [N] as they are.

    The graph scales the picture, decodes, clips and runs NMS itself and maps the boxes back
    (``GeneralizedRCNNTransform.postprocess``); label 0 is the background and is left out.
    Faster R-CNN gives labels before scores, the others after: their dtype tells. ``params``:
    ``background_label`` (true: class_id is the label, as in COCO's list of 91; false: label - 1)
    and ``classes``. Raises ModelError for other shapes, and for a class beyond ``classes``.
    """
    order = _order([output.ndim for output in outputs], [output.dtype for output in outputs])
    if order is None:
        raise malformed("torchvision", _EXPECTED, outputs)
    boxes, labels, scores = (outputs[index] for index in order)
    if boxes.ndim == 3 and len(boxes) == len(labels) == len(scores) == 1:
        boxes, labels, scores = boxes[0], labels[0], scores[0]
    if boxes.shape != (len(scores), 4) or labels.shape != scores.shape or scores.ndim != 1:
        raise malformed("torchvision", _EXPECTED, outputs)
    found = np.flatnonzero((scores > conf_threshold) & (labels != 0))
    shift = 0 if params.get("background_label", True) else 1
    class_id = numbered(labels[found].astype(np.float64) - shift, params.get("classes"), "torchvision")
    return Candidates.checked(boxes[found], scores[found], class_id)


def _order(ranks: Sequence[int], dtypes: Sequence[np.dtype[Any]]) -> tuple[int, int, int] | None:
    """Return where boxes, labels and scores are; None where ranks and dtypes don't tell."""
    if len(ranks) != 3 or sorted(ranks) not in ([1, 1, 2], [2, 2, 3]):
        return None
    boxes = ranks.index(max(ranks))
    labels = [i for i in range(3) if i != boxes and np.issubdtype(dtypes[i], np.integer)]
    scores = [i for i in range(3) if i != boxes and np.issubdtype(dtypes[i], np.floating)]
    if len(labels) != 1 or len(scores) != 1 or not np.issubdtype(dtypes[boxes], np.floating):
        return None
    return boxes, labels[0], scores[0]


def recognise(view: View) -> Match | None:
    """Three outputs without a batch axis: boxes, whole numbers and scores; nothing fed but the picture.

    The kin of DETR gives such outputs, too, but wants the picture's size beside it.
    """
    if view.extra_inputs or len(view.outputs) != 3:
        return None
    ranks = [len(shape) for shape in view.shapes]
    try:
        order = _order(ranks, [np.dtype(output.dtype) for output in view.outputs])
    except TypeError:  # a dtype that numpy does not have, such as a sequence of tensors
        return None
    if order is None or max(ranks) != 2 or view.shapes[order[0]][1] != 4:
        return None
    labels, scores = (view.arrays[index] for index in order[1:]) if view.tried else (None, None)
    if labels is not None and scores is not None and labels.shape != scores.shape:
        return None
    numbers = whose_numbers(view.num_classes, labels, scores, coco=(COCO_IDS, 1, 17))
    background = view.num_classes in (None, COCO_IDS)
    holds = dict(
        zip(order, ("boxes, xyxy in input pixels", "labels from 1", "scores after NMS"), strict=True)
    )
    seen = ", ".join(str(view.outputs[index]) for index in order)
    return Match(
        numbers.count,
        {"classes": numbers.count, "background_label": background},
        f"{seen} = boxes, labels and scores; {numbers.why}",
        certain=True,
        holds=tuple(holds[index] for index in range(3)),
        batched=False,
        numbers=numbers,
    )


FAMILY = Family(
    name="torchvision",
    layout="boxes [N, 4], labels [N], scores [N], as torchvision's detectors are exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "letterbox", "top-left", 114),
    input_hw=(800, 800),
    conf_threshold=0.50,
    iou_threshold=0.50,
    params={"background_label": BACKGROUND_LABEL, "classes": CLASSES},
    nms=False,
)
