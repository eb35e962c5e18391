"""YOLOv8 and YOLO11 detection exports of Ultralytics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.candidates import Candidates, cells_text, malformed, matrix, select, strides_for
from pipeline.decoders.family import MULTI_LABEL, Family, InputDefaults, Match, View, confirmed

_EXPECTED = "one output [1, 4 + classes, boxes]"
_STRIDES = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64))


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],  # noqa: ARG001
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode [1, 4 + classes, boxes]: rows cx, cy, w, h in input pixels, then probabilities.

    The boxes are decoded in the graph (``ultralytics.nn.modules.head.Detect``); what is left is
    left = cx - w / 2, and so on. ``params``: ``multi_label``. Raises ModelError for other shapes.
    """
    if len(outputs) != 1:
        raise malformed("yolov8", _EXPECTED, outputs)
    output = matrix(outputs[0], "yolov8", _EXPECTED)
    if len(output) < 5:
        raise malformed("yolov8", _EXPECTED, outputs)
    box, class_id, scores = select(output[4:], conf_threshold, bool(params.get("multi_label")), box_axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        center_size = output[:4, box].astype(np.float32, copy=False)
        center, half_size = center_size[:2], center_size[2:] * np.float32(0.5)
        boxes = np.concatenate([center - half_size, center + half_size]).T
    return Candidates.checked(np.ascontiguousarray(boxes), scores, class_id)


def recognise(view: View) -> Match | None:
    """One output of rank 3 whose last axis is the number of grid cells."""
    outputs, num_classes = view.outputs, view.num_classes
    if len(outputs) != 1 or len(outputs[0].shape) != 3:
        return None
    _, rows, boxes = outputs[0].shape
    certain = None if rows is None else confirmed(rows - 4, num_classes)
    if rows is None or certain is None:
        return None
    seen = f"{outputs[0]} = 4 + {rows - 4} rows"
    if boxes is None:
        # Without the number of boxes only a known number of classes tells this from other layouts.
        return Match(rows - 4, {}, f"{seen} × a dynamic number of boxes", True) if num_classes else None
    strides = strides_for(boxes, view.input_hw, _STRIDES)
    if strides is None:
        return None
    return Match(rows - 4, {}, f"{seen} × {cells_text(view.input_hw, strides)}", certain)


FAMILY = Family(
    name="yolov8",
    layout="[1, 4 + classes, boxes], as YOLOv8 and YOLO11 are exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "letterbox", "center", 114),
    input_hw=(640, 640),
    conf_threshold=0.25,
    iou_threshold=0.70,
    params={"multi_label": MULTI_LABEL},
)
