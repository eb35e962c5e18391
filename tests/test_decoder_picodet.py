"""PicoDet's heads against a second implementation from the papers; and what is NanoDet's instead."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoders.family import View
from pipeline.decoders.picodet import FAMILY, decode, recognise
from pipeline.errors import ModelError
from tests.decoding import HW, assert_same, cells, infos, passing, random

SIZES = [len(cells(HW, (stride,))) for stride in (8, 16, 32, 64)]


def sound_outputs():
    return [np.full((1, s, 3), 0.5, np.float32) * [1, 0, 0] for s in SIZES] + [
        np.zeros((1, s, 32), np.float32) for s in SIZES
    ]


def heads(classes):
    scores = [random(size, 1, size, classes) for size in SIZES]
    return scores, [random(size + 1, 1, size, 32) * 8 for size in SIZES]


def by_loop(scores, logits, threshold, multi_label):
    """Distances are expectations over 0..7 cells, from the middle of the cell (Yu et al. 2021)."""
    grid = cells(HW, (8, 16, 32, 64))
    for row, distribution, (x, y, stride) in zip(scores, logits, grid, strict=True):
        sides = []
        for side in distribution.astype(np.float64).reshape(4, 8):
            weights = np.exp(side) / np.exp(side).sum()
            sides.append(stride * sum(i * weight for i, weight in enumerate(weights)))
        cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
        box = (cx - sides[0], cy - sides[1], cx + sides[2], cy + sides[3])
        box = [min(max(v, 0), limit) for v, limit in zip(box, (96, 64, 96, 64), strict=True)]
        for kind in passing(row, threshold, multi_label):
            yield box, row[kind], kind


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("classes", [6, 32])
def test_against_a_loop(multi_label, logits, shuffled, classes):
    """A second implementation, from the papers."""
    scores, distances = heads(classes)
    given = [np.log(s / (1 - s)) for s in scores] if logits else scores
    outputs, params = [*given, *distances], {"multi_label": multi_label, "sigmoid": logits}
    if shuffled:
        where = [3, 0, 2, 1, 6, 5, 7, 4]
        outputs = [outputs[i] for i in where]
        if classes == 32:  # only the usual order tells scores from distances, unless it is said
            params["order"] = tuple((where.index(i), where.index(i + 4)) for i in range(4))
    found = decode(outputs, HW, 0.8, params)
    flat = np.concatenate(scores, axis=1)[0], np.concatenate(distances, axis=1)[0]
    assert_same(found, list(by_loop(*flat, 0.8, multi_label)))


def test_other_shapes_are_named():
    scores, distances = heads(6)
    three_levels = [*scores[:3], *distances[:3]]
    uneven = [scores[0][..., :5], *scores[1:], *distances]
    for outputs in (three_levels, uneven, [*scores, *scores], [*scores, *[d[..., :28] for d in distances]]):
        with pytest.raises(ModelError, match=r"picodet: expected for each of strides .*; got "):
            decode(outputs, HW, 0.3, {})


def test_heads_are_recognised_and_nanodets_are_not():
    scores, distances = heads(80)
    outputs = [*scores, *distances]
    seen = View(tuple(infos(outputs)), HW, arrays=tuple(outputs))
    match = recognise(seen)
    assert match is not None and match.certain and match.num_classes == 80 and "sigmoid" not in match.params
    assert match.params["order"] == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert match.holds[0] == "class scores" and match.holds[7] == "distances"
    raw = [*(s * 9 - 7 for s in scores), *distances]
    logits = recognise(View(tuple(infos(raw)), HW, arrays=tuple(raw)))
    assert logits.params["sigmoid"] is True and "logits" in logits.reason
    # NanoDet: three levels, or its own names
    three = [*scores[:3], *distances[:3]]
    assert recognise(View(tuple(infos(three)), HW)) is None
    names = [f"{kind}_pred_stride_{stride}" for kind in ("cls", "dis") for stride in (8, 16, 32, 64)]
    assert recognise(View(tuple(infos(outputs, names)), HW)) is None
    assert recognise(View(tuple(infos(outputs)), HW, 5)) is None
    assert recognise(View(tuple(infos(outputs)), (96, 64))) is not None  # the same cells
    assert recognise(View(tuple(infos(outputs)), (64, 128))) is None


def test_it_is_fed_as_paddle_says():
    assert FAMILY.input.color == "RGB" and FAMILY.input.resize == "stretch"
    np.testing.assert_allclose(FAMILY.input.mean, np.array([0.485, 0.456, 0.406]) * 255)
    np.testing.assert_allclose(FAMILY.input.std, np.array([0.229, 0.224, 0.225]) * 255)
