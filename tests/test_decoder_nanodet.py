"""NanoDet and NanoDet-Plus against a loop over their formula."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoders import DECODERS, TensorInfo, identify
from pipeline.decoders.family import View
from pipeline.errors import ModelError
from tests.decoding import HW, assert_same, cells, image, passing, random


def nanodet_by_loop(scores, logits, threshold, multi_label, strides, anchor):
    for row, distribution, (x, y, stride) in zip(scores, logits, cells(HW, strides), strict=True):
        sides = []
        for side in distribution.astype(np.float64).reshape(4, -1):
            weights = np.exp(side)
            sides.append(stride * sum(i * w for i, w in enumerate(weights)) / weights.sum())
        cx, cy = (x + anchor) * stride, (y + anchor) * stride
        left, top = max(0, cx - sides[0]), max(0, cy - sides[1])
        right, bottom = min(HW[1], cx + sides[2]), min(HW[0], cy + sides[3])
        for kind in passing(row, threshold, multi_label):
            yield (left, top, right, bottom), row[kind], kind


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.97])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("reg_max", [7, 10])
@pytest.mark.parametrize("shuffled", [False, True])
def test_nanodet(threshold, multi_label, reg_max, shuffled):
    sizes = [len(cells(HW, (stride,))) for stride in (8, 16, 32)]
    scores = [random(size, 1, size, 6) for size in sizes]
    logits = [random(-size % 100, 1, size, 4 * (reg_max + 1)) * 8 for size in sizes]
    outputs = [*scores, *logits]
    if shuffled:
        outputs = [outputs[i] for i in (4, 2, 0, 5, 1, 3)]
    found = DECODERS["nanodet"].decode(outputs, HW, threshold, {"multi_label": multi_label})
    flat_scores, flat_logits = np.concatenate(scores, 1)[0], np.concatenate(logits, 1)[0]
    assert_same(
        found, list(nanodet_by_loop(flat_scores, flat_logits, threshold, multi_label, (8, 16, 32), 0.5))
    )


@pytest.mark.parametrize("reg_max", [7, 10])
@pytest.mark.parametrize(("strides", "anchor"), [((8, 16, 32), 0.5), ((8, 16, 32, 64), 0.0)])
def test_nanodet_plus(reg_max, strides, anchor):
    count = len(cells(HW, strides))
    scores, logits = random(2, count, 6), random(3, count, 4 * (reg_max + 1)) * 8
    fused = np.concatenate([scores, logits], axis=1)[None]
    found = DECODERS["nanodet"].decode([fused], HW, 0.8, {"reg_max": reg_max})
    assert_same(found, list(nanodet_by_loop(scores, logits, 0.8, False, strides, anchor)))


def test_nanodet_takes_the_order_it_is_told_where_shapes_cannot_tell():
    # 32 classes, and 32 = 4 × (7 + 1) columns of distances.
    sizes = [len(cells(HW, (stride,))) for stride in (8, 16, 32)]
    scores = [random(size, 1, size, 32) for size in sizes]
    logits = [random(size + 1, 1, size, 32) * 8 for size in sizes]
    outputs = [array for pair in zip(logits, scores, strict=True) for array in pair]
    names = [f"{kind}_pred_stride_{stride}" for stride in (8, 16, 32) for kind in ("dis", "cls")]
    infos = [TensorInfo(name, o.shape, "float32") for name, o in zip(names, outputs, strict=True)]
    identified = identify([image(HW)], infos, {})
    assert identified.params["order"] == ((1, 0), (3, 2), (5, 4))
    found = DECODERS["nanodet"].decode(outputs, HW, 0.95, identified.params)
    flat_scores, flat_logits = np.concatenate(scores, 1)[0], np.concatenate(logits, 1)[0]
    assert_same(found, list(nanodet_by_loop(flat_scores, flat_logits, 0.95, False, (8, 16, 32), 0.5)))


@pytest.mark.parametrize("fused", [False, True])
def test_scores_without_their_sigmoid_are_found_out_and_read(fused):
    sizes = [len(cells(HW, (stride,))) for stride in (8, 16, 32)]
    scores = [random(size, 1, size, 6) for size in sizes]
    logits = [random(size + 1, 1, size, 32) * 8 for size in sizes]
    raw = [np.log(s / (1 - s)) for s in scores]
    outputs = [*raw, *logits]
    if fused:
        outputs = [np.concatenate([np.concatenate(raw, 1), np.concatenate(logits, 1)], axis=2)]
    declared = tuple(TensorInfo(f"o{i}", o.shape, "float32") for i, o in enumerate(outputs))
    match = DECODERS["nanodet"].recognise(View(declared, HW, 6, arrays=tuple(outputs)))
    assert match is not None and match.params["sigmoid"] is True and "logits" in match.reason
    found = DECODERS["nanodet"].decode(outputs, HW, 0.9, match.params)
    flat_scores, flat_logits = np.concatenate(scores, 1)[0], np.concatenate(logits, 1)[0]
    assert_same(found, list(nanodet_by_loop(flat_scores, flat_logits, 0.9, False, (8, 16, 32), 0.5)))


def sound_outputs():
    sizes = [96, 24, 6]
    return [np.full((1, s, 3), 0.5, np.float32) for s in sizes] + [
        np.zeros((1, s, 32), np.float32) for s in sizes
    ]


def test_params_of_a_card_are_checked():
    nanodet = DECODERS["nanodet"]
    checked = nanodet.check_params({"reg_max": 10, "strides": [8, 16], "anchor": 0})
    assert checked == {"reg_max": 10, "strides": (8, 16), "anchor": 0.0}
    with pytest.raises(ModelError, match="unknown parameter 'regmax'; known: reg_max"):
        nanodet.check_params({"regmax": 10})
    for wrong in ({"reg_max": 0}, {"strides": [16, 8]}, {"strides": 8}, {"anchor": 2}, {"multi_label": 1}):
        with pytest.raises(ModelError, match=f"{next(iter(wrong))}: expected .*; got"):
            nanodet.check_params(wrong)
