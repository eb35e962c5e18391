"""YOLO9000 as ``framerail models convert`` makes it: of each box one class out of a tree of thousands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.candidates import Candidates, malformed, matrix
from pipeline.decoders.family import Family, InputDefaults, Match, View
from pipeline.errors import ModelError

_NAME = "yolo9000"
_EXPECTED = "outputs [1, 5, boxes] and, of whole numbers, [1, boxes]"
_MOST_CLASSES = 1 << 24


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],  # noqa: ARG001
    conf_threshold: float,
    params: Mapping[str, Any],  # noqa: ARG001
) -> Candidates:
    """Decode [1, 5, boxes], rows cx, cy, w, h in input pixels and objectness, and [1, boxes], whole: classes.

    Boxes and classes are decoded in the graph (``pipeline.convert``); what is left is left = cx - w / 2,
    and so on. The score is the objectness alone, as ``get_region_detections`` of Darknet's region_layer.c
    has it with a tree. There are no ``params``. Raises ModelError for other shapes and dtypes, and for
    classes below 0.
    """
    if len(outputs) != 2 or outputs[1].dtype.kind not in "iu":
        raise malformed(_NAME, _EXPECTED, outputs)
    table, kinds = matrix(outputs[0], _NAME, _EXPECTED), outputs[1].reshape(-1)
    if len(table) != 5 or outputs[1].shape not in ((1, table.shape[1]), (table.shape[1],)):
        raise malformed(_NAME, _EXPECTED, outputs)
    passing = table[4] > conf_threshold
    classes = kinds[passing]
    if ((classes < 0) | (classes > _MOST_CLASSES)).any():
        raise ModelError(
            f"{_NAME}: expected the numbers of classes; got {classes.min()} to {classes.max()}; "
            f"is {_NAME} the model's family?"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        found = table[:, passing].astype(np.float32, copy=False)
        half_size = found[2:4] * np.float32(0.5)
        xyxy = np.concatenate([found[:2] - half_size, found[:2] + half_size]).T
    return Candidates.checked(xyxy, found[4], classes)


def recognise(view: View) -> Match | None:
    """[1, 5, boxes] beside whole numbers [1, boxes] in ``classes``, which nobody else has."""
    if len(view.outputs) != 2 or not (view.stated or view.outputs[1].name == "classes"):
        return None
    (table, kinds), dtype = view.shapes, view.outputs[1].dtype
    if len(table) != 3 or table[1] != 5 or kinds[1:] != table[2:] or not dtype.startswith(("int", "uint")):
        return None
    highest = int(view.arrays[1].max(initial=0)) if view.tried else 0
    if view.num_classes is None or not 0 <= highest < view.num_classes:
        return None
    return Match(
        view.num_classes,
        {},
        f"{view.outputs[0]} = box and objectness of {table[2]} boxes, {view.outputs[1]} = their classes",
        certain=True,
        holds=("cx, cy, w, h in input pixels, objectness, in rows", f"one of {view.num_classes} classes"),
    )


FAMILY = Family(
    name=_NAME,
    layout="[1, 5, boxes]: box, objectness; classes [1, boxes], as YOLO9000 is converted",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "letterbox", "center", 127),
    input_hw=(544, 544),
    conf_threshold=0.5,
    iou_threshold=0.45,
)
