"""YOLOv5 and YOLOv7 detection exports, and Darknet-style tables: boxes, objectness, classes in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import heads
from pipeline.decoders.candidates import Candidates, cells_text, malformed, matrix, select, strides_for
from pipeline.decoders.cells import STRIDES_PARAM, UNIT_TEXT, Order, place, stated_strides
from pipeline.decoders.family import (
    MULTI_LABEL,
    Family,
    InputDefaults,
    Match,
    Param,
    View,
    confirmed,
    flag,
    one_of,
)
from pipeline.decoders.objectness import objectness_first

_NAME = "yolov5"
_EXPECTED = "[1, boxes, 5 + classes], beside it at most raw heads [1, anchors, h, w, 5 + classes]"
_ANCHORS = 3
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
_SCORES = ("product", "class", "objectness")
_LOOK, _ENOUGH = 0.01, 10
_SAME, _SURE = 0.05, 0.9


accept_score = one_of(_SCORES)


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode [1, boxes, 5 + classes]: columns cx, cy, w, h, objectness, class probabilities.

    Boxes are decoded in the graph (``Detect.forward`` in YOLOv5's ``models/yolo.py``; YOLOv7's
    ``IDetect`` likewise); a score is objectness · probability (``non_max_suppression``). The raw heads
    that older exports give beside it are not used. ``params``: ``normalised`` (boxes in parts of the
    input, else in its pixels); ``score`` (product; class where class scores hold the objectness
    already, as in the rows of OpenCV's region layer; objectness where the only class says nothing, as
    YOLOv7 has it); ``multi_label``. Raises ModelError for other shapes.
    """
    table = _table(outputs)
    score = params.get("score", "product")
    if score == "product":
        how = {"form": "objectness", "multi_label": params.get("multi_label")}
        boxes, scores, class_id, _ = heads.read(_NAME, _EXPECTED, table, 0, conf_threshold, how)
    else:
        columns = table[:, 5:] if score == "class" else table[:, 4:5]
        row, class_id, scores = select(columns, conf_threshold, bool(params.get("multi_label")), box_axis=0)
        with np.errstate(over="ignore"):
            boxes = table[row, :4].astype(np.float32)
    xyxy = heads.corners(boxes)
    if params.get("normalised"):
        with np.errstate(over="ignore", invalid="ignore"):
            xyxy = xyxy * np.array(input_hw[::-1] * 2, np.float32)
    return Candidates.checked(xyxy, scores, class_id)


