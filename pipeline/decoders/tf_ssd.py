"""Exports of TensorFlow's Object Detection API: SSD, EfficientDet, Faster R-CNN with their own NMS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.background import (
    BACKGROUND_LABEL,
    CLASSES,
    COCO_IDS,
    numbered,
    whose_numbers,
)
from pipeline.decoders.candidates import Candidates, malformed
from pipeline.decoders.family import Family, InputDefaults, Match, Param, View, flag
from pipeline.decoders.tf_names import DETECTIONS, named, of_tflite

_EXPECTED = (
    "detection_boxes [1, N, 4], detection_classes [1, N], detection_scores [1, N] "
    "and num_detections [1], in this order"
)
_HOLDS = (
    "boxes, ymin, xmin, ymax, xmax as fractions of the input",
    "classes, counted from {}",
    "scores after NMS",
    "how many of them are no padding",
)


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode boxes [1, N, 4] (ymin, xmin, ymax, xmax as fractions), classes [1, N] from 1, scores [1, N].

    What lies behind ``num_detections`` is padding
    (``object_detection/exporter.py``, ``_add_output_tensor_nodes``). The box in pixels is
    (xmin · width, ymin · height, xmax · width, ymax · height); class 0 is the background and is
    left out. TFLite's operator counts classes from 0 and has no background
    (``tensorflow/lite/kernels/detection_postprocess.cc``).

    ``params``: ``order``, where ``recognise`` found the four among the outputs; ``from_zero`` (true:
    classes count from 0, as TFLite's do); ``background_label`` (true: class_id is the class counted
    from 1, as in COCO's list of 91; false: one less) and ``classes``. Raises ModelError for other
    shapes, and for a class beyond ``classes``.
    """
    order: Sequence[int] = params.get("order", range(4))
    if len(order) != 4 or max(order) >= len(outputs) or ("order" not in params and len(outputs) != 4):
        raise malformed("tf-ssd", _EXPECTED, outputs)
    boxes, labels, scores, count = (outputs[index] for index in order)
    if boxes.ndim == 3 and len(boxes) == 1:
        boxes = boxes[0]
    labels, scores = (a[0] if a.ndim == 2 and len(a) == 1 else a for a in (labels, scores))
    floating = all(np.issubdtype(a.dtype, np.floating) for a in (boxes, scores))
    if not floating or labels.dtype == np.bool_ or scores.ndim != 1 or count.size != 1:
        raise malformed("tf-ssd", _EXPECTED, outputs)
    if boxes.shape != (len(scores), 4) or labels.shape != scores.shape:
        raise malformed("tf-ssd", _EXPECTED, outputs)
    # Padding scores 0 as well, so a count that is no number costs nothing.
    told = float(count.reshape(-1)[0])
    limit = int(np.clip(told, 0, len(scores))) if np.isfinite(told) else len(scores)
    labels, scores = labels[:limit].astype(np.float64) + bool(params.get("from_zero")), scores[:limit]
    found = np.flatnonzero((scores > conf_threshold) & np.isfinite(labels) & (labels != 0))
    shift = 0 if params.get("background_label", True) else 1
    class_id = numbered(labels[found] - shift, params.get("classes"), "tf-ssd")
    height, width = input_hw
    with np.errstate(over="ignore", invalid="ignore"):
        corners = boxes[found][:, [1, 0, 3, 2]].astype(np.float32)
        corners *= np.array([width, height, width, height], np.float32)
    return Candidates.checked(corners, scores[found], class_id)


def recognise(view: View, tflite: bool = False) -> Match | None:
    """The API's own names of outputs, with or without ":0" and a scope before them; others beside them.

    ``tflite``: those of TFLite's operator, converted.
    """
    order = of_tflite(view) if tflite else named(view, DETECTIONS)
    if order is None:
        return None
    boxes, classes, scores, _ = (view.shapes[index] for index in order)
    if len(boxes) != 3 or boxes[2] not in (4, None) or len(classes) != 2 or len(scores) != 2:
        return None
    labels, sure = (view.arrays[index] for index in order[1:3]) if view.tried else (None, None)
    if labels is not None and sure is not None and labels.shape != sure.shape:
        return None
    from_one = labels + tflite if labels is not None else None
    numbers = whose_numbers(view.num_classes, from_one, sure, coco=(COCO_IDS, 1, 17))
    holds = ["not used"] * len(view.outputs)
    for index, said in zip(order, _HOLDS, strict=True):
        holds[index] = said.format(0 if tflite else 1)
    return Match(
        numbers.count,
        {
            "order": order,
            "classes": numbers.count,
            "background_label": view.num_classes in (None, COCO_IDS),
            "from_zero": tflite,
        },
        f"outputs named {', '.join(view.outputs[index].name for index in order)}; {numbers.why}",
        certain=True,
        holds=tuple(holds),
        numbers=numbers,
    )


def _family(name: str, mean: float, std: float, hw: int, layout: str) -> Family:
    return Family(
        name=name,
        layout=layout,
        decode=decode,
        recognise=partial(recognise, tflite=name == "tf-ssd-tflite"),
        class_aware=True,
        input=InputDefaults("RGB", (mean, mean, mean), (std, std, std), "stretch", "center", 0),
        input_hw=(hw, hw),
        conf_threshold=0.50,
        iou_threshold=0.60,
        params={
            "background_label": BACKGROUND_LABEL,
            "classes": CLASSES,
            "from_zero": Param(flag, "true: classes count from 0; false (default): from 1"),
        },
        nms=False,
    )


_LAYOUT = ", ".join(DETECTIONS)
FAMILY = _family(
    "tf-ssd", 0.0, 1.0, 640, f"{_LAYOUT}, as TensorFlow's Object Detection API exports, fed pixels"
)
TFLITE = _family(
    "tf-ssd-tflite", 127.5, 127.5, 300, f"{_LAYOUT}, as TFLite_Detection_PostProcess converted, fed -1..1"
)
