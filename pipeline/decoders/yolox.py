"""YOLOX exports of Megvii."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import heads
from pipeline.decoders.candidates import (
    Candidates,
    cells_text,
    grid,
    malformed,
    matrix,
    select,
    strides_for,
)
from pipeline.decoders.cells import UNIT_TEXT, Order, place
from pipeline.decoders.family import (
    MULTI_LABEL,
    Family,
    InputDefaults,
    Match,
    Param,
    View,
    confirmed,
    flag,
    whole_numbers,
)
from pipeline.decoders.objectness import objectness_first

_EXPECTED = "one output [1, cells, 5 + classes]"
_STRIDES = ((8, 16, 32), (8, 16, 32, 64))
_PARTS = 0.95
"""Where so many of the four numbers of a box are in 0..1, they are parts of the input."""


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode [1, cells, 5 + classes]: columns x, y, w, h, objectness, class probabilities.

    A cell's score for a class is objectness × probability. In the usual export the box is raw, and
    cx, cy = (xy + column, row) · stride; w, h = exp(wh) · stride
    (``yolox/models/yolo_head.py``, ``decode_outputs``). ``params``: ``decoded`` true where the
    export did that itself (``--decode_in_inference``), ``normalised`` where it gives such boxes in
    parts of the input; ``strides``; ``multi_label``. Raises ModelError for other shapes.
    """
    if len(outputs) != 1:
        raise malformed("yolox", _EXPECTED, outputs)
    output = matrix(outputs[0], "yolox", _EXPECTED)
    if output.shape[1] < 6:
        raise malformed("yolox", _EXPECTED, outputs)
    decoded = bool(params.get("decoded"))
    strides = tuple(params.get("strides", ())) or strides_for(len(output), input_hw, _STRIDES)
    points, sizes = (None, None) if decoded or strides is None else grid(input_hw, strides, 0.0)
    if not decoded and (points is None or len(points) != len(output)):
        cells = cells_text(input_hw, strides or _STRIDES[0])
        raise malformed("yolox", f"[1, {cells}, 5 + classes]", outputs)

    # A probability is at most 1, so a score above the threshold needs an objectness above it.
    rows = np.flatnonzero(output[:, 4] > conf_threshold)
    found = output[rows].astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        row, class_id, scores = select(
            found[:, 5:] * found[:, 4:5], conf_threshold, bool(params.get("multi_label")), box_axis=0
        )
        center, size = found[row, 0:2], found[row, 2:4]
        if points is not None and sizes is not None and not decoded:
            cell = rows[row]
            center = center * sizes[cell] + points[cell]
            size = np.exp(size) * sizes[cell]
        half_size = size * np.float32(0.5)
        boxes = np.concatenate([center - half_size, center + half_size], axis=1)
        if decoded and params.get("normalised"):
            boxes = boxes * np.array(input_hw[::-1] * 2, np.float32)
    return Candidates.checked(boxes, scores, class_id)


def recognise(view: View) -> Match | None:
    """One output of rank 3 whose middle axis is the number of grid cells; decoded or not, as it answers."""
    outputs, input_hw = view.outputs, view.input_hw
    if len(outputs) != 1 or len(outputs[0].shape) != 3:
        return None
    _, cells, columns = outputs[0].shape
    strides = strides_for(cells, input_hw, _STRIDES)
    if strides is None or columns is None:
        return None
    certain = confirmed(columns - 5, view.num_classes)
    if certain is None:
        return None
    classes = columns - 5
    params: dict[str, Any] = {"strides": strides, "decoded": False, "normalised": False}
    reason = f"{outputs[0]} = {cells_text(input_hw, strides)} × (5 + {classes})"
    if view.tried:
        told = _evidence(view, strides, params)
        if told is None and not view.stated:
            return None
        # Offsets are nobody else's; a decoded table may hold no objectness but one class more.
        reason += f"; in the trial run {told}" if told else "; the trial run does not show it"
        certain = certain or not params["decoded"]
    else:
        reason += ", taken as not decoded, the family's default, unless a card says decoded = true"
    unit = ("parts" if params["normalised"] else "pixels") if params["decoded"] else "offsets"
    holds = f"cx, cy, w, h in {UNIT_TEXT[unit]}, objectness, {classes} class probabilities of {cells} cells"
    return Match(classes, params, reason, certain, (holds,))


def _evidence(view: View, strides: tuple[int, ...], params: dict[str, Any]) -> str | None:
    """Complete ``params`` by the trial run, and return what it shows; None where it speaks against it."""
    table = heads.table_of(view, 0)
    # An objectness that is 1 everywhere is YOLOv6's.
    if table is None or not heads.probable(table[:, 4:]) or table[:, 4].min() > 0.99:
        return None
    centers = table[:, :2]
    # Parts of the input are small numbers, as offsets are; but offsets fit no place in the picture.
    placed = place(centers, view.input_hw, strides) or place(
        centers, view.input_hw, strides, units=("offsets",)
    )
    if placed is None or placed.order != Order():
        return None
    # A logarithm of a size, or an offset, is now and then below 0 or above 1; a part of the input never.
    inside = float(((table[:, :4] >= 0) & (table[:, :4] <= 1)).mean())
    if placed.unit == "offsets" and inside > _PARTS:
        return None
    if objectness_first(table[:, 4:]) is False and view.num_classes is None:
        return None
    params["decoded"] = placed.unit != "offsets"
    params["normalised"] = placed.unit == "parts"
    return (
        f"centres read as {UNIT_TEXT[placed.unit]} lie {placed.distance:.2g} cells from the middle of "
        f"theirs, so boxes are {'decoded already' if params['decoded'] else 'not decoded yet'}"
    )


FAMILY = Family(
    name="yolox",
    layout="[1, cells, 5 + classes], as YOLOX is exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults("BGR", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "letterbox", "top-left", 114),
    input_hw=(416, 416),
    conf_threshold=0.30,
    iou_threshold=0.65,
    params={
        "decoded": Param(flag, "true: boxes in input pixels; false (default): offsets within grid cells"),
        "normalised": Param(
            flag, "true: decoded boxes are in parts of the input; false (default): its pixels"
        ),
        "strides": Param(whole_numbers, "pixels of a grid cell at each level, such as [8, 16, 32]"),
        "multi_label": MULTI_LABEL,
    },
)
