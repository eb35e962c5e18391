"""Detectors that answer each object once, in rows of box, score and class: YOLOv10, YOLO26, nms=True."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.background import COCO_NUMBERS, whose_numbers
from pipeline.decoders.box_forms import FORMS, PARAMS, corners, find_form
from pipeline.decoders.candidates import Candidates, cell_count, malformed, matrix
from pipeline.decoders.family import Family, InputDefaults, Match, Numbers, Param, View, flag
from pipeline.errors import ModelError

Kind = Literal["", "centernet", "rtdetr"]

_NAME = "end2end"
_EXPECTED = "[1, N, 6] or [N, 6] (box, score, class), beside it at most feature maps [1, C, h, w]"
_GRIDS = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64))
_MOST_ROWS = 1000
"""A model that answers each object once has no more answers than this; a grid has more cells."""
_MOST_CLASSES = 100_000
_PROBABLE = (-0.05, 1.05)


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode [1, N, 6] or [N, 6]: left, top, right, bottom in input pixels, score, class.

    The layout of ``ultralytics/nn/modules/head.py``, ``Detect.postprocess``, of its exporter's
    ``NMSModel``, and of ``decode_detection`` of CenterNet (Zhou and others, "Objects as Points",
    2019), whose heat maps and sizes [1, C, h, w] may stand beside it. ``params``: ``boxes`` (xyxy,
    yxyx, cxcywh or xywh), ``normalised`` (in parts of the input), ``class_first`` (class before score).
    Raises ModelError for other shapes and for classes that are no whole numbers.
    """
    rank = min((output.ndim for output in outputs), default=0)
    rows = [output for output in outputs if output.ndim == rank]
    # Feature maps have a rank more than the rows, with the batch axis or without.
    if len(rows) != 1 or any(output.ndim > rank + 1 for output in outputs):
        raise malformed(_NAME, _EXPECTED, outputs)
    table = matrix(rows[0], _NAME, _EXPECTED)
    if table.shape[1] != 6:
        raise malformed(_NAME, _EXPECTED, outputs)
    score, kind = (5, 4) if params.get("class_first") else (4, 5)
    with np.errstate(over="ignore"):
        found = table[table[:, score] > conf_threshold].astype(np.float32, copy=False)
    found = found[np.isfinite(found[:, kind])]
    classes = found[:, kind]
    if ((classes < 0) | (classes > _MOST_CLASSES) | (classes != np.rint(classes))).any():
        raise ModelError(
            f"{_NAME}: expected the number of a class in column {kind}; got values from "
            f"{classes.min():.4g} to {classes.max():.4g}; is {_NAME} the model's family?"
        )
    boxes = corners(found[:, :4], input_hw, params)
    return Candidates.checked(boxes, found[:, score], classes.astype(np.int32))


def recognise(view: View, kind: Kind = "") -> Match | None:
    """One output [1, N, 6] or [N, 6] whose columns are told by the trial run; perhaps feature maps beside.

    ``kind``: which of the ways to feed such a model is meant. RT-DETR alone gives centre and size in
    parts of the input.
    """
    maps = [index for index, shape in enumerate(view.shapes) if len(shape) == 4]
    rows = [index for index, shape in enumerate(view.shapes) if len(shape) in (2, 3)]
    if len(rows) != 1 or len(maps) + 1 != len(view.shapes) or view.extra_inputs:
        return None
    index = rows[0]
    shape, name = view.shapes[index], view.outputs[index].name
    count = shape[-2]
    grids = {n * cell_count(view.input_hw, strides) for strides in _GRIDS for n in (1, 3)}
    centernet = kind == "centernet"
    fits = shape[-1] == 6 and (count is None or (2 <= count <= _MOST_ROWS and count not in grids))
    if not fits or (maps and not centernet) or (centernet and _ultralytics(view)):
        return None
    params: dict[str, Any] = {}
    doubt = None
    told = "taken to be box, score, class"
    if view.tried:
        read = _columns(view.arrays[index])
        if read is None:
            return None
        table, params = read
        told, doubt = _form_of_boxes(view, table, params, _FED[kind])
        centred = params.get("boxes") == "cxcywh" and params.get("normalised", False)
        if (kind == "rtdetr" and not centred) or (kind == "" and centred and _rtdetr(view)):
            return None
    numbers = _numbers(view, index, params)
    if numbers is None:
        return None
    evidence = (bool(maps) and "det" in name.lower()) if centernet else _ultralytics(view)
    columns = "class, score" if params.get("class_first") else "score, class"
    holds = ["a feature map, not used"] * len(view.outputs)
    unit = "parts of the input" if params.get("normalised") else "input pixels"
    holds[index] = f"box ({params.get('boxes', 'xyxy')} in {unit}), {columns} of at most {count} objects"
    return Match(
        numbers.count,
        params,
        f"{view.outputs[index]} = a row for each object, {told}; {numbers.why}",
        # Only the run shows which columns these are.
        certain=view.tried and bool(evidence),
        holds=tuple(holds),
        batched=len(shape) == 3,
        doubt=doubt,
        settled_by=("boxes",),
        numbers=numbers,
    )