def _table(outputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return the table [boxes, 5 + classes] among the outputs."""
    table = min(outputs, key=np.ndim, default=np.zeros(0))
    columns = table.shape[-1] if table.ndim else 0
    heads_rank = table.ndim + 2
    beside = [output for output in outputs if output is not table]
    if columns < 6 or any(o.ndim != heads_rank or o.shape[-1] != columns for o in beside):
        raise malformed(_NAME, _EXPECTED, outputs)
    return matrix(table, _NAME, _EXPECTED)


def recognise(view: View, *, darknet: bool = False) -> Match | None:
    """One table of 3 boxes for each cell; with ``darknet`` one whose rows show it to be no YOLOv5's.

    Both have the same columns and differ in how they are fed, so the order of the rows tells them
    apart: YOLOv5 goes by level from the finest, anchor, cell. Boxes in pixels are YOLOv5's kin.
    """
    ranks = [len(shape) for shape in view.shapes]
    if ranks.count(3) != 1 or any(rank not in (3, 5) for rank in ranks):
        return None
    index = ranks.index(3)
    output = view.outputs[index]
    _, rows, columns = output.shape
    if rows is None or columns is None or rows % _ANCHORS:
        return None
    if any(shape[-1] != columns for shape in view.shapes) or heads.stated_task(view) not in (None, "detect"):
        return None
    classes = columns - 5
    certain = confirmed(classes, view.num_classes)
    strides = strides_for(rows // _ANCHORS, view.input_hw, _STRIDES)
    if certain is None or strides is None:
        return None
    reason = f"{output} = 3 × ({cells_text(view.input_hw, strides)}) × (5 + {classes})"
    params: dict[str, Any] = {"normalised": darknet, "score": "product"}
    if view.tried:
        seen = _evidence(view, index, strides)
        if not view.stated and (seen is None or seen[0] != darknet):
            return None
        _, params, told = seen or (darknet, params, "that does not show")
        before = _objectness(view, index)
        if before is False and view.num_classes is None and not view.stated:
            return None  # what is taken for it is a class
        # Where the boxes lie says nothing of the columns behind them.
        reason, certain = f"{reason}; in the trial run {told}", certain or before is True
    unit = UNIT_TEXT["parts" if params["normalised"] else "pixels"]
    score = "objectness · class" if params["score"] == "class" else "class"
    holds = ["a raw head, not used"] * len(view.outputs)
    holds[index] = f"cx, cy, w, h in {unit}, objectness, {classes} {score} probabilities of {rows} boxes"
    # Untried, the plain reading is YOLOv5's.
    params |= stated_strides(strides)
    return Match(classes, params, reason, certain and (view.tried or not darknet), tuple(holds))


def _evidence(view: View, index: int, strides: tuple[int, ...]) -> tuple[bool, dict[str, Any], str] | None:
    """Return whether the rows are Darknet's, what ``decode`` has to know, and why; None for no such table."""
    table = heads.table_of(view, index)
    if table is None or not heads.probable(table[:, 4:]):
        return None
    placed = place(table[:, :2], view.input_hw, strides, _ANCHORS)
    if placed is None:
        return None
    score, why = _score_of(table)
    params: dict[str, Any] = {"normalised": placed.unit == "parts", "score": score}
    told = (
        f"boxes lie {placed.distance:.2g} cells from the middle of theirs when read in "
        f"{UNIT_TEXT[placed.unit]}, {placed.order}{why}"
    )
    darknet = placed.unit == "parts" and (score == "class" or placed.order != Order())
    return darknet, params, told


def _objectness(view: View, index: int) -> bool | None:
    table = heads.table_of(view, index)
    return None if table is None else objectness_first(table[:, 4:])


def _score_of(table: NDArray[np.float32]) -> tuple[str, str]:
    """Return what an object's score is, and why if it is not the product.

    A class score that holds the objectness already never exceeds it; one that does not, often does.
    """
    if table.shape[1] == 6 and says_nothing(table[:, 5]):
        return "objectness", f"; its only class is {table[:, 5].mean():.2g} everywhere, so it says nothing"
    live = table[table[:, 4] > _LOOK]
    if len(live) < _ENOUGH or live[:, 4].min() > _SURE:
        return "product", ""
    if (live[:, 5:].max(axis=1) > live[:, 4] * 1.001 + 1e-6).any():
        return "product", ""
    return "class", "; no class score exceeds its objectness, so they hold it already"


def says_nothing(probabilities: NDArray[np.float32]) -> bool:
    """Whether the only class is as likely everywhere: YOLOv7 does not train it, and leaves it out of the
    score (``non_max_suppression`` in its ``utils/general.py``)."""
    return bool(np.ptp(probabilities) < _SAME and probabilities.mean() < _SURE)


_PARAMS = {
    "normalised": Param(flag, "true: boxes in parts of the input; false (default): in its pixels"),
    "score": Param(
        accept_score, "product (default): objectness · class; class: class alone; objectness: it alone"
    ),
    "strides": STRIDES_PARAM,
    "multi_label": MULTI_LABEL,
}
FAMILY = Family(
    name=_NAME,
    layout="[1, 3 · cells, 5 + classes], as YOLOv5 and YOLOv7 are exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=heads.INPUT,
    input_hw=(640, 640),
    conf_threshold=0.25,
    iou_threshold=0.45,
    params=_PARAMS,
)
DARKNET = Family(
    name="yolov5-darknet",
    layout="[1, 3 · cells, 5 + classes] in parts of the input, as Darknet and OpenCV have YOLOv3 and v4",
    decode=decode,
    recognise=partial(recognise, darknet=True),
    class_aware=True,
    input=InputDefaults("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "stretch", "center", 0),
    input_hw=(416, 416),
    conf_threshold=0.50,
    iou_threshold=0.45,
    params=_PARAMS,
)
