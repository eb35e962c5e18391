"""Instance segmentation exports that answer each object once: YOLO26, or Ultralytics' nms=True."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from pipeline.decoders import heads
from pipeline.decoders.candidates import Candidates
from pipeline.decoders.family import Family, Match, View
from pipeline.decoders.yolov8_seg import places, separated

_NAME = "end2end-seg"
_EXPECTED = "[1, N, 6 + M] and prototypes [1, M, h, w]"


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],  # noqa: ARG001
    conf_threshold: float,
    params: Mapping[str, Any],  # noqa: ARG001
) -> Candidates:
    """Decode [1, N, 6 + M]: left, top, right, bottom in input pixels, score, class, M mask coefficients.

    With prototypes [1, M, h, w] as ``yolov8-seg`` has them, the two in any order
    (``ultralytics/nn/modules/head.py``, ``Detect.postprocess``; ``engine/exporter.py``,
    ``NMSModel``). Raises ModelError for other shapes.
    """
    table, prototypes = separated(_NAME, _EXPECTED, outputs)
    boxes, scores, class_id, coefficients = heads.read_end2end(
        _NAME, _EXPECTED, table, len(prototypes), conf_threshold
    )
    return Candidates.checked(boxes, scores, class_id, mask_coefficients=coefficients, prototypes=prototypes)


def recognise(view: View) -> Match | None:
    """One output [N, boxes, 6 + M] and one [N, M, h, w]."""
    found = places(view)
    if found is None:
        return None
    table, count, holds = found
    return heads.match_end2end(view, table, count, "mask coefficients", None, True, holds)


FAMILY = Family(
    name=_NAME,
    layout="[1, N, 6 + 32] and prototypes [1, 32, h, w], as YOLO26 segmentation is exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=heads.INPUT,
    input_hw=(640, 640),
    conf_threshold=0.25,
    iou_threshold=1.0,
    task="segment",
    nms=False,
)
