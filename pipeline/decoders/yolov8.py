"""YOLOv8, YOLOv9, YOLO11 and YOLO12 detection exports of Ultralytics, and YOLOv5u's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import heads
from pipeline.decoders.activation import SIGMOID, logit, looks_like_logits, sigmoid
from pipeline.decoders.candidates import Candidates, cells_text, malformed, matrix, select, strides_for
from pipeline.decoders.cells import STRIDES_PARAM, UNIT_TEXT, Order, place, stated_strides
from pipeline.decoders.family import MULTI_LABEL, Family, Match, Param, View, confirmed, flag, one_of
from pipeline.decoders.objectness import exceeded, objectness_first

_EXPECTED = "one output [1, 4 + classes, boxes]"
_STRIDES = heads.STRIDES
_FORMS = ("rows", "columns")
_ANCHORS = 3


_form = one_of(_FORMS)


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode [1, 4 + classes, boxes]: rows cx, cy, w, h in input pixels, then probabilities.

    The boxes are decoded in the graph (``ultralytics.nn.modules.head.Detect``); what is left is
    left = cx - w / 2, and so on. ``params``: ``form`` (rows, or columns for [1, boxes, 4 + classes]);
    ``normalised`` (boxes in parts of the input); ``sigmoid`` (scores are logits); ``multi_label``.
    Raises ModelError for other shapes.
    """
    if len(outputs) != 1:
        raise malformed("yolov8", _EXPECTED, outputs)
    table = matrix(outputs[0], "yolov8", _EXPECTED)
    in_columns = params.get("form") == "columns"
    if table.shape[1 if in_columns else 0] < 5:
        expected = "one output [1, boxes, 4 + classes]" if in_columns else _EXPECTED
        raise malformed("yolov8", expected, outputs)
    threshold = logit(conf_threshold) if params.get("sigmoid") else conf_threshold
    scores = table[:, 4:] if in_columns else table[4:]
    box, class_id, values = select(
        scores, threshold, bool(params.get("multi_label")), box_axis=0 if in_columns else 1
    )
    with np.errstate(over="ignore", invalid="ignore"):
        boxes = table[box, :4].T if in_columns else table[:4].take(box, axis=1)
        center_size = boxes.astype(np.float32, copy=False)
        if params.get("normalised"):
            center_size = center_size * np.array(input_hw[::-1] * 2, np.float32)[:, None]
        half_size = center_size[2:] * np.float32(0.5)
        xyxy = np.empty((center_size.shape[1], 4), np.float32)
        np.subtract(center_size[:2], half_size, out=xyxy[:, :2].T)
        np.add(center_size[:2], half_size, out=xyxy[:, 2:].T)
    if params.get("sigmoid"):
        values = sigmoid(values)
        # A logit above the threshold's may be so by less than its probability can show.
        kept = values > conf_threshold
        xyxy, values, class_id = xyxy[kept], values[kept], class_id[kept]
    return Candidates.checked(xyxy, values, class_id)


def recognise(view: View) -> Match | None:
    """One output of rank 3 with a box for each grid cell, in whichever axis the trial run finds them."""
    if len(view.outputs) != 1 or len(view.shapes[0]) != 3 or heads.stated_task(view) not in (None, "detect"):
        return None
    return next(_matches(view), None)


