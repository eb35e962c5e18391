"""UltraFace (Linzaer's Ultra-Light-Fast-Generic-Face-Detector): faces, decoded in the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.candidates import Candidates, malformed, matrix
from pipeline.decoders.family import Family, InputDefaults, Match, View

_NAME = "ultraface"
_EXPECTED = "scores [1, priors, 2] and boxes [1, priors, 4], one of each"
_PRIORS = ((8, 3), (16, 2), (32, 2), (64, 3))
"""Stride, and priors in each of its cells."""


def prior_count(input_hw: tuple[int, int]) -> int:
    """Return the number of boxes for an input: 4420 for 240 × 320 (``vision/ssd/config/fd_config.py``)."""
    return sum(each * -(-input_hw[0] // stride) * -(-input_hw[1] // stride) for stride, each in _PRIORS)


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],  # noqa: ARG001
) -> Candidates:
    """Decode scores [1, N, 2] = background, face, and boxes [1, N, 4] = xyxy as fractions of the input.

    The graph has taken the softmax and decoded the boxes; what is left is their product with the
    input's size (``predict`` in the authors' ``run_video_face_detect_onnx.py``). The outputs may be
    in either order. ``params``: none. Raises ModelError for other shapes.
    """
    if len(outputs) != 2:
        raise malformed(_NAME, _EXPECTED, outputs)
    pair = sorted((matrix(output, _NAME, _EXPECTED) for output in outputs), key=lambda m: m.shape[1])
    scores, boxes = pair
    if scores.shape[1] != 2 or boxes.shape != (len(scores), 4):
        raise malformed(_NAME, _EXPECTED, outputs)
    rows = np.flatnonzero(scores[:, 1] > conf_threshold)
    height, width = input_hw
    with np.errstate(over="ignore"):
        xyxy = boxes[rows].astype(np.float32) * np.array([width, height, width, height], np.float32)
    return Candidates.checked(xyxy, scores[rows, 1], np.zeros(len(rows), np.int32))


def recognise(view: View) -> Match | None:
    """Two outputs of rank 3, 2 and 4 wide, with as many rows as UltraFace has priors."""
    if len(view.outputs) != 2 or any(len(shape) != 3 for shape in view.shapes):
        return None
    if view.num_classes not in (None, 1) or sorted(shape[2] or 0 for shape in view.shapes) != [2, 4]:
        return None
    count = prior_count(view.input_hw)
    if any(shape[1] != count for shape in view.shapes):
        return None
    scores = 0 if view.shapes[0][2] == 2 else 1
    reason = (
        f"{view.outputs[scores]} and {view.outputs[1 - scores]} = background and face, and box, of "
        f"{count} priors (3, 2, 2 and 3 a cell at strides 8, 16, 32 and 64)"
    )
    if view.tried:
        if not _sound(view.arrays[scores], view.arrays[1 - scores]):
            return None
        reason += "; in the trial run both scores sum to 1, and boxes are corners in fractions of the input"
    holds = ["probabilities of background and face"] * 2
    holds[1 - scores] = "boxes, left, top, right, bottom in 0..1"
    return Match(1, {}, reason, True, tuple(holds))


def _sound(scores: NDArray[Any], boxes: NDArray[Any]) -> bool:
    """Whether the scores are a softmax's and the boxes are decoded: regressions are not ordered."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = scores.astype(np.float32).reshape(-1, 2).sum(axis=1)
        corners = boxes.astype(np.float32).reshape(-1, 4)
        ordered = (corners[:, 2:] >= corners[:, :2]).all(axis=1)
        return bool((np.abs(sums - 1) < 0.05).mean() > 0.9 and ordered.mean() > 0.9)


FAMILY = Family(
    name=_NAME,
    layout="[1, priors, 2] and [1, priors, 4], faces, as UltraFace is exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults("RGB", (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), "stretch", "center", 0),
    input_hw=(240, 320),
    conf_threshold=0.70,
    iou_threshold=0.30,
    labels=("face",),
)
