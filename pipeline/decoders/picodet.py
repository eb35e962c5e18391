"""PicoDet's heads, as PaddleDetection exports them without what follows: four levels, strides 8 to 64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.activation import SIGMOID, logit, looks_like_logits, sigmoid
from pipeline.decoders.candidates import Candidates, cell_count, cells_text, grid, malformed, matrix, select
from pipeline.decoders.family import MULTI_LABEL, Family, Match, View, confirmed
from pipeline.decoders.paddle import IMAGENET
from pipeline.decoders.priors import clipped

_EXPECTED = "for each of strides 8, 16, 32, 64 scores [1, cells, classes] and distances [1, cells, 32]"
_STRIDES = (8, 16, 32, 64)
_BINS = 8
_NANODET_NAMES = ("cls_pred", "dis_pred")

Pairs = tuple[tuple[int, int], ...]
"""For each stride, the index of the output with its scores and of that with its distances."""


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode class scores [1, cells, classes] and distances [1, cells, 4 · 8], a pair for each stride.

    A distance (left, top, right, bottom) is stride × Σ i · softmax(logits)_i over 8 bins, counted
    from the middle of the cell, ((x + .5) · stride, (y + .5) · stride)
    (``ppdet/modeling/heads/pico_head.py``; Yu et al. 2021; Li et al. 2020 for the distribution). The box
    is clipped to the input, as in the authors' ``deploy/third_engine`` demos.

    ``params``: ``sigmoid`` (true: scores are logits); ``multi_label``; ``order``, which
    ``recognise`` finds. What is missing is told from the shapes. Raises ModelError for other shapes.
    """
    matrices = [matrix(output, "picodet", _EXPECTED) for output in outputs]
    order: Pairs | None = params.get("order") or _pairs([m.shape for m in matrices], input_hw)
    if order is None or len(matrices) != 2 * len(_STRIDES):
        raise malformed("picodet", f"{_EXPECTED}; {cells_text(input_hw, _STRIDES)}", outputs)
    classes = matrices[order[0][0]].shape[1]
    raw = bool(params.get("sigmoid"))
    threshold = logit(conf_threshold) if raw else conf_threshold
    points, sizes = grid(input_hw, _STRIDES, 0.5)
    cells, class_ids, scores, logits = [], [], [], []
    first_cell = 0
    for stride, (score_index, distance_index) in zip(_STRIDES, order, strict=True):
        level, distances = matrices[score_index], matrices[distance_index]
        count = cell_count(input_hw, (stride,))
        if level.shape != (count, classes) or distances.shape != (count, 4 * _BINS):
            raise malformed("picodet", f"{_EXPECTED}; {count} cells at stride {stride}", outputs)
        cell, class_id, values = select(level, threshold, bool(params.get("multi_label")), box_axis=0)
        cells.append(cell + first_cell)
        class_ids.append(class_id)
        scores.append(values)
        logits.append(distances[cell])
        first_cell += count

    cell, class_id, values = np.concatenate(cells), np.concatenate(class_ids), np.concatenate(scores)
    kept_logits = np.concatenate(logits)
    if raw:
        values = sigmoid(values)
        above = values > conf_threshold
        cell, class_id, values, kept_logits = cell[above], class_id[above], values[above], kept_logits[above]
    with np.errstate(over="ignore", invalid="ignore"):
        sides = _expectation(kept_logits) * sizes[cell]
        boxes = np.concatenate([points[cell] - sides[:, :2], points[cell] + sides[:, 2:]], axis=1)
    return Candidates.checked(clipped(boxes, input_hw), values, class_id)


def _expectation(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Return the means [K, 4] of the distributions that [K, 4 · bins] are the logits of."""
    weights = logits.astype(np.float32).reshape(-1, 4, _BINS)
    weights = np.exp(weights - weights.max(axis=2, keepdims=True))
    bins = np.arange(_BINS, dtype=np.float32)
    means: NDArray[np.float32] = (weights @ bins) / weights.sum(axis=2)
    return means


def _pairs(shapes: Sequence[Sequence[int | None]], input_hw: tuple[int, int]) -> Pairs | None:
    """Return the outputs of each stride, as [cells, columns] tell them; None where they don't.

    With 32 classes, as many as columns of distances, scores come first, as in the authors' export.
    """
    if len(shapes) != 2 * len(_STRIDES):
        return None
    pairs = []
    for stride in _STRIDES:
        cells = cell_count(input_hw, (stride,))
        level = [index for index, shape in enumerate(shapes) if shape[0] == cells]
        distances = [index for index in level if shapes[index][1] == 4 * _BINS]
        if len(level) != 2 or not distances:
            return None
        pairs.append((level[0] if level[1] == distances[-1] else level[1], distances[-1]))
    return tuple(pairs)


def recognise(view: View) -> Match | None:
    """Eight outputs, two for each of strides 8 to 64; not those that bear NanoDet's names."""
    shapes = view.shapes
    if any(len(shape) != 3 for shape in shapes):
        return None
    if any(word in output.name for output in view.outputs for word in _NANODET_NAMES):
        return None
    order = _pairs([shape[1:] for shape in shapes], view.input_hw)
    if order is None:
        return None
    classes = shapes[order[0][0]][2]
    if classes is None or any(shapes[scores][2] != classes for scores, _ in order):
        return None
    if confirmed(classes, view.num_classes) is None:
        return None
    params: dict[str, Any] = {"order": order}
    scored = [scores for scores, _ in order]
    said = "class scores"
    if view.tried and any(looks_like_logits(view.arrays[index]) for index in scored):
        params["sigmoid"] = True
        said = "class logits: the trial run gave some outside 0..1"
    return Match(
        classes,
        params,
        f"8 outputs = {said} [{classes}] and distances [4 × {_BINS}] "
        f"for {cells_text(view.input_hw, _STRIDES)}; "
        "a level of stride 64 and names that are not NanoDet's",
        certain=True,
        holds=tuple(said if index in scored else "distances" for index in range(len(shapes))),
    )


FAMILY = Family(
    name="picodet",
    layout="scores [1, cells, classes] and distances [1, cells, 32] for strides 8 to 64, as PicoDet's heads",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    input=IMAGENET,
    input_hw=(320, 320),
    conf_threshold=0.50,
    iou_threshold=0.60,
    params={"sigmoid": SIGMOID, "multi_label": MULTI_LABEL},
)
