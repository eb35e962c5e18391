"""SCRFD (InsightFace): faces, with five landmarks where the model has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import faces
from pipeline.decoders.candidates import Candidates, cells_text, malformed, matrix
from pipeline.decoders.family import Family, InputDefaults, Match, View

_NAME = "scrfd"
_EXPECTED = "for each stride a score [N, 1], a box [N, 4] and, in some models, landmarks [N, 10]"
_LAYOUTS = {
    6: ((8, 16, 32), (1, 4), 2),
    9: ((8, 16, 32), (1, 4, 10), 2),
    10: ((8, 16, 32, 64, 128), (1, 4), 1),
    15: ((8, 16, 32, 64, 128), (1, 4, 10), 1),
}
"""By the number of outputs: strides, widths of a stride's outputs, boxes in a cell."""
_HOLDS = {1: "scores", 4: "boxes: distances to their sides", 10: "offsets of five landmarks"}


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],  # noqa: ARG001
) -> Candidates:
    """Decode for each stride scores [N, 1], boxes [N, 4] and landmarks [N, 10], with a batch axis or none.

    With 6 or 9 outputs the strides are 8, 16 and 32 and a cell has two boxes, one after the other;
    with 10 or 15 they go on to 128 and it has one. From the cell's corner (column, row) · stride a
    box reaches left, top, right and bottom by its distances · stride, and a landmark lies off by
    its values · stride, in input pixels (``SCRFD.forward``, ``distance2bbox`` and ``distance2kps``
    of the ``insightface`` package). The outputs may be in any order. ``params``: none. Raises
    ModelError for other shapes.
    """
    layout = _LAYOUTS.get(len(outputs))
    if layout is None:
        raise malformed(_NAME, _EXPECTED, outputs)
    strides, widths, each = layout
    places = faces.levels([o.shape for o in outputs], input_hw, strides, widths, each)
    if places is None:
        raise malformed(_NAME, _EXPECTED, outputs)
    heads = [matrix(output, _NAME, _EXPECTED) for output in outputs]
    boxes, scores, points = [], [], []
    for level, (corners, stride) in zip(places, faces.grids(input_hw, strides), strict=True):
        score, box = heads[level[0]][:, 0], heads[level[1]]
        rows = np.flatnonzero(score > conf_threshold)
        corner = corners[rows // each]
        scores.append(score[rows])
        with np.errstate(over="ignore", invalid="ignore"):
            reach = box[rows].astype(np.float32) * stride
            boxes.append(np.concatenate([corner - reach[:, :2], corner + reach[:, 2:]], axis=1))
            if len(level) == 3:
                off = heads[level[2]][rows].astype(np.float32) * stride
                points.append(np.tile(corner, faces.LANDMARKS) + off)
    found = np.concatenate(scores)
    return Candidates.checked(
        np.concatenate(boxes),
        found,
        np.zeros(len(found), np.int32),
        keypoints=faces.landmarks(np.concatenate(points)) if points else None,
    )


def recognise(view: View) -> Match | None:
    """So many outputs, 1, 4 and 10 wide, with as many rows as the cells of their strides have boxes."""
    layout = _LAYOUTS.get(len(view.outputs))
    if layout is None or view.num_classes not in (None, 1):
        return None
    strides, widths, each = layout
    places = faces.levels(view.shapes, view.input_hw, strides, widths, each)
    if places is None:
        return None
    what = "score, box and five landmarks" if len(widths) == 3 else "score and box"
    boxes = f"{each} × {cells_text(view.input_hw, strides)}"
    reason = f"{len(view.outputs)} outputs = {what} of {boxes}"
    if view.tried:
        if not faces.probable([view.arrays[level[0]] for level in places]):
            return None
        reason += "; in the trial run the scores are probabilities"
    holds = tuple(_HOLDS[shape[-1] or 1] for shape in view.shapes)
    return Match(1, {}, reason, True, holds, batched=all(len(shape) == 3 for shape in view.shapes))


FAMILY = Family(
    name=_NAME,
    layout="scores [N, 1], boxes [N, 4], landmarks [N, 10] for each stride, faces, as SCRFD is exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults("RGB", (127.5, 127.5, 127.5), (128.0, 128.0, 128.0), "letterbox", "top-left", 0),
    input_hw=(640, 640),
    conf_threshold=0.50,
    iou_threshold=0.40,
    labels=("face",),
)
