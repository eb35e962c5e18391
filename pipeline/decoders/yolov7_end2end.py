"""YOLOv7 exports with NMS in the graph (``--end2end --max-wh``): a row of seven for each object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import heads
from pipeline.decoders.background import COCO_NUMBERS, whose_numbers
from pipeline.decoders.candidates import Candidates, malformed, matrix
from pipeline.decoders.family import Family, Match, View
from pipeline.errors import ModelError

_NAME = "yolov7-end2end"
_EXPECTED = "one output [N, 7] (picture, left, top, right, bottom, class, score)"
_MOST_CLASSES = 100_000


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],  # noqa: ARG001
    conf_threshold: float,
    params: Mapping[str, Any],  # noqa: ARG001
) -> Candidates:
    """Decode [N, 7]: index in the batch, left, top, right, bottom in input pixels, class, score.

    The rows of ``ONNX_ORT.forward`` in YOLOv7's ``models/experimental.py``. One picture is asked at a
    time, so its index is 0. ``params``: none. Raises ModelError for other shapes, for rows of another
    picture, and for classes that are no whole numbers.
    """
    if len(outputs) != 1:
        raise malformed(_NAME, _EXPECTED, outputs)
    table = matrix(outputs[0], _NAME, _EXPECTED)
    if table.shape[1] != 7:
        raise malformed(_NAME, _EXPECTED, outputs)
    with np.errstate(over="ignore"):
        found = table[table[:, 6] > conf_threshold].astype(np.float32, copy=False)
    found = found[np.isfinite(found).all(axis=1)]
    pictures, classes = found[:, 0], found[:, 5]
    if ((classes < 0) | (classes > _MOST_CLASSES) | (classes != np.rint(classes)) | (pictures != 0)).any():
        raise ModelError(
            f"{_NAME}: expected picture 0 in column 0 and the number of a class in column 5; got up to "
            f"{np.abs(pictures).max():.4g} and {np.abs(classes).max():.4g}; is {_NAME} the model's family?"
        )
    return Candidates.checked(found[:, 1:5], found[:, 6], classes.astype(np.int32))


def recognise(view: View) -> Match | None:
    """One output [N, 7], whose columns the trial run shows to be these."""
    if len(view.outputs) != 1 or len(view.shapes[0]) != 2 or view.shapes[0][1] != 7:
        return None
    if heads.stated_task(view) not in (None, "detect"):
        return None
    highest, seen = -1, ""
    labels = scores = None
    if view.tried:
        table = np.asarray(view.arrays[0])
        if table.ndim != 2 or table.shape[1] != 7 or not np.issubdtype(table.dtype, np.floating):
            return None
        seen = "; the trial run gave no row"
        if len(table):
            known = heads.table_of(view, 0)
            if known is None or known[:, 0].any() or not heads.sound_answers(known[:, [1, 2, 3, 4, 6, 5]]):
                return None
            labels, scores = known[:, 5], known[:, 6]
            highest = int(labels.max())
            seen = "; in the trial run column 0 is 0, column 5 a whole number and column 6 a probability"
    if view.num_classes is not None and highest >= view.num_classes:
        return None
    numbers = whose_numbers(view.num_classes, labels, scores, coco=COCO_NUMBERS)
    return Match(
        numbers.count,
        {},
        f"{view.outputs[0]} = a row for each object{seen}; {numbers.why}",
        # A picture's index among its columns is nobody else's; without a row it could be 7 classes.
        certain=highest >= 0,
        holds=("batch index, box (xyxy in input pixels), class, score of each object",),
        batched=False,
        numbers=numbers,
    )


FAMILY = Family(
    name=_NAME,
    layout="[N, 7] = picture, x0, y0, x1, y1, class, score, as YOLOv7 with NMS is exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=heads.INPUT,
    input_hw=(640, 640),
    conf_threshold=0.25,
    iou_threshold=1.0,
    nms=False,
)
