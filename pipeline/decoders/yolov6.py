"""YOLOv6 exports of Meituan: YOLOX's table with boxes decoded and an objectness of 1 everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import heads
from pipeline.decoders.candidates import Candidates, cells_text, malformed, strides_for
from pipeline.decoders.cells import STRIDES_PARAM, UNIT_TEXT, Order, place, stated_strides
from pipeline.decoders.family import MULTI_LABEL, Family, Match, Param, View, confirmed, flag

_NAME = "yolov6"
_EXPECTED = "one output [1, cells, 5 + classes]"
_STRIDES = ((8, 16, 32), (8, 16, 32, 64))


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode [1, cells, 5 + classes]: columns cx, cy, w, h, an objectness of 1, class probabilities.

    Boxes are decoded in the graph (``Detect.forward`` in YOLOv6's ``yolov6/models/effidehead.py``);
    a score is objectness · probability (``yolov6/utils/nms.py``). ``params``: ``normalised`` (boxes in
    parts of the input, else in its pixels); ``multi_label``. Raises ModelError for other shapes.
    """
    if len(outputs) != 1:
        raise malformed(_NAME, _EXPECTED, outputs)
    how = {"form": "objectness", "multi_label": params.get("multi_label")}
    boxes, scores, class_id, _ = heads.read(_NAME, _EXPECTED, outputs[0], 0, conf_threshold, how)
    xyxy = heads.corners(boxes)
    if params.get("normalised"):
        with np.errstate(over="ignore", invalid="ignore"):
            xyxy = xyxy * np.array(input_hw[::-1] * 2, np.float32)
    return Candidates.checked(xyxy, scores, class_id)


def recognise(view: View) -> Match | None:
    """One row for each cell, whose objectness the trial run shows to be 1; untried, YOLOX is likelier."""
    if len(view.outputs) != 1 or len(view.shapes[0]) != 3:
        return None
    output, (_, cells, columns) = view.outputs[0], view.shapes[0]
    strides = strides_for(cells, view.input_hw, _STRIDES)
    certain = None if columns is None else confirmed(columns - 5, view.num_classes)
    if strides is None or columns is None or certain is None:
        return None
    classes = columns - 5
    params: dict[str, Any] = {"normalised": False}
    reason = f"{output} = {cells_text(view.input_hw, strides)} × (5 + {classes})"
    if view.tried:
        told = _evidence(view, strides, params)
        if told is None and not view.stated:
            return None
        reason += f"; in the trial run {told}" if told else "; the trial run does not show it"
    unit = UNIT_TEXT["parts" if params["normalised"] else "pixels"]
    holds = f"cx, cy, w, h in {unit}, an objectness of 1, {classes} class probabilities of {cells} cells"
    params |= stated_strides(strides)
    return Match(classes, params, reason, certain=view.tried, holds=(holds,))


def _evidence(view: View, strides: tuple[int, ...], params: dict[str, Any]) -> str | None:
    """Complete ``params`` by the trial run, and return what it shows; None where it speaks against it."""
    table = heads.table_of(view, 0)
    # What 8 bits make of a 1 is not always 1.
    if table is None or np.abs(table[:, 4] - 1).max() > 0.01 or not heads.probable(table[:, 5:]):
        return None
    placed = place(table[:, :2], view.input_hw, strides)
    if placed is None or placed.order != Order():
        return None
    params["normalised"] = placed.unit == "parts"
    return (
        f"the objectness is 1 everywhere and boxes are in {UNIT_TEXT[placed.unit]}: "
        f"so read they lie {placed.distance:.2g} cells from the middle of theirs"
    )


FAMILY = Family(
    name=_NAME,
    layout="[1, cells, 5 + classes] with an objectness of 1, as YOLOv6 is exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=heads.INPUT,
    input_hw=(640, 640),
    conf_threshold=0.40,
    iou_threshold=0.45,
    params={
        "normalised": Param(flag, "true: boxes in parts of the input; false (default): in its pixels"),
        "strides": STRIDES_PARAM,
        "multi_label": MULTI_LABEL,
    },
)
