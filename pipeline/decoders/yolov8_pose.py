"""Pose exports of Ultralytics: YOLOv8 and YOLO11, boxes with keypoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import heads
from pipeline.decoders.candidates import Candidates, malformed
from pipeline.decoders.contract import literal
from pipeline.decoders.family import MULTI_LABEL, Family, Match, Param, View

_NAME = "yolov8-pose"
_EXPECTED = "one output [1, 4 + classes + keypoints · 3, boxes]"


def shape_of_keypoints(value: Any) -> tuple[int, int]:
    """Accept how many keypoints there are and how many values each has."""
    good = isinstance(value, (list, tuple)) and len(value) == 2
    if not good or any(isinstance(v, bool) or not isinstance(v, int) for v in value):
        raise TypeError("two whole numbers, such as [17, 3]")
    if value[0] < 1 or value[1] not in (2, 3):
        raise TypeError("a number of keypoints from 1, and 2 or 3 values for each, such as [17, 3]")
    return value[0], value[1]


KPT_SHAPE = Param(shape_of_keypoints, "how many keypoints, and values of each, such as [17, 3]")


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],  # noqa: ARG001
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode a table of boxes, each with its keypoints at its end.

    One output in one of ``heads.FORMS``, [1, 4 + classes + K · D, boxes] unless ``params`` (``form``)
    say otherwise: boxes as centre and size in input pixels; a keypoint is x, y in input pixels and,
    where D is 3, the probability that it is seen; where D is 2 it is taken to be 1
    (``ultralytics/nn/modules/head.py``, ``Pose.kpts_decode``; all of it in the graph). ``params``:
    ``kpt_shape`` (K, D), without which there is one class and D is 3; ``form``; ``multi_label``.
    Raises ModelError for other shapes.
    """
    head = 6 if params.get("form") == "objectness" else 5
    axis = -2 if params.get("form", "rows") == "rows" else -1
    shape = keypoints_of(_NAME, _EXPECTED, outputs, axis, head, params)
    boxes, scores, class_id, points = heads.read(
        _NAME, _EXPECTED, outputs[0], shape[0] * shape[1], conf_threshold, params
    )
    return Candidates.checked(heads.corners(boxes), scores, class_id, keypoints=as_keypoints(points, shape))


def keypoints_of(
    family: str,
    expected: str,
    outputs: Sequence[NDArray[Any]],
    axis: int,
    head: int,
    params: Mapping[str, Any],
) -> tuple[int, int]:
    """Return K and D as ``params`` or the table's size say, the latter with ``head`` values before the
    keypoints and D 3. Raises ModelError where they don't come out."""
    if len(outputs) != 1 or outputs[0].ndim not in (2, 3):
        raise malformed(family, expected, outputs)
    if "kpt_shape" in params:
        count, values = params["kpt_shape"]
        return count, values
    rest = outputs[0].shape[axis] - head
    if rest < 3 or rest % 3:
        raise malformed(family, expected, outputs)
    return rest // 3, 3


def as_keypoints(points: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return [N, K · D] as [N, K, 3]."""
    keypoints = np.ones((len(points), shape[0], 3), np.float32)
    keypoints[:, :, : shape[1]] = points.reshape(len(points), *shape)
    np.clip(keypoints[:, :, 2], 0, 1, out=keypoints[:, :, 2])
    return keypoints


def recognise(view: View) -> Match | None:
    """One output of rank 3 with K · D further values: as the metadata say, else told from the trial run."""
    shape = stated_keypoints(view)
    if len(view.outputs) != 1 or heads.stated_task(view) not in (None, "pose"):
        return None
    if shape is not None:
        found = heads.match(view, 0, shape[0] * shape[1], f"values of {shape[0]} keypoints", True)
        return found and with_keypoints(found, shape, f"metadata kpt_shape {list(shape)}", True)
    classes = view.num_classes or 1
    rows = view.shapes[0][1] if len(view.shapes[0]) == 3 else None
    rest = 0 if rows is None else rows - 4 - classes
    if rest < 3 or rest % 3:
        return None
    counted = replace(view, num_classes=classes)
    found = heads.match(counted, 0, rest, f"values of {rest // 3} keypoints", True)
    if found is None or found.params["form"] != "rows":
        return None
    table = heads.table_of(view, 0)
    if view.tried and (
        table is None
        or not heads.probable(table[4:-rest])
        or not are_keypoints(table[-rest:].T, view.input_hw)
    ):
        return None
    told = "places and probabilities in the trial run" if view.tried else "three values each"
    return with_keypoints(found, (rest // 3, 3), told, heads.stated_task(view) == "pose")


def stated_keypoints(view: View) -> tuple[int, int] | None:
    """Return K and D as the metadata say; None where they don't."""
    try:
        return shape_of_keypoints(literal(view.metadata.get("kpt_shape", "")))
    except TypeError:
        return None


def with_keypoints(found: Match, shape: tuple[int, int], told: str, certain: bool) -> Match:
    """Return the reading with its keypoints, and where they are known from."""
    params = {**found.params, "kpt_shape": shape}
    return replace(found, params=params, reason=f"{found.reason}; {told}", certain=certain)


def are_keypoints(values: NDArray[np.float32], input_hw: tuple[int, int]) -> bool:
    """Whether [N, K · 3] are places in the picture, in pixels, each with a probability."""
    points = values.reshape(len(values), -1, 3)
    limits = np.array([input_hw[1], input_hw[0]], np.float32)
    places = points[:, :, :2]
    inside = ((places > -limits) & (places < 2 * limits)).mean()
    # Fractions and probabilities are below 1 everywhere; the places of a whole grid fill the picture.
    return heads.probable(points[:, :, 2]) and bool(places.max() > 2 and inside > 0.9)


FAMILY = Family(
    name=_NAME,
    layout="[1, 4 + classes + keypoints · 3, boxes], as YOLO pose is exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=heads.INPUT,
    input_hw=(640, 640),
    conf_threshold=0.25,
    iou_threshold=0.70,
    params={
        "kpt_shape": KPT_SHAPE,
        "form": heads.FORM,
        "multi_label": MULTI_LABEL,
    },
    task="pose",
)
