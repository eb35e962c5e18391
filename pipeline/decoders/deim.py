"""Detectors of DETR's kin exported with their postprocessor: RT-DETR, D-FINE, DEIM and DEIMv2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.background import CLASSES, COCO_NUMBERS, numbered, whose_numbers
from pipeline.decoders.box_forms import PARAMS, corners, find_form
from pipeline.decoders.candidates import Candidates, malformed
from pipeline.decoders.family import Family, InputDefaults, Match, View

_NAME = "deim"
_EXPECTED = "labels [1, N] (integers), boxes [1, N, 4] and scores [1, N], in any order, with or without the 1"
_SIZES = ("orig_target_sizes", "orig_size", "target_sizes")
_NAMES = {"labels", "boxes", "scores"}
_MOST_ROWS = 1000
"""A model that answers each object once has no more answers than this; a grid has more cells."""


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
    DEIM). ``params``: ``boxes`` (how they are written), ``normalised`` (in parts of the input);
    ``classes``. Raises ModelError for other shapes, and for a class beyond ``classes``.
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
        found = boxes[chosen].astype(np.float32, copy=False)
    xyxy = corners(found, input_hw, params)
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


def recognise(view: View, letterboxed: bool = False) -> Match | None:
    """Labels, boxes and scores of a model that wants the picture's size; or of those names, with a batch.

    Only those of DETR's kin, fed stretched, want the size; without it both ways of feeding are possible.
    """
    sized = any(name in _SIZES for name in view.extra_inputs)
    ranks = [len(shape) for shape in view.shapes]
    named = {output.name for output in view.outputs} == _NAMES and max(ranks, default=0) == 3
    if len(ranks) != 3 or not (sized or named) or (sized and letterboxed):
        return None
    try:
        order = _order(ranks, [np.dtype(output.dtype) for output in view.outputs])
    except TypeError:  # a dtype that numpy does not have, such as a sequence of tensors
        return None
    if order is None or view.shapes[order[1]][-1] not in (4, None):
        return None
    most = view.shapes[order[1]][-2]
    if not sized and most is not None and most > _MOST_ROWS:
        return None  # a grid's cells, each object many times
    labels, boxes, scores = (view.arrays[index] for index in order) if view.tried else (None,) * 3
    numbers = whose_numbers(view.num_classes, labels, scores, coco=COCO_NUMBERS)
    params: dict[str, Any] = {"classes": numbers.count}
    form = None
    if boxes is not None and scores is not None and boxes.shape[:-1] == scores.shape and boxes.shape[-1] == 4:
        fed = LETTERBOXED.input if letterboxed else FAMILY.input
        form = find_form(boxes.reshape(-1, 4), scores.reshape(-1), params, view.input_hw, fed)
    said, doubt = form or ("xyxy in input pixels", None)
    holds = dict(zip(order, ("class numbers", f"boxes, {said}", "scores"), strict=True))
    seen = ", ".join(str(view.outputs[index]) for index in order)
    asked = f" of a model that is given {', '.join(view.extra_inputs)}" if sized else ""
    return Match(
        numbers.count,
        params,
        f"{seen} = labels, boxes ({said}) and scores{asked}; {numbers.why}",
        certain=True,
        holds=tuple(holds[index] for index in range(3)),
        batched=max(ranks) == 3,
        doubt=doubt,
        settled_by=("boxes",),
        numbers=numbers,
    )


_PARAMS = {**PARAMS, "classes": CLASSES}
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
    params=_PARAMS,
    nms=False,
)
LETTERBOXED = replace(
    FAMILY,
    name="end2end-split",
    layout="labels [1, N], boxes [1, N, 4], scores [1, N], as end-to-end YOLOs with their columns apart",
    recognise=partial(recognise, letterboxed=True),
    input=InputDefaults("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "letterbox", "center", 114),
    conf_threshold=0.25,
)
