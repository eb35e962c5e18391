"""YOLOv5 and YOLOv7 detection exports, and Darknet-style tables: boxes, objectness, classes in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import heads
from pipeline.decoders.candidates import Candidates, cells_text, malformed, matrix, select, strides_for
from pipeline.decoders.cells import UNIT_TEXT, Order, place
from pipeline.decoders.family import MULTI_LABEL, Family, InputDefaults, Match, Param, View, confirmed, flag

_NAME = "yolov5"
_EXPECTED = "[1, boxes, 5 + classes], beside it at most raw heads [1, anchors, h, w, 5 + classes]"
_ANCHORS = 3
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
_LOOK = 0.01
_ENOUGH = 10


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
    input, else in its pixels); ``products`` (class scores hold the objectness already, as in the
    rows of OpenCV's region layer); ``multi_label``. Raises ModelError for other shapes.
    """
    table = _table(outputs)
    if params.get("products"):
        boxes, scores, class_id = _products(table, conf_threshold, bool(params.get("multi_label")))
    else:
        how = {"form": "objectness", "multi_label": params.get("multi_label")}
        boxes, scores, class_id, _ = heads.read(_NAME, _EXPECTED, table, 0, conf_threshold, how)
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


def _products(
    table: NDArray[Any], conf_threshold: float, multi_label: bool
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    box, class_id, scores = select(table[:, 5:], conf_threshold, multi_label, box_axis=0)
    with np.errstate(over="ignore"):
        return table[box, :4].astype(np.float32), scores, class_id


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
    params: dict[str, Any] = {"normalised": darknet, "products": False}
    if view.tried:
        seen = _evidence(view, index, strides)
        if not view.stated and (seen is None or seen[0] != darknet):
            return None
        _, params, told = seen or (darknet, params, "that does not show")
        reason, certain = f"{reason}; in the trial run {told}", True
    unit = UNIT_TEXT["parts" if params["normalised"] else "pixels"]
    score = "objectness · class" if params["products"] else "class"
    holds = ["a raw head, not used"] * len(view.outputs)
    holds[index] = f"cx, cy, w, h in {unit}, objectness, {classes} {score} probabilities of {rows} boxes"
    # Untried, the plain reading is YOLOv5's.
    return Match(classes, params, reason, certain and (view.tried or not darknet), tuple(holds))


def _evidence(view: View, index: int, strides: tuple[int, ...]) -> tuple[bool, dict[str, Any], str] | None:
    """Return whether the rows are Darknet's, what ``decode`` has to know, and why; None for no such table."""
    table = heads.table_of(view, index)
    if table is None or not heads.probable(table[:, 4:]):
        return None
    placed = place(table[:, :2], view.input_hw, strides, _ANCHORS)
    if placed is None:
        return None
    products = holds_products(table)
    params = {"normalised": placed.unit == "parts", "products": products}
    told = (
        f"boxes lie {placed.distance:.2g} cells from the middle of theirs when read in "
        f"{UNIT_TEXT[placed.unit]}, {placed.order}"
    )
    if products:
        told += "; no class score exceeds its objectness, so they hold it already"
    return params["normalised"] and (products or placed.order != Order()), params, told


def holds_products(table: NDArray[np.float32]) -> bool:
    """Whether class scores hold the objectness already: then none exceeds it, and else many do."""
    live = table[table[:, 4] > _LOOK]
    if len(live) < _ENOUGH or live[:, 4].min() > 1 - _LOOK:
        return False
    return bool((live[:, 5:].max(axis=1) <= live[:, 4] * 1.001 + 1e-6).all())


_PARAMS = {
    "normalised": Param(flag, "true: boxes in parts of the input; false (default): in its pixels"),
    "products": Param(flag, "true: class scores hold the objectness already; false (default): they don't"),
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
