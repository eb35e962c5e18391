"""PaddleDetection exports without NMS: PP-YOLOE, PP-YOLO and PicoDet with decoded boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.activation import SIGMOID, logit, looks_like_logits, sigmoid
from pipeline.decoders.candidates import Candidates, cell_count, cells_text, malformed, matrix, select
from pipeline.decoders.family import (
    MULTI_LABEL,
    Family,
    InputDefaults,
    Match,
    View,
    confirmed,
)
from pipeline.decoders.paddle import IMAGENET, UNIT

_EXPECTED = "boxes [1, N, 4] and scores [1, classes, N], one of each"
# Strides and anchors a cell: PP-YOLOE; PicoDet; PP-YOLO; PP-YOLO-tiny's two levels are among them.
_GRIDS = (((8, 16, 32), 1), ((8, 16, 32, 64), 1), ((8, 16, 32), 3))


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],  # noqa: ARG001
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Take boxes [1, N, 4], xyxy in input pixels as ``scale_factor`` is 1, and scores [1, classes, N].

    The graph has decoded them (``ppdet/modeling/heads/ppyoloe_head.py``, ``post_process`` with
    ``exclude_nms``). ``params``: ``sigmoid`` (true: scores are logits); ``multi_label``; ``order``,
    where boxes and scores are, which else the shapes tell. Raises ModelError for other shapes.
    """
    if len(outputs) != 2:
        raise malformed("ppyoloe", _EXPECTED, outputs)
    pair = [matrix(output, "ppyoloe", _EXPECTED) for output in outputs]
    order = params.get("order") or _order(pair[0].shape, pair[1].shape)
    if order is None:
        raise malformed("ppyoloe", _EXPECTED, outputs)
    boxes, scores = (pair[index] for index in order)
    if boxes.shape != (scores.shape[1], 4) or not len(scores):
        raise malformed("ppyoloe", _EXPECTED, outputs)
    raw = bool(params.get("sigmoid"))
    threshold = logit(conf_threshold) if raw else conf_threshold
    box, class_id, values = select(scores, threshold, bool(params.get("multi_label")), box_axis=1)
    if raw:
        values = sigmoid(values)
        above = values > conf_threshold
        box, class_id, values = box[above], class_id[above], values[above]
    return Candidates.checked(boxes[box], values, class_id)


def _order(first: Sequence[int | None], second: Sequence[int | None]) -> tuple[int, int] | None:
    """Return where boxes [N, 4] and scores [classes, N] are; boxes first where both fit."""
    if first[1] == 4 and second[1] == first[0]:
        return 0, 1
    if second[1] == 4 and first[1] == second[0]:
        return 1, 0
    return None


def recognise(view: View, plus: bool) -> Match | None:
    """Boxes of as many cells as the input has, and scores with their axes exchanged.

    ``plus``: as PP-YOLOE+ is fed, which PicoDet and PP-YOLO are not.
    """
    shapes = view.shapes
    if len(shapes) != 2 or any(len(shape) != 3 for shape in shapes):
        return None
    order = _order(shapes[0][1:], shapes[1][1:])
    if order is None:
        return None
    count, classes = shapes[order[0]][1], shapes[order[1]][1]
    found = next((grid for grid in _GRIDS if grid[1] * cell_count(view.input_hw, grid[0]) == count), None)
    certain = None if classes is None else confirmed(classes, view.num_classes)
    if found is None or classes is None or certain is None or (plus and found != _GRIDS[0]):
        return None
    params: dict[str, Any] = {"order": order}
    said = "boxes in input pixels"
    if view.tried:
        boxes, scores = (view.arrays[index] for index in order)
        if np.isfinite(boxes).all() and np.abs(boxes).max(initial=0) <= 2:
            return None
        said = "the trial run's boxes reach beyond 2, so they are in input pixels"
        if looks_like_logits(scores):
            params["sigmoid"] = True
            said += "; the scores are logits: the trial run gave some outside 0..1"
    holds = ["boxes, xyxy in input pixels"] * 2
    holds[order[1]] = "scores of each class"
    strides, each = found
    text = cells_text(view.input_hw, strides)
    return Match(
        classes,
        params,
        f"{view.outputs[order[0]]} and {view.outputs[order[1]]} = boxes and {classes} scores for "
        f"{text if each == 1 else f'{each} × ({text})'}; {said}",
        certain,
        holds=tuple(holds),
    )


def _family(name: str, plus: bool, fed: InputDefaults, whose: str) -> Family:
    return Family(
        name=name,
        layout=f"boxes [1, N, 4] and scores [1, classes, N] without NMS, fed as {whose}",
        decode=decode,
        recognise=partial(recognise, plus=plus),
        class_aware=True,
        input=fed,
        input_hw=(640, 640),
        conf_threshold=0.50,
        iou_threshold=0.70,
        params={"sigmoid": SIGMOID, "multi_label": MULTI_LABEL},
    )


FAMILY = _family("ppyoloe", False, IMAGENET, "PP-YOLOE, PP-YOLO and PicoDet are (ImageNet's mean)")
PLUS = _family("ppyoloe-plus", True, UNIT, "PP-YOLOE+ is (0..1)")
