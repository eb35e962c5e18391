"""Instance segmentation exports of Ultralytics: YOLOv8, YOLO11 and YOLOv5, with mask prototypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import heads
from pipeline.decoders.candidates import Candidates, malformed
from pipeline.decoders.family import MULTI_LABEL, Family, Match, View

_NAME = "yolov8-seg"
_EXPECTED = "[1, 4 + classes + M, boxes] and prototypes [1, M, h, w]"


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],  # noqa: ARG001
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode a table of boxes, each with M mask coefficients at its end, and M prototypes.

    Two outputs, in any order: the table in one of ``heads.FORMS``, [1, 4 + classes + M, boxes]
    unless ``params`` (``form``) say otherwise, boxes as centre and size in input pixels; prototypes
    [1, M, h, w] that cover the whole input. A mask's logit is Σ coefficient · prototype (Bolya et
    al. 2019, YOLACT, section 3.1; ``ultralytics/utils/ops.py``, ``process_mask``); it is left for
    who wants the mask. ``params``: ``form``, ``multi_label``. Raises ModelError for other shapes.
    """
    table, prototypes = separated(_NAME, _EXPECTED, outputs)
    boxes, scores, class_id, coefficients = heads.read(
        _NAME, _EXPECTED, table, len(prototypes), conf_threshold, params
    )
    return Candidates.checked(
        heads.corners(boxes), scores, class_id, mask_coefficients=coefficients, prototypes=prototypes
    )


def separated(
    family: str, expected: str, outputs: Sequence[NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[np.floating[Any]]]:
    """Return the table as it is, and the prototypes [M, h, w]. Raises ModelError for other outputs."""
    ranked = sorted(outputs, key=np.ndim)
    if len(ranked) != 2 or ranked[1].ndim - ranked[0].ndim != 1:
        raise malformed(family, expected, outputs)
    table, prototypes = ranked
    if prototypes.ndim == 4 and prototypes.shape[0] == 1:
        prototypes = prototypes[0]
    if prototypes.ndim != 3 or 0 in prototypes.shape or not np.issubdtype(prototypes.dtype, np.floating):
        raise malformed(family, expected, outputs)
    return table, prototypes


def recognise(view: View) -> Match | None:
    """One output of rank 3 and one of rank 4, the latter with as many planes as a mask has coefficients."""
    found = places(view)
    if found is None:
        return None
    table, count, holds = found
    return heads.match(view, table, count, "mask coefficients", True, holds)


def places(view: View) -> tuple[int, int, list[str]] | None:
    """Return which output is the table, the number of prototypes, and what the outputs hold, with {}
    for the table's text; None where they are not these two."""
    ranks = [len(output.shape) for output in view.outputs]
    if sorted(ranks) != [3, 4] or heads.stated_task(view) not in (None, "segment"):
        return None
    table, planes = ranks.index(3), ranks.index(4)
    _, count, height, width = view.outputs[planes].shape
    if count is None or not _covers(view, height, width):
        return None
    holds = ["", ""]
    holds[table], holds[planes] = "{}", f"{count} mask prototypes"
    return table, count, holds


def _covers(view: View, height: int | None, width: int | None) -> bool:
    """Whether prototypes of that size cover the input with square cells; true where nobody knows."""
    if height is None or width is None:
        return True
    fits = 0 < height <= view.input_hw[0] and 0 < width <= view.input_hw[1]
    return fits and view.input_hw[0] * width == view.input_hw[1] * height


FAMILY = Family(
    name=_NAME,
    layout="[1, 4 + classes + 32, boxes] and prototypes [1, 32, h, w], as YOLO segmentation is exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=heads.INPUT,
    input_hw=(640, 640),
    conf_threshold=0.25,
    iou_threshold=0.70,
    params={"form": heads.FORM, "multi_label": MULTI_LABEL},
    task="segment",
)
