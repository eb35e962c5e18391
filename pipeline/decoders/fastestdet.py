"""FastestDet exports (dog-qiuqiu): one feature map with an objectness, a box and classes in each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.activation import sigmoid
from pipeline.decoders.candidates import Candidates, malformed
from pipeline.decoders.family import Family, InputDefaults, Match, View, confirmed

_EXPECTED = "one output [1, 5 + classes, rows, columns]"
_STRIDE = 16
_OBJECTNESS_POWER, _CLASS_POWER = 0.6, 0.4


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],  # noqa: ARG001
) -> Candidates:
    """Decode [1, 5 + classes, rows, columns]: objectness, x, y, w, h, class probabilities.

    A cell is an object of its best class with objectness^0.6 · probability^0.4. Its box is centre
    ((column + tanh x) / columns, (row + tanh y) / rows) and size (σ(w), σ(h)), all as fractions of
    the input (``handle_preds`` in FastestDet's ``utils/tool.py``, and its ONNX Runtime example).
    ``params``: none. Raises ModelError for other shapes.
    """
    if len(outputs) != 1:
        raise malformed("fastestdet", _EXPECTED, outputs)
    output = outputs[0][0] if outputs[0].ndim == 4 and len(outputs[0]) == 1 else outputs[0]
    if output.ndim != 3 or len(output) < 6 or not np.issubdtype(output.dtype, np.floating):
        raise malformed("fastestdet", _EXPECTED, outputs)
    rows, columns = output.shape[1:]
    table = output.reshape(len(output), -1)

    # A probability is at most 1, so objectness^0.6 alone has to exceed the threshold.
    cells = np.flatnonzero(table[0] > conf_threshold ** (1 / _OBJECTNESS_POWER))
    found = table[:, cells].astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        classes = np.where(np.isnan(found[5:]), -np.inf, found[5:])
        class_id = classes.argmax(axis=0) if cells.size else np.zeros(0, np.int64)
        best = classes[class_id, np.arange(cells.size)]
        scores = found[0] ** np.float32(_OBJECTNESS_POWER) * best ** np.float32(_CLASS_POWER)
        passing = scores > conf_threshold
        cells, found = cells[passing], found[:, passing]
        places = np.stack([cells % max(columns, 1), cells // max(columns, 1)])
        center = (places + np.tanh(found[1:3])) / np.array([[columns], [rows]], np.float32)
        half_size = sigmoid(found[3:5]) * np.float32(0.5)
        size = np.array(input_hw[::-1] * 2, np.float32)
        boxes = np.concatenate([center - half_size, center + half_size]).T * size
    return Candidates.checked(np.ascontiguousarray(boxes), scores[passing], class_id[passing])


def recognise(view: View) -> Match | None:
    """One output of rank 4 on a grid of stride 16 with at least one class."""
    if len(view.outputs) != 1 or len(view.shapes[0]) != 4:
        return None
    _, channels, rows, columns = view.shapes[0]
    if channels is None or (rows, columns) != tuple(-(-side // _STRIDE) for side in view.input_hw):
        return None
    certain = confirmed(channels - 5, view.num_classes)
    if certain is None:
        return None
    classes = channels - 5
    reason = f"{view.outputs[0]} = (objectness, box, {classes} classes) × {rows}×{columns} cells of {_STRIDE}"
    if view.tried:
        if not _is_softmax(view.arrays[0]):
            return None
        reason += "; in the trial run objectness is a probability, and each cell's classes sum to 1"
        certain = True
    return Match(classes, {}, reason, certain, (f"objectness, x, y, w, h, {classes} class probabilities",))


def _is_softmax(array: NDArray[Any]) -> bool:
    """Whether channel 0 holds probabilities and those from 5 sum to 1: raw heads of other models don't."""
    with np.errstate(over="ignore", invalid="ignore"):
        output = array.astype(np.float32).reshape(-1, *array.shape[-3:])[0]
        probable = ((output[0] >= -0.05) & (output[0] <= 1.05)).all()
        return bool(probable and (np.abs(output[5:].sum(axis=0) - 1) < 0.05).mean() > 0.9)


FAMILY = Family(
    name="fastestdet",
    layout="[1, 5 + classes, rows, columns] at stride 16, as FastestDet is exported",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=InputDefaults("BGR", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "stretch", "center", 0),
    input_hw=(352, 352),
    conf_threshold=0.65,
    iou_threshold=0.45,
)
