"""DETR and its kin exported without their postprocessor: a logit for each class, and a box, of each query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import detr_kin
from pipeline.decoders.activation import logit, sigmoid
from pipeline.decoders.box_forms import corners
from pipeline.decoders.candidates import Candidates, Floats, malformed, matrix
from pipeline.decoders.family import Family, InputDefaults, Param, flag, one_of, whole

_NAME = "detr"
_EXPECTED = (
    "class logits [1, Q, classes] and boxes [1, Q, 4] (centre and size in parts of the input), "
    "in any order, or both in one [1, Q, 4 + classes]"
)
_KINDS = ("softmax", "sigmoid", "none")


_activation = one_of(_KINDS)


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode logits [1, Q, classes] and boxes [1, Q, 4], cx, cy, w, h in parts of the input.

    ``params``: ``activation``. "softmax" (default): the last class means no object, and a query
    answers with its best other one (``PostProcess`` in ``models/detr.py`` of DETR; Carion and
    others, 2020). "sigmoid": the best Q of all queries × classes are answers, so that a query may
    give several (``rtdetr_postprocessor.py`` of RT-DETR, ``postprocessor.py`` of D-FINE and DEIM,
    ``PostProcess`` in RF-DETR). "none": probabilities already, taken as with "sigmoid", but of each
    query only the best class where both stand in one output (``ultralytics/models/rtdetr``,
    ``predict.py``). ``classes``: how many of the columns
    count. ``boxes_first``: the boxes are the first of two outputs, which four columns of classes
    would not show. ``boxes``: xyxy for exports that make them corners. Raises ModelError for other
    shapes.
    """
    if len(outputs) == 1:
        table = matrix(outputs[0], _NAME, _EXPECTED)
        logits, boxes = table[:, 4:], table[:, :4]
    elif len(outputs) == 2:
        logits, boxes = (matrix(output, _NAME, _EXPECTED) for output in outputs)
        alike = logits.shape[1] == boxes.shape[1] == 4
        if params.get("boxes_first") if alike else boxes.shape[1] != 4:
            logits, boxes = boxes, logits
    else:
        raise malformed(_NAME, _EXPECTED, outputs)
    if boxes.shape[1] != 4 or len(boxes) != len(logits) or logits.shape[1] < 1:
        raise malformed(_NAME, _EXPECTED, outputs)
    activation, classes = params.get("activation", "softmax"), params.get("classes")
    if classes is not None and activation != "softmax":
        logits = logits[:, : int(classes)]
    if activation == "softmax":
        query, class_id, scores = _softmax(logits, conf_threshold)
    else:
        query, class_id, scores = _best(logits, conf_threshold, activation == "sigmoid", len(outputs) == 1)
    form = {"boxes": params.get("boxes", "cxcywh"), "normalised": True}
    xyxy = corners(boxes[query].astype(np.float32, copy=False), input_hw, form)
    return Candidates.checked(xyxy, scores, class_id)


_Answers = tuple[NDArray[np.int64], NDArray[np.int64], Floats]
"""Of K candidates: query, class and score, [K] each."""


def _softmax(logits: Floats, conf_threshold: float) -> _Answers:
    if logits.shape[1] < 2:
        none = np.zeros(0, np.int64)
        return none, none, np.zeros(0, np.float32)
    finite = np.flatnonzero(np.isfinite(logits).all(axis=1))
    with np.errstate(over="ignore", invalid="ignore"):
        powers = logits[finite].astype(np.float32)
        powers = np.exp(powers - powers.max(axis=1, keepdims=True))
        class_id = powers[:, :-1].argmax(axis=1)
        scores = powers[np.arange(len(powers)), class_id] / powers.sum(axis=1)
    passing = scores > conf_threshold
    return finite[passing], class_id[passing], scores[passing]


def _best(logits: Floats, conf_threshold: float, raw: bool, one_each: bool) -> _Answers:
    """Return the best Q of [Q, classes]; of each query only the best with ``one_each``."""
    hits = np.flatnonzero(logits > (logit(conf_threshold) if raw else conf_threshold))
    # argsort, not argpartition: of equals the first ones, on every machine.
    values = logits.reshape(-1)[hits]
    best = np.argsort(-values, kind="stable") if one_each or len(hits) > len(logits) else np.arange(len(hits))
    if one_each:
        _, first = np.unique(hits[best] // logits.shape[1], return_index=True)
        best = best[first]
    best = best[: len(logits)]
    query, class_id = np.divmod(hits[best], logits.shape[1])
    scores = sigmoid(values[best]) if raw else values[best].astype(np.float32)
    # An infinite logit is no answer, and the sigmoid of one near the threshold may round to it.
    passing = np.isfinite(values[best]) & (scores > conf_threshold)
    return query[passing], class_id[passing], scores[passing]


_PARAMS = {
    "activation": Param(
        _activation,
        "from an output to a score: softmax (default; the last column means no object), sigmoid, or none",
    ),
    "classes": Param(whole, "how many of the columns are classes, where not all are (not with softmax)"),
    "boxes": Param(
        one_of(("cxcywh", "xyxy")), "how a box is written, in parts of the input: cxcywh (default) or xyxy"
    ),
    "boxes_first": Param(
        flag,
        "true: with four columns of classes, the first output has the boxes; false (default): second",
    ),
}
_IMAGENET = InputDefaults("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "stretch", "center", 114)
_UNIT = InputDefaults("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "stretch", "center", 114)


def _family(
    name: str, kin: detr_kin.Kin, fed: InputDefaults, size: int, threshold: float, text: str
) -> Family:
    return Family(
        name=name,
        layout=f"[1, Q, {'classes + 1' if kin.softmax else 'classes'}] and boxes [1, Q, 4], as {text}",
        decode=decode,
        recognise=partial(detr_kin.recognise, kin=kin),
        class_aware=True,
        input=fed,
        input_hw=(size, size),
        conf_threshold=threshold,
        iou_threshold=1.0,
        params=_PARAMS,
        nms=False,
    )


FAMILY = _family(_NAME, detr_kin.DETR, _IMAGENET, 800, 0.50, "DETR is exported (softmax)")
RT = _family(f"{_NAME}-rt", detr_kin.RT, _UNIT, 640, 0.40, "RT-DETR, D-FINE, DEIM are (sigmoid; fed 0..1)")
RF = _family(f"{_NAME}-rf", detr_kin.RF, _IMAGENET, 560, 0.50, "RF-DETR is (sigmoid; fed as DETR)")
