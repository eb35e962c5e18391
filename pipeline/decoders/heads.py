"""The exports that say more than a box: four forms of one table, with columns of their own at its end.

Ultralytics' segmentation, pose and rotated-box heads write their columns behind the classes of a
plain detection export, so the table is read in one place and each family sees to its columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.background import COCO_NUMBERS, whose_numbers
from pipeline.decoders.candidates import Floats, cells_text, malformed, matrix, select, strides_for
from pipeline.decoders.family import InputDefaults, Match, Numbers, Param, View, confirmed, one_of
from pipeline.errors import ModelError

FORMS = ("rows", "columns", "objectness")
STRIDES = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (16, 32))
INPUT = InputDefaults("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "letterbox", "center", 114)
_BOX = slice(0, 4)
_MOST_CLASSES = 100_000
_MOST_ANSWERS = 1000
"""A model that answers each object once has no more answers than this; a grid has more cells."""

Table = tuple[NDArray[np.float32], Floats, NDArray[Any], NDArray[np.float32]]
"""Of K candidates: box [K, 4], score [K], class [K], further values [K, extra]."""


form = one_of(FORMS)


FORM = Param(
    form,
    "how boxes are written, each with its further values at the end: rows (default): [4 + classes, boxes]; "
    "columns: [boxes, 4 + classes]; objectness: [boxes, 5 + classes]",
)


def read(
    family: str,
    expected: str,
    output: NDArray[Any],
    extra: int,
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Table:
    """Return box, score, class and further values of what exceeds ``conf_threshold``.

    ``output`` [1, A, B] or [A, B] in the form that ``params`` names, ``extra`` the number of the
    further values; boxes are centre and size. A score is the class's probability, with
    "objectness" times that of an object being there at all (``val.py`` of YOLOv5). Raises
    ModelError for a table without room for a class.
    """
    table, kind = matrix(output, family, expected), params.get("form", "rows")
    multi_label = bool(params.get("multi_label"))
    if kind == "objectness":
        if table.shape[1] < 6 + extra:
            raise malformed(family, f"[1, boxes, 5 + classes + {extra}]", [output])
        # A probability is at most 1, so a score above the threshold needs an objectness above it.
        with np.errstate(over="ignore", invalid="ignore"):
            found = table[table[:, 4] > conf_threshold].astype(np.float32, copy=False)
            scores = found[:, 5 : found.shape[1] - extra] * found[:, 4:5]
        box, class_id, values = select(scores, conf_threshold, multi_label, box_axis=0)
        return found[box, :4], values, class_id, found[box, found.shape[1] - extra :]
    table = table.T if kind == "columns" else table
    end = len(table) - extra
    if end < 5:
        raise malformed(family, expected, [output])
    box, class_id, values = select(table[4:end], conf_threshold, multi_label, box_axis=1)
    with np.errstate(over="ignore"):
        boxes, further = (table[part, box].T.astype(np.float32) for part in (_BOX, slice(end, None)))
    return boxes, values, class_id, further


def read_end2end(
    family: str, expected: str, output: NDArray[Any], extra: int, conf_threshold: float
) -> Table:
    """Return box, score, class and further values of what exceeds ``conf_threshold``.

    ``output`` [1, N, 6 + extra] or [N, 6 + extra]: four numbers of a box as they are, score, class.
    Raises ModelError for another width, and for classes that are no whole numbers.
    """
    table = matrix(output, family, expected)
    if table.shape[1] != 6 + extra or extra < 1:
        raise malformed(family, expected, [output])
    with np.errstate(over="ignore"):
        found = table[table[:, 4] > conf_threshold].astype(np.float32, copy=False)
    found = found[np.isfinite(found[:, 5])]
    classes = found[:, 5]
    if ((classes < 0) | (classes > _MOST_CLASSES) | (classes != np.rint(classes))).any():
        raise ModelError(
            f"{family}: expected the number of a class in column 5; got values from {classes.min():.4g} "
            f"to {classes.max():.4g}; is {family} the model's family?"
        )
    return found[:, :4], found[:, 4], classes.astype(np.int32), found[:, 6:]


def corners(boxes_cxcywh: Floats) -> Floats:
    """Return [N, 4] xyxy for centre and size; what overflows is infinite, for ``checked`` to leave out."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = boxes_cxcywh[:, 2:] * np.float32(0.5)
        return np.concatenate([boxes_cxcywh[:, :2] - half, boxes_cxcywh[:, :2] + half], axis=1)


