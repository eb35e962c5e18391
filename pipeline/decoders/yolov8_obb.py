"""Oriented-box exports of Ultralytics: YOLOv8 and YOLO11, boxes with an angle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import heads
from pipeline.decoders.candidates import Candidates, Floats, malformed
from pipeline.decoders.family import MULTI_LABEL, Family, Match, View

_NAME = "yolov8-obb"
_EXPECTED = "one output [1, 4 + classes + 1, boxes]"


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],  # noqa: ARG001
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode a table of boxes, each with its angle at its end.

    One output in one of ``heads.FORMS``, [1, 4 + classes + 1, boxes] unless ``params`` (``form``) say
    otherwise: centre, width and height in input pixels, the angle in radians from the x axis to the
    side that is the width, clockwise as the picture is seen (``ultralytics/nn/modules/head.py``,
    ``OBB``; ``utils/tal.py``, ``dist2rbox``). ``params``: ``form``, ``multi_label``. Raises
    ModelError for other shapes.
    """
    if len(outputs) != 1:
        raise malformed(_NAME, _EXPECTED, outputs)
    boxes, scores, class_id, angle = heads.read(_NAME, _EXPECTED, outputs[0], 1, conf_threshold, params)
    return upright(boxes, scores, class_id, angle)


def upright(
    boxes: NDArray[np.float32], scores: Floats, class_id: NDArray[Any], angle: NDArray[np.float32]
) -> Candidates:
    """Return rotated boxes ([N, 4] centre and size, angle [N, 1]) with the upright boxes around them.

    Half the width of such is (w·|cos| + h·|sin|) / 2, half its height (w·|sin| + h·|cos|) / 2.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        cosine, sine = np.abs(np.cos(angle)), np.abs(np.sin(angle))
        width, height = boxes[:, 2:3], boxes[:, 3:4]
        size = np.concatenate([width * cosine + height * sine, width * sine + height * cosine], axis=1)
        xyxy = heads.corners(np.concatenate([boxes[:, :2], size], axis=1))
    rotated = np.concatenate([boxes, angle], axis=1)
    # The upright box around a width below 0 need not be inside out itself.
    rotated[(boxes[:, 2:] < 0).any(axis=1)] = np.nan
    return Candidates.checked(xyxy, scores, class_id, rotated=rotated)


def recognise(view: View) -> Match | None:
    """One output of rank 3 with one further value: as the metadata say, else told from the trial run."""
    task = heads.stated_task(view)
    if len(view.outputs) != 1 or task not in (None, "obb"):
        return None
    found = heads.match(view, 0, 1, "angle", task == "obb")
    if found is None or task == "obb":
        return found
    table = heads.table_of(view, 0)
    if found.params["form"] != "rows" or (view.tried and (table is None or not heads.probable(table[4:-1]))):
        return None
    # A number of classes that fits by accident proves nothing.
    found = replace(found, certain=view.num_classes is not None)
    return found if table is None else _with_angles(found, table[-1])


def _with_angles(found: Match, angles: NDArray[np.float32]) -> Match | None:
    """The reading where the values of the trial run are angles, and no probabilities of a class."""
    if heads.probable(angles) or np.abs(angles).max() > 2 * np.pi:
        return None
    told = f"from {angles.min():.2f} to {angles.max():.2f} in the trial run, which no probability is"
    return replace(found, reason=f"{found.reason}: {told}")


FAMILY = Family(
    name=_NAME,
    layout="[1, 4 + classes + 1, boxes], as YOLO's oriented boxes are exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=heads.INPUT,
    input_hw=(1024, 1024),
    conf_threshold=0.25,
    iou_threshold=0.70,
    params={"form": heads.FORM, "multi_label": MULTI_LABEL},
    task="obb",
)
