"""Oriented-box exports that answer each object once: YOLO26, or Ultralytics' nms=True."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import heads
from pipeline.decoders.candidates import Candidates, malformed
from pipeline.decoders.family import Family, Match, View
from pipeline.decoders.yolov8_obb import upright

_NAME = "end2end-obb"
_EXPECTED = "one output [1, N, 7]"
_DOTA_CLASSES = 15


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],  # noqa: ARG001
    conf_threshold: float,
    params: Mapping[str, Any],  # noqa: ARG001
) -> Candidates:
    """Decode [1, N, 7]: centre, width, height in input pixels, score, class, angle in radians.

    Angles as ``yolov8-obb`` has them, and boxes as well, unlike those of the other end-to-end
    exports (``ultralytics/nn/modules/head.py``, ``OBB26``; ``engine/exporter.py``, ``NMSModel``).
    Raises ModelError for other shapes.
    """
    if len(outputs) != 1:
        raise malformed(_NAME, _EXPECTED, outputs)
    return upright(*heads.read_end2end(_NAME, _EXPECTED, outputs[0], 1, conf_threshold))


def recognise(view: View) -> Match | None:
    """One output [N, boxes, 7]: as the metadata say, else told from the trial run."""
    task = heads.stated_task(view)
    if len(view.outputs) != 1 or task not in (None, "obb"):
        return None
    found = heads.match_end2end(view, 0, 1, "angle", _DOTA_CLASSES, task == "obb")
    table = heads.table_of(view, 0)
    if found is None or task == "obb" or table is None:
        return found
    angles = table[:, 6]
    if np.abs(angles).max() > 2 * np.pi or np.ptp(angles) == 0:
        return None
    told = f"from {angles.min():.2f} to {angles.max():.2f} in the trial run"
    return replace(found, reason=f"{found.reason}: {told}")


FAMILY = Family(
    name=_NAME,
    layout="[1, N, 7] of centre, size, score, class, angle, as YOLO26's oriented boxes are exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=heads.INPUT,
    input_hw=(1024, 1024),
    conf_threshold=0.25,
    iou_threshold=1.0,
    task="obb",
    nms=False,
)
