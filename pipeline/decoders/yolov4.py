"""YOLOv4 exports of Tianxiaomo's pytorch-YOLOv4: boxes and class scores in two outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import heads
from pipeline.decoders.candidates import Candidates, cells_text, malformed, select, strides_for
from pipeline.decoders.family import MULTI_LABEL, Family, InputDefaults, Match, View, confirmed

_NAME = "yolov4"
_EXPECTED = "boxes [1, N, 1, 4] and scores [1, N, classes]"
_ANCHORS = 3
_STRIDES = ((8, 16, 32), (16, 32), (8, 16, 32, 64))


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode boxes [1, N, 1, 4], xyxy in parts of the input, and scores [1, N, classes], in any order.

    A score is objectness · class probability, multiplied in the graph (``yolo_forward_dynamic`` in
    the repository's ``tool/yolo_layer.py``; ``post_processing`` in ``tool/utils.py`` reads them so).
    ``params``: ``multi_label``. Raises ModelError for other shapes.
    """
    boxes, confs = _tables(outputs)
    row, class_id, scores = select(confs, conf_threshold, bool(params.get("multi_label")), box_axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        xyxy = boxes[row].astype(np.float32) * np.array(input_hw[::-1] * 2, np.float32)
    return Candidates.checked(xyxy, scores, class_id)


def _tables(outputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return boxes [N, 4] and scores [N, classes]: the boxes have an axis more."""
    ranked = sorted(outputs, key=np.ndim, reverse=True)
    if len(ranked) == 2 and all(np.issubdtype(output.dtype, np.floating) for output in ranked):
        boxes, confs = ranked
        if boxes.ndim == 4 and confs.ndim == 3 and len(boxes) == len(confs) == 1:
            boxes, confs = boxes[0], confs[0]
        if boxes.ndim == 3 and confs.ndim == 2 and boxes.shape == (len(confs), 1, 4) and confs.shape[1]:
            return boxes[:, 0], confs
    raise malformed(_NAME, _EXPECTED, outputs)


def recognise(view: View) -> Match | None:
    """An output [1, N, 1, 4] and one [1, N, classes], with N three for each cell."""
    ranks = [len(shape) for shape in view.shapes]
    if sorted(ranks) != [3, 4]:
        return None
    place = ranks.index(4)
    _, rows, one, four = view.shapes[place]
    _, scored, classes = view.shapes[1 - place]
    if (one, four) != (1, 4) or rows is None or rows != scored or classes is None or rows % _ANCHORS:
        return None
    certain = confirmed(classes, view.num_classes)
    strides = strides_for(rows // _ANCHORS, view.input_hw, _STRIDES)
    if certain is None or strides is None:
        return None
    reason = (
        f"{view.outputs[place]} and {view.outputs[1 - place]}: boxes and scores of "
        f"3 × ({cells_text(view.input_hw, strides)})"
    )
    if view.tried:
        boxes, confs = (heads.table_of(view, index) for index in (place, 1 - place))
        boxes = None if view.arrays[place].ndim != 4 else view.arrays[place].reshape(-1, 4)
        if boxes is None or confs is None or not heads.probable(confs) or not np.isfinite(boxes).all():
            return None
        if np.abs(np.median(boxes, axis=0)).max() > 2:
            return None
        reason += "; in the trial run scores are probabilities and boxes in parts of the input"
    holds = [f"{classes} class scores (objectness · probability) of {rows} boxes"] * 2
    holds[place] = "boxes, xyxy in parts of the input"
    # No other layout has an axis of 1 between boxes and their coordinates.
    return Match(classes, {}, reason, certain=True, holds=tuple(holds))


FAMILY = Family(
    name=_NAME,
    layout="boxes [1, N, 1, 4] and scores [1, N, classes], as pytorch-YOLOv4 is exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "stretch", "center", 0),
    input_hw=(416, 416),
    conf_threshold=0.40,
    iou_threshold=0.60,
    params={"multi_label": MULTI_LABEL},
)
