"""Detectors of DETR's kin exported with their postprocessor: RT-DETR, D-FINE, DEIM and DEIMv2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.background import CLASSES, numbered, whose_numbers
from pipeline.decoders.candidates import Candidates, malformed
from pipeline.decoders.family import COCO_CLASSES, Family, InputDefaults, Match, Param, View, flag

_NAME = "deim"
_EXPECTED = "labels [1, N] (integers), boxes [1, N, 4] and scores [1, N], in any order, with or without the 1"
_SIZES = ("orig_target_sizes", "orig_size", "target_sizes")
_NAMES = {"labels", "boxes", "scores"}
_LIVE = 0.05


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Take labels [1, N], boxes [1, N, 4] (xyxy) and scores [1, N] as they are.

    The graph scales the boxes by ``orig_target_sizes`` (width, height), which is the input's size
    here, so that they are in input pixels; the N are the best of queries × classes
    (``PostProcessor`` in ``rtdetr_postprocessor.py`` of RT-DETR, ``postprocessor.py`` of D-FINE and
    DEIM). ``params``: ``normalised`` (true: boxes in parts of the input); ``classes``. Raises
    ModelError for other shapes, and for a class beyond ``classes``.
    """
    order = _order([output.ndim for output in outputs], [output.dtype for output in outputs])
    if order is None:
        raise malformed(_NAME, _EXPECTED, outputs)
    labels, boxes, scores = (outputs[index] for index in order)
    if boxes.ndim == 3 and len(boxes) == len(labels) == len(scores) == 1:
        labels, boxes, scores = labels[0], boxes[0], scores[0]
    if scores.ndim != 1 or labels.shape != scores.shape or boxes.shape != (len(scores), 4):
        raise malformed(_NAME, _EXPECTED, outputs)
    chosen = np.flatnonzero(scores > conf_threshold)
    class_id = numbered(labels[chosen], params.get("classes"), _NAME)
    with np.errstate(over="ignore"):
        xyxy = boxes[chosen].astype(np.float32, copy=False)
        if params.get("normalised"):
            xyxy = xyxy * np.array([input_hw[1], input_hw[0]] * 2, np.float32)
    return Candidates.checked(xyxy, scores[chosen], class_id)


def _order(ranks: Sequence[int], dtypes: Sequence[np.dtype[Any]]) -> tuple[int, int, int] | None:
    """Return where labels, boxes and scores are; None where ranks and dtypes do not tell."""
    if sorted(ranks) not in ([1, 1, 2], [2, 2, 3]):
        return None
    boxes = ranks.index(max(ranks))
    labels = [i for i in range(3) if i != boxes and np.issubdtype(dtypes[i], np.integer)]
    scores = [i for i in range(3) if i != boxes and np.issubdtype(dtypes[i], np.floating)]
    if len(labels) != 1 or len(scores) != 1 or not np.issubdtype(dtypes[boxes], np.floating):
        return None
    return labels[0], boxes, scores[0]


def recognise(view: View) -> Match | None:
    """Labels, boxes and scores of a model that wants the picture's size; or of those names, with a batch."""
    sized = any(name in _SIZES for name in view.extra_inputs)
    ranks = [len(shape) for shape in view.shapes]
    named = {output.name for output in view.outputs} == _NAMES and max(ranks, default=0) == 3
    if len(ranks) != 3 or not (sized or named):
        return None
    try:
        order = _order(ranks, [np.dtype(output.dtype) for output in view.outputs])
    except TypeError:  # a dtype that numpy does not have, such as a sequence of tensors
        return None
    if order is None or view.shapes[order[1]][-1] not in (4, None):
        return None
    labels, boxes, scores = (view.arrays[index] for index in order) if view.tried else (None,) * 3
    classes, why = whose_numbers(view.num_classes, labels, scores, coco=(COCO_CLASSES, 0, 15))
    params: dict[str, Any] = {"classes": classes}
    unit = "input pixels"
    if boxes is not None and scores is not None and _in_parts(boxes, scores):
        params["normalised"], unit = True, "parts of the input"
    holds = dict(zip(order, ("class numbers", f"boxes, xyxy in {unit}", "scores"), strict=True))
    seen = ", ".join(str(view.outputs[index]) for index in order)
    asked = f" of a model that is given {', '.join(view.extra_inputs)}" if sized else ""
    return Match(
        classes,
        params,
        f"{seen} = labels, boxes in {unit} and scores{asked}; {why}",
        certain=True,
        holds=tuple(holds[index] for index in range(3)),
        batched=max(ranks) == 3,
    )


def _in_parts(boxes: NDArray[Any], scores: NDArray[Any]) -> bool:
    """Whether the boxes that score are in parts of the input: those never exceed 1 by much."""
    if boxes.shape[:-1] != scores.shape or boxes.shape[-1] != 4:
        return False
    live = boxes[scores > _LIVE]
    return bool(len(live) and np.nanmax(np.abs(live)) <= 2)


FAMILY = Family(
    name=_NAME,
    layout="labels [1, N], boxes [1, N, 4], scores [1, N], as RT-DETR, D-FINE and DEIM are exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "stretch", "center", 114),
    input_hw=(640, 640),
    conf_threshold=0.40,
    iou_threshold=1.0,
    params={
        "normalised": Param(flag, "true: boxes in parts of the input; false (default): in its pixels"),
        "classes": CLASSES,
    },
    nms=False,
)
