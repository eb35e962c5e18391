"""RetinaNet's heads without what follows them: logits and regressions of all anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.activation import logit, looks_like_logits, sigmoid
from pipeline.decoders.background import COCO_IDS
from pipeline.decoders.candidates import Candidates, cells_text, malformed, matrix, select
from pipeline.decoders.family import COCO_CLASSES, Family, InputDefaults, Match, Param, View, flag
from pipeline.decoders.priors import anchors, boxes_among, center_size_decode, clipped, maps_of

_EXPECTED = "logits [1, anchors, classes] and regressions [1, anchors, 4], one of each"
_STRIDES = (8, 16, 32, 64, 128)
_SIZES = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in (32, 64, 128, 256, 512))
_RATIOS = (0.5, 1.0, 2.0)


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode logits [1, N, classes] and regressions [1, N, 4] (dx, dy, dw, dh), N = 9 anchors a cell.

    A score is the sigmoid of its logit. centre = anchor centre + d_xy · anchor size, size = anchor
    size · exp(d_wh), clipped to the input (``RetinaNet.postprocess_detections`` and
    ``_default_anchorgen`` of torchvision; Lin et al. 2017). class_id is the column: torchvision
    counts COCO's 91, so that column 0 stands for nothing.

    ``params``: ``sigmoid`` (default true); ``multi_label`` (default true, as in the authors'
    code); ``order``, where logits and regressions are, which else the widths tell. Raises
    ModelError for other shapes.
    """
    if len(outputs) != 2:
        raise malformed("retinanet", _EXPECTED, outputs)
    pair = [matrix(output, "retinanet", _EXPECTED) for output in outputs]
    order = params.get("order") or ((0, 1) if pair[1].shape[1] == 4 else (1, 0))
    scores, deltas = (pair[index] for index in order)
    count = _anchor_count(input_hw)
    if deltas.shape != (count, 4) or len(scores) != count or scores.shape[1] < 1:
        cells = cells_text(input_hw, _STRIDES)
        raise malformed("retinanet", f"{_EXPECTED}; 9 anchors × ({cells}) = {count}", outputs)

    raw = bool(params.get("sigmoid", True))
    threshold = logit(conf_threshold) if raw else conf_threshold
    row, class_id, values = select(scores, threshold, bool(params.get("multi_label", True)), box_axis=0)
    if raw:
        values = sigmoid(values)
        # Near the threshold the rounding of logit and sigmoid may differ; and exp(-x) reaches 0.
        above = values > conf_threshold
        row, class_id, values = row[above], class_id[above], values[above]
    priors = anchors(maps_of(input_hw, _STRIDES), _SIZES, _RATIOS, input_hw)
    boxes = clipped(center_size_decode(deltas[row], priors[row]), input_hw)
    return Candidates.checked(boxes, values, class_id)


def _anchor_count(input_hw: tuple[int, int]) -> int:
    return len(_RATIOS) * 3 * sum(rows * columns for rows, columns in maps_of(input_hw, _STRIDES))


def recognise(view: View) -> Match | None:
    """Two outputs with as many rows as RetinaNet has anchors; one has four columns."""
    shapes = view.shapes
    count = _anchor_count(view.input_hw)
    if len(shapes) != 2 or any(len(shape) != 3 or shape[1] not in (count, None) for shape in shapes):
        return None
    boxes = boxes_among(view)
    if boxes is None:
        return None
    order = (1 - boxes, boxes)
    columns = shapes[order[0]][2]
    if columns is None or view.num_classes not in (None, columns):
        return None
    params: dict[str, Any] = {"order": order, "sigmoid": True}
    said = "logits, as RetinaNet's heads give"
    if view.tried:
        scores, deltas = (view.arrays[index] for index in order)
        if scores.shape[1] != count or deltas.shape[1] != count or _decoded(deltas):
            return None
        # A logit of a class that is not there is far below 0, so probabilities show at once.
        if not looks_like_logits(scores):
            params["sigmoid"] = False
            said = "probabilities: the trial run gave none outside 0..1"
        else:
            said = "logits: the trial run gave some outside 0..1"
    holds = ["", ""]
    holds[order[0]], holds[order[1]] = said, "regressions from anchors"
    return Match(
        columns,
        params,
        f"{view.outputs[order[0]]} and {view.outputs[order[1]]} = 9 anchors × "
        f"({cells_text(view.input_hw, _STRIDES)}); the scores are {said}",
        certain=view.num_classes is not None or columns in (COCO_CLASSES, COCO_IDS - 1, COCO_IDS),
        holds=tuple(holds),
    )


def _decoded(deltas: NDArray[Any]) -> bool:
    """Whether these are no regressions but boxes in pixels: of another order, left of right, above below."""
    boxes = deltas.reshape(-1, 4)
    with np.errstate(invalid="ignore"):
        return bool((boxes[:, 2:] >= boxes[:, :2]).all() and np.abs(boxes).max(initial=0) > 20)


FAMILY = Family(
    name="retinanet-raw",
    layout="logits [1, anchors, classes] and regressions [1, anchors, 4], as torchvision's RetinaNet heads",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults(
        "RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "letterbox", "top-left", 114
    ),
    input_hw=(800, 800),
    conf_threshold=0.50,
    iou_threshold=0.50,
    params={
        "sigmoid": Param(flag, "true (default): scores are logits; false: probabilities"),
        "multi_label": Param(flag, "false: a box's best class; true (default): each above the threshold"),
    },
)
