"""FastestDet: against a loop over its formula, and the real model's AP."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline import Detector
from pipeline.decoders import DECODERS, identify
from pipeline.decoders.family import View
from pipeline.errors import ModelError, UnknownLayoutError
from pipeline.runtime.trial import Trial
from pipeline.vision.nms import nms
from tests.ap import coco_ap
from tests.decoding import HW, assert_same, image, output, random

FAMILY = DECODERS["fastestdet"]


def sound_outputs():
    heads = np.zeros((1, 8, 4, 6), np.float32)
    heads[0, 0] = 0.5
    heads[0, 1:3] = 0.55
    heads[0, 3:5] = -2.5
    heads[0, 5:] = np.array([0.5, 0.3, 0.2], np.float32)[:, None, None]
    return [heads]


def by_loop(heads, threshold):
    _, _, rows, columns = heads.shape
    for row in range(rows):
        for column in range(columns):
            objectness, x, y, w, h, *classes = heads[0, :, row, column].astype(np.float64).tolist()
            kind = classes.index(max(classes))
            score = objectness**0.6 * classes[kind] ** 0.4
            if score > threshold:
                cx, cy = (column + math.tanh(x)) / columns * HW[1], (row + math.tanh(y)) / rows * HW[0]
                w, h = HW[1] / (1 + math.exp(-w)), HW[0] / (1 + math.exp(-h))
                yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), score, kind


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6])
def test_fastestdet(threshold):
    """A second implementation, from the authors' description; their code is no package."""
    heads = random(5, 1, 5 + 4, 4, 6)
    heads[0, 1:5] = heads[0, 1:5] * 4 - 2
    assert_same(FAMILY.decode([heads], HW, threshold, {}), list(by_loop(heads, threshold)))


@pytest.mark.parametrize("shape", [(1, 5, 4, 6), (2, 8, 4, 6), (1, 8, 24), (1, 1, 8, 4, 6)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ModelError, match=r"fastestdet: expected one output .*; got "):
        FAMILY.decode([np.zeros(shape, np.float32)], HW, 0.3, {})


def test_it_is_identified():
    found = identify([image((352, 352))], [output(1, 85, 22, 22)], {})
    assert (found.family.name, found.num_classes) == ("fastestdet", 80)
    assert found.input["resize"] == "stretch"
    named = identify([image((352, 352))], [output(1, 8, 22, 22)], {"names": "['a', 'b', 'c']"})
    assert (named.family.name, named.num_classes) == ("fastestdet", 3)


@pytest.mark.parametrize(
    "shape", [(1, 85, 11, 11), (1, 85, 44, 44), (1, 5, 22, 22), (1, 255, 13, 13), (1, 85, 484)]
)
def test_what_only_resembles_it_is_not_claimed(shape):
    assert FAMILY.recognise(View((output(*shape),), (352, 352))) is None
    with pytest.raises(UnknownLayoutError):
        identify([image((352, 352))], [output(*shape)], {}, family="fastestdet")


def test_a_trial_run_whose_classes_are_no_softmax_speaks_against_it():
    (heads,) = sound_outputs()
    outputs = (output(*heads.shape),)
    assert FAMILY.recognise(View(outputs, HW, arrays=(heads,))).certain
    logits, unlikely = heads.copy(), heads.copy()
    logits[0, 5:] -= 2
    unlikely[0, 0] = -3
    for other in (logits, unlikely):
        assert FAMILY.recognise(View(outputs, HW, arrays=(other,))) is None


@pytest.mark.assets
@pytest.mark.timeout(120)
def test_ap_is_what_the_model_is_known_for(assets):
    """.191 / .357 is known for boxes as they are decoded. Many of this model's reach beyond the picture,
    so that those that a Detector gives, which end at its border, come closer to the truth.
    """
    detector = Detector(str(assets / "models" / "FastestDet.onnx"))
    model = detector.model
    assert (model.family, model.params, len(model.labels)) == (FAMILY, {}, 80)
    trial, answers = Trial(model.session), []

    def decoded(picture):
        found = model.decode(trial.run(model.spec, picture), 0.01)
        found = found.take(nms(found.xyxy, found.scores, 0.45, found.class_id, 100))
        height, width = picture.shape[:2]
        boxes = found.xyxy / 352 * np.array([width, height, width, height], np.float32)
        if len(answers) < 8:
            clipped = detector.detect(picture, conf=0.01, iou=0.45, max_detections=100)
            ends = np.clip(boxes, 0, [width, height, width, height])
            np.testing.assert_allclose(clipped.xyxy, ends, atol=1e-2)
            np.testing.assert_array_equal(clipped.class_id, found.class_id)
        answers.append((boxes, found.scores, found.class_id))
        return answers[-1]

    measured = coco_ap(decoded, assets)
    assert measured["AP"] == pytest.approx(0.191, abs=0.005)
    assert measured["AP50"] == pytest.approx(0.357, abs=0.005)
    again = iter(answers)

    def ending_at_the_border(picture):
        boxes, scores, classes = next(again)
        height, width = picture.shape[:2]
        return np.clip(boxes, 0, [width, height, width, height]), scores, classes

    assert coco_ap(ending_at_the_border, assets)["AP"] == pytest.approx(0.207, abs=0.005)
