"""YuNet (libfacedetection; OpenCV's FaceDetectorYN): faces with five landmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import faces
from pipeline.decoders.candidates import Candidates, cells_text, malformed, matrix
from pipeline.decoders.family import Family, InputDefaults, Match, View

_NAME = "yunet"
_STRIDES = (8, 16, 32)
_WIDTHS = (1, 1, 4, 10)
_EXPECTED = "12 outputs, for strides 8, 16 and 32 two [1, cells, 1], one [1, cells, 4] and one [1, cells, 10]"
_HOLDS = {4: "boxes: centre's offset, log size", 10: "offsets of five landmarks"}


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],  # noqa: ARG001
) -> Candidates:
    """Decode cls, obj [1, cells, 1], bbox [1, cells, 4] and kps [1, cells, 10] of strides 8, 16 and 32.

    A cell's score is √(cls · obj). The box has the centre ((column, row) + bbox_xy) · stride and the
    size exp(bbox_wh) · stride; landmark k is ((column, row) + kps_k) · stride, in input pixels
    (``FaceDetectorYNImpl::postProcess`` in OpenCV's ``objdetect/src/face_detect.cpp``). The outputs
    may be in any order: cells and widths tell them apart, and cls and obj count alike. ``params``:
    none. Raises ModelError for other shapes.
    """
    places = faces.levels([o.shape for o in outputs], input_hw, _STRIDES, _WIDTHS, 1)
    if places is None:
        raise malformed(_NAME, _EXPECTED, outputs)
    heads = [matrix(output, _NAME, _EXPECTED) for output in outputs]
    boxes, scores, points = [], [], []
    for level, (corners, stride) in zip(places, faces.grids(input_hw, _STRIDES), strict=True):
        first, second, box, landmark = (heads[place] for place in level)
        # Neither probability is above 1, so each has to exceed the square of the threshold.
        least = conf_threshold * conf_threshold
        cells = np.flatnonzero((first[:, 0] > least) & (second[:, 0] > least))
        with np.errstate(over="ignore", invalid="ignore"):
            score = np.sqrt(first[cells, 0].astype(np.float32) * second[cells, 0])
            cells, score = cells[score > conf_threshold], score[score > conf_threshold]
            corner, raw = corners[cells], box[cells].astype(np.float32)
            center, half_size = corner + raw[:, :2] * stride, np.exp(raw[:, 2:]) * (stride / 2)
            boxes.append(np.concatenate([center - half_size, center + half_size], axis=1))
            points.append(np.tile(corner, faces.LANDMARKS) + landmark[cells].astype(np.float32) * stride)
        scores.append(score)
    found = np.concatenate(scores)
    return Candidates.checked(
        np.concatenate(boxes),
        found,
        np.zeros(len(found), np.int32),
        keypoints=faces.landmarks(np.concatenate(points)),
    )


def recognise(view: View) -> Match | None:
    """Twelve outputs, 1, 1, 4 and 10 wide, with a row for each cell of three strides."""
    places = faces.levels(view.shapes, view.input_hw, _STRIDES, _WIDTHS, 1)
    if places is None or view.num_classes not in (None, 1):
        return None
    reason = (
        f"12 outputs, {view.outputs[0].name} to {view.outputs[-1].name} = class and objectness, box and five "
        f"landmarks in each of {cells_text(view.input_hw, _STRIDES)}"
    )
    if view.tried:
        if not faces.probable([view.arrays[place] for level in places for place in level[:2]]):
            return None
        reason += "; in the trial run class and objectness are probabilities"
    holds = tuple(_HOLDS.get(shape[-1] or 0, "probabilities of class or objectness") for shape in view.shapes)
    return Match(1, {}, reason, True, holds, batched=all(len(shape) == 3 for shape in view.shapes))


FAMILY = Family(
    name=_NAME,
    layout="cls, obj [1, cells, 1], bbox [1, cells, 4], kps [1, cells, 10] for each stride, faces, as YuNet",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults("BGR", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "letterbox", "top-left", 0),
    input_hw=(640, 640),
    conf_threshold=0.90,
    iou_threshold=0.30,
    labels=("face",),
)