def stated_task(view: View) -> str | None:
    """Return the task that the model's metadata state; None where they state none."""
    return view.metadata.get("task") or None


def match(
    view: View, index: int, extra: int, what: str, certain: bool, seen: Sequence[str] = ("{}",)
) -> Match | None:
    """Return the reading of output ``index`` as a table with ``extra`` further values; None for none.

    ``what`` says in words what those are, ``certain`` whether other evidence makes the layout
    unmistakable, ``seen`` what each output holds, with {} for the table's own text.
    """
    shape = view.outputs[index].shape
    if len(shape) != 3:
        return None
    # Turned to be written in columns: so many boxes by so many values.
    for kind, (boxes, columns) in (("rows", shape[:0:-1]), ("columns", shape[1:]), ("objectness", shape[1:])):
        head, anchors = (5, 3) if kind == "objectness" else (4, 1)
        count = 0 if columns is None else columns - head - extra
        known = confirmed(count, view.num_classes)
        if known is None:
            continue
        cells = None if boxes is None or boxes % anchors else boxes // anchors
        strides = strides_for(cells, view.input_hw, STRIDES)
        if strides is not None:
            where = ("3 × " if anchors > 1 else "") + cells_text(view.input_hw, strides)
        elif boxes is None and kind == "rows" and view.num_classes is not None:
            where = "a dynamic number of boxes"
        else:
            continue
        text = f"{head} + {count} classes + {extra} {what}"
        return Match(
            count,
            {"form": kind},
            f"{view.outputs[index]} = ({text}) × {where}",
            certain or known,
            tuple(said.format(text) for said in seen),
        )
    return None


def match_end2end(
    view: View,
    index: int,
    extra: int,
    what: str,
    classes: int | None,
    certain: bool,
    seen: Sequence[str] = ("{}",),
) -> Match | None:
    """The same for [N, boxes, 6 + extra]; ``classes`` are taken where no names say how many there are.

    None of them: COCO's, where the trial run finds what it should under COCO's numbers.
    """
    shape = view.outputs[index].shape
    if len(shape) != 3 or shape[2] != 6 + extra or shape[1] is None or shape[1] > _MOST_ANSWERS:
        return None
    table = table_of(view, index)
    if view.tried and (table is None or not sound_answers(table)):
        return None
    text = f"box, score, class + {extra} {what}"
    reason = f"{view.outputs[index]} = ({text}) for each of at most {shape[1]} objects"
    labels, scores = (None, None) if table is None else (table[:, 5], table[:, 4])
    if classes is None or view.num_classes is not None:
        numbers = whose_numbers(view.num_classes, labels, scores, coco=COCO_NUMBERS)
    else:
        numbers = Numbers(classes, f"nothing says how many classes, taken to be {classes}", counted=False)
    holds = tuple(said.format(text) for said in seen)
    return Match(numbers.count, {}, f"{reason}; {numbers.why}", certain, holds, numbers=numbers)


def table_of(view: View, index: int, *, finite: bool = True) -> NDArray[np.float32] | None:
    """Return output ``index`` of the trial run, float32 [A, B]; None where there is no such table.

    ``finite``: one that holds what is no number counts as none.
    """
    if not view.tried:
        return None
    array = np.asarray(view.arrays[index])
    array = array[0] if array.ndim == 3 and len(array) else array
    if array.ndim != 2 or not array.size or not np.issubdtype(array.dtype, np.floating):
        return None
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    return array if not finite or np.isfinite(array).all() else None


def probable(values: NDArray[np.float32]) -> bool:
    """Whether all are probabilities; float16 and 8-bit models reach a little over 0..1."""
    return bool(values.min() >= -0.05 and values.max() <= 1.05)


def sound_answers(table: NDArray[np.float32]) -> bool:
    """Whether columns 4 and 5 of [N, 6 + …] hold probabilities and numbers of classes."""
    classes = table[:, 5]
    return probable(table[:, 4]) and bool((classes >= 0).all() and (classes == np.rint(classes)).all())
