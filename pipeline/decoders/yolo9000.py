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
_EXPECTED = "one output [1, 6, boxes]"
_MOST_CLASSES = 1 << 24
"""Beyond it float32 has no number for each."""


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],  # noqa: ARG001
    conf_threshold: float,
    params: Mapping[str, Any],  # noqa: ARG001
) -> Candidates:
    """Decode [1, 6, boxes]: rows cx, cy, w, h in input pixels, objectness, the number of a class.

    Boxes and classes are decoded in the graph (``pipeline.convert``); what is left is left = cx - w / 2,
    and so on. The score is the objectness alone, as ``get_region_detections`` of Darknet's region_layer.c
    has it with a tree. There are no ``params``. Raises ModelError for other shapes and for classes that
    are no whole numbers.
    """
    if len(outputs) != 1:
        raise malformed(_NAME, _EXPECTED, outputs)
    table = matrix(outputs[0], _NAME, _EXPECTED)
    if len(table) != 6:
        raise malformed(_NAME, _EXPECTED, outputs)
    with np.errstate(over="ignore", invalid="ignore"):
        found = table[:, table[4] > conf_threshold].astype(np.float32, copy=False)
        found = found[:, np.isfinite(found[5])]
        classes, half_size = found[5], found[2:4] * np.float32(0.5)
        if ((classes < 0) | (classes > _MOST_CLASSES) | (classes != np.rint(classes))).any():
            raise ModelError(
                f"{_NAME}: expected the number of a class in row 5; got values from {classes.min():.4g} to "
                f"{classes.max():.4g}; is {_NAME} the model's family?"
            )
        xyxy = np.concatenate([found[:2] - half_size, found[:2] + half_size]).T
    return Candidates.checked(xyxy, found[4], classes.astype(np.int32))


def recognise(view: View) -> Match | None:
    """One output [1, 6, boxes] where metadata or a card name the family; else YOLOv8's, of 2 classes."""
    if not view.stated or len(view.outputs) != 1 or view.num_classes is None:
        return None
    shape = view.shapes[0]
    if len(shape) != 3 or shape[1] != 6:
        return None
    if view.tried and float(np.nanmax(view.arrays[0][:, 5], initial=0)) >= view.num_classes:
        return None
    return Match(
        view.num_classes,
        {},
        f"{view.outputs[0]} = box, objectness, class of {shape[2]} boxes, as the file or its card says",
        certain=True,
        holds=(f"cx, cy, w, h in input pixels, objectness, one of {view.num_classes} classes, in rows",),
    )


FAMILY = Family(
    name=_NAME,
    layout="[1, 6, boxes]: box, objectness, class, as YOLO9000 is converted",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "letterbox", "center", 127),
    input_hw=(544, 544),
    conf_threshold=0.5,
    iou_threshold=0.45,
)