def _ultralytics(view: View) -> bool:
    """Whether the model's metadata say that it is such an export of Ultralytics."""
    said = view.metadata
    return (
        said.get("end2end", "").lower() == "true"
        or "'nms': True" in said.get("args", "")
        or said.get("author", "") == "Ultralytics"
    )


def _rtdetr(view: View) -> bool:
    """Whether the metadata, or names nobody else has there, say that it is Ultralytics' RT-DETR."""
    return "RTDETR" in view.metadata.get("head", "") or "RT-DETR" in view.metadata.get("description", "")


def _columns(array: NDArray[Any]) -> tuple[NDArray[np.float32], dict[str, Any]] | None:
    """Return the rows and which of their last columns is the class; None where neither can be."""
    if array.ndim == 3 and len(array):
        array = array[0]
    if array.ndim != 2 or array.shape[1] != 6 or len(array) < 2 or array.dtype.kind != "f":
        return None
    table = array.astype(np.float32)
    table = table[np.isfinite(table).all(axis=1)]
    for score, kind in ((4, 5), (5, 4)):
        scores = table[:, score]
        classes = table[scores > 0, kind]
        probable = ((scores >= _PROBABLE[0]) & (scores <= _PROBABLE[1])) | (scores == -1)
        if probable.all() and ((classes >= 0) & (classes == np.rint(classes))).all():
            return table, {"class_first": True} if kind == 4 else {}
    return None


def _form_of_boxes(
    view: View, table: NDArray[np.float32], params: dict[str, Any], fed: InputDefaults
) -> tuple[str, str | None]:
    """Add to ``params`` how boxes are written; return why, and the doubt."""
    score = 5 if params.get("class_first") else 4
    forms = ("cxcywh",) if _rtdetr(view) else FORMS
    form = find_form(table[:, :4], table[:, score], params, view.input_hw, fed, forms)
    if form is None:
        return "taken to be box, score, class; the trial run found nothing", None
    return (
        f"with the class in column {9 - score} (whole numbers), the score in column {score}, "
        f"and boxes as {form.text}, as the trial run shows"
    ), form.doubt


def _numbers(view: View, index: int, params: Mapping[str, Any]) -> Numbers | None:
    """Return whose class numbers these are; None where the run gave others than the names have."""
    if not view.tried:
        return whose_numbers(view.num_classes, None, None, coco=COCO_NUMBERS)
    score, kind = (5, 4) if params.get("class_first") else (4, 5)
    table = view.arrays[index].reshape(-1, 6)
    table = table[(table[:, score] > 0) & np.isfinite(table[:, kind])]
    if view.num_classes is not None and table[:, kind].max(initial=-1) >= view.num_classes:
        return None
    return whose_numbers(view.num_classes, table[:, kind], table[:, score], coco=COCO_NUMBERS)


_UNIT = ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
_FED: Mapping[Kind, InputDefaults] = {
    "": InputDefaults("RGB", *_UNIT, "letterbox", "center", 114),
    "centernet": InputDefaults("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "letterbox", "center", 0),
    "rtdetr": InputDefaults("RGB", *_UNIT, "stretch", "center", 114),
}
_PARAMS = {
    **PARAMS,
    "class_first": Param(flag, "true: class before score; false (default): score before class"),
}


def _family(kind: Kind, size: int, threshold: float, text: str) -> Family:
    return Family(
        name=f"{_NAME}-{kind}" if kind else _NAME,
        layout=f"[1, N, 6]: box, score, class, as {text}",
        decode=decode,
        recognise=partial(recognise, kind=kind),
        class_aware=True,
        input=_FED[kind],
        input_hw=(size, size),
        conf_threshold=threshold,
        iou_threshold=1.0,
        params=_PARAMS,
        nms=False,
    )


FAMILY = _family("", 640, 0.25, "YOLOv10, YOLO26 and nms=True exports")
CENTERNET = _family("centernet", 512, 0.30, "CenterNet decoded in the graph, fed 0..255")
RTDETR = _family(
    "rtdetr", 640, 0.25, "Ultralytics' RT-DETR (boxes are centre and size in parts of the input)"
)
