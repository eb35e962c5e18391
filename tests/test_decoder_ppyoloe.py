"""Paddle exports without NMS against a second implementation of PaddleDetection's documented contract."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.decoders.family import View
from pipeline.decoders.ppyoloe import FAMILY, PLUS, decode
from pipeline.errors import ModelError
from tests.decoding import HW, assert_same, image, infos, passing, random


def sound_outputs():
    boxes = np.tile(np.array([20, 15, 70, 50], np.float32), (1, 126, 1))
    return [boxes, np.full((1, 1, 126), 0.5, np.float32)]


def random_outputs(classes, count=126, seed=1):
    corner = random(seed, 1, count, 2) * 40
    boxes = np.concatenate([corner, corner + random(seed + 1, 1, count, 2) * 30], axis=2)
    return boxes, random(seed + 2, 1, classes, count)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_against_the_contract(multi_label, logits, swapped):
    """A second implementation: a loop over the boxes."""
    boxes, scores = random_outputs(5)
    given = np.log(scores / (1 - scores)) if logits else scores
    outputs = [given, boxes] if swapped else [boxes, given]
    found = decode(outputs, HW, 0.7, {"multi_label": multi_label, "sigmoid": logits})
    expected = [
        (boxes[0, i], scores[0, kind, i], kind)
        for i in range(126)
        for kind in passing(scores[0, :, i], 0.7, multi_label)
    ]
    assert_same(found, expected)


def test_other_shapes_are_named():
    boxes, scores = random_outputs(5)
    for outputs in (
        [boxes],
        [boxes, scores[:, :, 1:]],
        [boxes, scores.transpose(0, 2, 1)],
        [boxes[..., :3], scores],
    ):
        with pytest.raises(ModelError, match=r"ppyoloe: expected boxes .*; got "):
            decode(outputs, HW, 0.3, {})


def view(outputs, known=None):
    return View(tuple(infos(outputs)), HW, known, arrays=tuple(outputs))


def test_boxes_and_scores_are_recognised_and_others_are_not():
    boxes, scores = random_outputs(80)
    match = FAMILY.recognise(view([scores, boxes]))
    assert match is not None and match.certain and match.num_classes == 80
    assert match.params == {"order": (1, 0)} and match.holds == (
        "scores of each class",
        "boxes, xyxy in input pixels",
    )
    raw = FAMILY.recognise(view([boxes, scores * 9 - 7]))
    assert raw.params == {"order": (0, 1), "sigmoid": True} and "logits" in raw.reason
    assert PLUS.recognise(view([boxes, scores])) is not None
    # PicoDet's four levels, PP-YOLO's three anchors: fed in one way only
    for count in (128, 3 * 126):
        other = random_outputs(80, count)
        assert FAMILY.recognise(view(other)) is not None and PLUS.recognise(view(other)) is None
    # fractions of the input; YOLO-NAS, whose scores are [1, N, classes]; other numbers
    assert FAMILY.recognise(view([boxes / 96, scores])) is None
    assert FAMILY.recognise(view([boxes, scores.transpose(0, 2, 1)])) is None
    assert FAMILY.recognise(view(random_outputs(80, 127))) is None
    assert FAMILY.recognise(view([boxes, scores], known=5)) is None
    assert not FAMILY.recognise(view(random_outputs(7))).certain


def test_a_card_tells_pp_yoloe_from_pp_yoloe_plus():
    boxes, scores = random_outputs(80)
    arguments = [image(HW)], infos([boxes, scores]), {}
    either = identify(*arguments, trial=lambda _fed: (boxes, scores))
    assert "does not tell how it is fed (ppyoloe or ppyoloe-plus)" in either.doubt
    plus = identify(*arguments, family="ppyoloe-plus")
    assert plus.family is DECODERS["ppyoloe-plus"] and plus.input["std"] == (255.0,) * 3
    four = random_outputs(80, 128)
    assert identify([image(HW)], infos(four), {}, trial=lambda _fed: four).family is FAMILY
