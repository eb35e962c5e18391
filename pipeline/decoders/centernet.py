"""CenterNet's raw heads (objects as points): a heatmap of centres, sizes and offsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.activation import SIGMOID, logit, looks_like_logits, sigmoid
from pipeline.decoders.candidates import Candidates, Floats, malformed
from pipeline.decoders.family import Family, InputDefaults, Match, Param, View, confirmed, whole

_NAME = "centernet"
_EXPECTED = (
    "a heatmap [1, classes, h, w], sizes [1, 2, h, w] and offsets [1, 2, h, w] of a quarter of the input"
)
_STRIDE = 4
_TOP_K = 100
_HEATMAP_WORDS = ("heatmap", "heat", "hm", "cls")
_SIZE_WORDS = ("wh", "size", "dim")
_OFFSET_WORDS = ("reg", "off")


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Decode a heatmap [1, C, h, w], sizes w, h [1, 2, h, w] and offsets x, y [1, 2, h, w].

    A peak is a cell whose value no neighbour in a 3 × 3 window exceeds; of all classes' peaks the
    best 100 count. Its box has the centre (column + x, row + y) and the size w, h, all in cells of
    4 input pixels (Zhou et al. 2019, "Objects as Points", section 4; ``ctdet_decode`` of the
    authors' ``models/decode.py``). ``params``: ``sigmoid`` where the heatmap holds logits;
    ``order``, the places of heatmap, sizes and offsets among the outputs, else the one with other
    than 2 channels is the heatmap and sizes come before offsets; ``top_k``. Raises ModelError for
    other shapes.
    """
    maps = [output[0] if output.ndim == 4 and len(output) == 1 else output for output in outputs]
    cells = tuple(-(-side // _STRIDE) for side in input_hw)
    if len(maps) != 3 or any(
        m.ndim != 3 or m.shape[1:] != cells or not np.issubdtype(m.dtype, np.floating) for m in maps
    ):
        raise malformed(_NAME, _EXPECTED, outputs)
    order = params.get("order") or _by_channels([len(m) for m in maps])
    if order is None:
        raise malformed(_NAME, _EXPECTED, outputs)
    heat, size, offset = (maps[index] for index in order)
    if len(size) != 2 or len(offset) != 2 or not len(heat):
        raise malformed(_NAME, _EXPECTED, outputs)

    logits = bool(params.get("sigmoid"))
    class_id, row, column, values = _peaks(heat, logit(conf_threshold) if logits else conf_threshold)
    if len(values) > (top_k := params.get("top_k", _TOP_K)):
        best = np.argsort(-values, kind="stable")[:top_k]
        class_id, row, column, values = class_id[best], row[best], column[best], values[best]
    scores = sigmoid(values) if logits else values
    with np.errstate(over="ignore", invalid="ignore"):
        places = np.stack([column, row])
        center = (places + offset[:, row, column].astype(np.float32)).astype(np.float32)
        half_size = size[:, row, column].astype(np.float32) * np.float32(0.5)
        boxes = np.concatenate([center - half_size, center + half_size]).T * np.float32(_STRIDE)
    # The sigmoid rounds, so what exceeds the threshold as a logit may come out at it.
    passing = scores > conf_threshold
    return Candidates.checked(boxes[passing], scores[passing], class_id[passing])


def _peaks(
    heat: Floats, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return class, row, column and value of the cells above ``threshold`` that no neighbour exceeds.

    Hits are compared with one neighbour after the other, and few outlast the first: a maximum over
    the whole heatmap, most of which is far below any threshold, costs many times as much. At a
    border a neighbour that isn't there is replaced by one that is a neighbour too.
    """
    hits = np.flatnonzero(heat > threshold)
    class_id, row, column = np.unravel_index(hits, heat.shape)
    values = heat[class_id, row, column]
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            beside = heat[
                class_id,
                np.clip(row + down, 0, heat.shape[1] - 1),
                np.clip(column + right, 0, heat.shape[2] - 1),
            ]
            left = ~(beside > values)
            class_id, row, column, values = class_id[left], row[left], column[left], values[left]
    return class_id, row, column, values


def _by_channels(channels: Sequence[int]) -> tuple[int, int, int] | None:
    """Return the places of heatmap, sizes and offsets; sizes come first of two that look alike."""
    others = [index for index, count in enumerate(channels) if count != 2]
    if len(others) > 1:
        return None
    heat = others[0] if others else 0
    size, offset = (index for index in range(3) if index != heat)
    return heat, size, offset


def _by_names(names: Sequence[str]) -> tuple[int, int, int] | None:
    """Return the places of heatmap, sizes and offsets as the outputs' names tell them."""
    found = []
    for words in (_HEATMAP_WORDS, _SIZE_WORDS, _OFFSET_WORDS):
        places = [i for i, name in enumerate(names) if any(word in name.lower() for word in words)]
        if len(places) != 1:
            return None
        found.append(places[0])
    return (found[0], found[1], found[2]) if len(set(found)) == 3 else None


def recognise(view: View) -> Match | None:
    """Three outputs of rank 4 on a grid of stride 4, two of them with 2 channels."""
    cells = tuple(-(-side // _STRIDE) for side in view.input_hw)
    if len(view.outputs) != 3 or any(len(s) != 4 or s[2:] != cells for s in view.shapes):
        return None
    channels = [shape[1] or 0 for shape in view.shapes]
    named = _by_names([output.name for output in view.outputs])
    order = named or _by_channels(channels)
    if order is None or any(channels[index] != 2 for index in order[1:]) or channels[order[0]] < 1:
        return None
    told = "told by their names" if named else "told by their channels, sizes before offsets"
    if view.tried and named is None:
        order, told = _by_values(view, order, told)
    classes = channels[order[0]]
    certain = confirmed(classes, view.num_classes)
    if certain is None:
        return None
    params: dict[str, Any] = {"order": order, "sigmoid": False}
    reason = (
        f"{view.outputs[order[0]]} = {classes} classes × {cells[0]}×{cells[1]} cells of {_STRIDE}, "
        f"with sizes {view.outputs[order[1]].name} and offsets {view.outputs[order[2]].name}, {told}"
    )
    if view.tried:
        params["sigmoid"] = looks_like_logits(view.arrays[order[0]])
        scores = "logits" if params["sigmoid"] else "probabilities"
        reason += f"; in the trial run the heatmap holds {scores}"
    holds = [""] * 3
    for index, held in zip(order, ("heatmap of centres", "sizes in cells", "offsets in cells"), strict=True):
        holds[index] = held
    return Match(classes, params, reason, bool(certain or named), tuple(holds))


def _by_values(view: View, order: tuple[int, int, int], told: str) -> tuple[tuple[int, int, int], str]:
    """Return which outputs are sizes and offsets as their values at the best centre tell.

    An offset lies within its cell, so in 0..1; where neither or both do, ``order`` stays.
    """
    heat, first, second = (view.arrays[i].reshape(view.arrays[i].shape[1], -1) for i in order)
    cell = int(np.where(np.isnan(heat), -np.inf, heat).argmax()) % heat.shape[1]
    inside = [bool(((m[:, cell] >= -0.5) & (m[:, cell] <= 1.5)).all()) for m in (first, second)]
    if inside == [False, True]:
        return order, "told by their channels and the size of their values in the trial run"
    if inside == [True, False]:
        swapped = (order[0], order[2], order[1])
        return swapped, "told by their channels and the size of their values in the trial run"
    return order, told


def _order(value: Any) -> tuple[int, int, int]:
    good = isinstance(value, (list, tuple)) and len(value) == 3
    if not good or any(isinstance(v, bool) for v in value) or sorted(map(str, value)) != ["0", "1", "2"]:
        raise TypeError("the numbers 0, 1 and 2 in some order, such as [0, 1, 2]")
    return int(value[0]), int(value[1]), int(value[2])


FAMILY = Family(
    name=_NAME,
    layout="heatmap [1, classes, h, w], sizes and offsets [1, 2, h, w] at stride 4, as CenterNet's raw heads",
    decode=decode,
    recognise=recognise,
    class_aware=True,
    # The authors' mean and deviation (of COCO's pixels in 0..1), applied to BGR.
    input=InputDefaults(
        "BGR",
        (0.408 * 255, 0.447 * 255, 0.470 * 255),
        (0.289 * 255, 0.274 * 255, 0.278 * 255),
        "letterbox",
        "center",
        0,
    ),
    input_hw=(512, 512),
    conf_threshold=0.30,
    iou_threshold=1.0,
    params={
        "sigmoid": SIGMOID,
        "order": Param(_order, "places of heatmap, sizes and offsets among the outputs, such as [0, 1, 2]"),
        "top_k": Param(whole, "the best centres count, so many of them (default 100)"),
    },
    nms=False,
)