def _matches(view: View) -> Iterator[Match]:
    output, shape = view.outputs[0], view.shapes[0]
    for form, (boxes, columns) in zip(_FORMS, (shape[:0:-1], shape[1:]), strict=True):
        certain = None if columns is None else confirmed(columns - 4, view.num_classes)
        if columns is None or certain is None:
            continue
        classes = columns - 4
        params: dict[str, Any] = {"form": form, "normalised": False, "sigmoid": False}
        seen = f"{output} = 4 + {classes} {form}"
        strides, anchors = strides_for(boxes, view.input_hw, _STRIDES), 1
        believed = view.stated and form == "rows"
        if strides is None and boxes is not None and boxes % _ANCHORS == 0 and not believed:
            # YOLOv5's boxes whose objectness the graph has multiplied in.
            strides, anchors = strides_for(boxes // _ANCHORS, view.input_hw, _STRIDES), _ANCHORS
        if boxes is None and form == "rows" and view.num_classes:
            # Without the number of boxes only a known number of classes tells this from other layouts.
            reason, certain = f"{seen} × a dynamic number of boxes", True
        elif strides is None and believed:
            # Such as a converted YOLOv3, with three boxes a cell.
            reason, certain = f"{seen} × {boxes} boxes", True
        elif strides is None:
            continue
        else:
            cells = cells_text(view.input_hw, strides)
            reason = f"{seen} × {cells if anchors == 1 else f'{anchors} × ({cells})'}"
        if view.tried and not (view.stated and strides is None):
            told = None if strides is None else _evidence(view, strides, params, anchors)
            if told is None and not view.stated:
                continue
            if not view.stated and view.num_classes is None and _has_objectness(view, params, anchors):
                continue
            # Rows are nobody else's; columns may hold an objectness and one class less.
            reason += f"; in the trial run {told}" if told else "; the trial run does not show it"
            certain = certain or (form == "rows" and anchors == 1)
        elif form == "columns" or anchors > 1:
            # Too like other layouts to be sure of without a run.
            certain = False
        unit = UNIT_TEXT["parts" if params["normalised"] else "pixels"]
        scores = "logits" if params["sigmoid"] else "probabilities"
        holds = f"cx, cy, w, h in {unit} and {classes} class {scores}, in {form}"
        params |= {} if strides is None else stated_strides(strides)
        doubt = _first_is_objectness(view, form) if view.num_classes is None and not view.stated else None
        yield Match(classes, params, reason, certain, (holds,), doubt=doubt)


def _first_is_objectness(view: View, form: str) -> str | None:
    """The doubt whether the first class is one: an objectness is never less likely than a class."""
    table = heads.table_of(view, 0, finite=False)
    if table is None:
        return None
    scores = table[:, 4:] if form == "columns" else table[4:].T
    if scores.shape[1] < 3 or (scores[:, :1] < scores[:, 1:]).any():
        return None
    return (
        f"the first of its {scores.shape[1]} classes is nowhere less likely than another, as an objectness "
        "would be: name the classes in a card"
    )


def _has_objectness(view: View, params: Mapping[str, Any], anchors: int) -> bool:
    """Whether the first class is an objectness, which only rows of one box a cell never have."""
    table = heads.table_of(view, 0, finite=False)
    if table is None or (params["form"] == "rows" and anchors == 1):
        return False
    scores = table[:, 4:] if params["form"] == "columns" else table[4:].T
    scores = sigmoid(scores) if params["sigmoid"] else scores
    known = objectness_first(scores)
    if known is None and anchors > 1 and scores.shape[1] > 1:
        return not exceeded(scores)
    return bool(known)


def _evidence(view: View, strides: tuple[int, ...], params: dict[str, Any], anchors: int = 1) -> str | None:
    """Complete ``params`` by the trial run, and return what it shows; None where it speaks against it."""
    table = heads.table_of(view, 0, finite=False)  # a few broken answers are warned of, not refused
    if table is None:
        return None
    table = table if params["form"] == "columns" else table.T
    placed, scores = place(table[:, :2], view.input_hw, strides, anchors), table[:, 4:]
    # A first class that is everywhere sure is no class but YOLOv6's objectness.
    if placed is None or placed.order != Order() or scores[:, 0].min() > 0.99:
        return None
    params["normalised"] = placed.unit == "parts"
    told = (
        f"boxes lie {placed.distance:.2g} cells from the middle of theirs when read so, "
        f"in {UNIT_TEXT[placed.unit]}"
    )
    if looks_like_logits(scores):
        # A detector says no almost everywhere. Angles and keypoints do not.
        if float((scores < 0).mean()) < 0.9:
            return None
        params["sigmoid"] = True
        told += f"; scores are logits, {scores.min():.3g} to {scores.max():.3g}"
    return told


FAMILY = Family(
    name="yolov8",
    layout="[1, 4 + classes, boxes], as YOLOv8 and YOLO11 are exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=heads.INPUT,
    input_hw=(640, 640),
    conf_threshold=0.25,
    iou_threshold=0.70,
    params={
        "form": Param(_form, "rows (default): [4 + classes, boxes]; columns: [boxes, 4 + classes]"),
        "normalised": Param(flag, "true: boxes in parts of the input; false (default): in its pixels"),
        "sigmoid": SIGMOID,
        "strides": STRIDES_PARAM,
        "multi_label": MULTI_LABEL,
    },
)
