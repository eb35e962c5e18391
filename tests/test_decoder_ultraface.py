"""UltraFace: against a loop over its formula, and its real model on the bundled photograph."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipeline import Detector
from pipeline.decoders import DECODERS, identify
from pipeline.decoders.family import View
from pipeline.decoders.ultraface import prior_count
from pipeline.errors import ModelError
from pipeline.sample import PHOTO
from tests.decoding import HW, assert_same, image, infos, output, random

FAMILY = DECODERS["ultraface"]
PRIORS = 354  # for HW: 3 · 8 · 12 + 2 · 4 · 6 + 2 · 2 · 3 + 3 · 1 · 2


def sound_outputs():
    boxes = np.tile(np.array([0.2, 0.3, 0.6, 0.7], np.float32), (1, PRIORS, 1))
    return [np.full((1, PRIORS, 2), 0.5, np.float32), boxes]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_ultraface(threshold):
    """A second implementation, from the authors' description; their code is no package."""
    scores, boxes = random(1, 1, PRIORS, 2), random(2, 1, PRIORS, 4)
    boxes[..., 2:] += boxes[..., :2]
    expected = [
        ((left * HW[1], top * HW[0], right * HW[1], bottom * HW[0]), face, 0)
        for (_, face), (left, top, right, bottom) in zip(scores[0].tolist(), boxes[0].tolist(), strict=True)
        if face > threshold
    ]
    assert_same(FAMILY.decode([scores, boxes], HW, threshold, {}), expected)
    assert_same(FAMILY.decode([boxes, scores], HW, threshold, {}), expected)


def test_other_shapes_are_refused():
    scores, boxes = sound_outputs()
    for outputs in ([scores], [boxes, boxes], [scores, boxes[:, 1:]], [scores, boxes[0, :, :3]]):
        with pytest.raises(ModelError, match=r"ultraface: expected .*; got "):
            FAMILY.decode(outputs, HW, 0.3, {})


@pytest.mark.parametrize(("input_hw", "count"), [((240, 320), 4420), ((480, 640), 17640), (HW, PRIORS)])
def test_it_is_identified_by_its_number_of_priors(input_hw, count):
    """4420 and 17640 are those of the published models, version-RFB-320 and -640."""
    assert prior_count(input_hw) == count
    outputs = [output(1, count, 2, name="scores"), output(1, count, 4, name="boxes")]
    for order in (outputs, outputs[::-1]):
        found = identify([image(input_hw)], order, {})
        assert (found.family.name, found.num_classes) == ("ultraface", 1)
        assert (found.input["color"], found.input["resize"]) == ("RGB", "stretch")


@pytest.mark.parametrize("shapes", [((1, 3000, 2), (1, 3000, 4)), ((1, 4420, 3), (1, 4420, 4))])
def test_an_ssd_is_not_claimed(shapes):
    assert FAMILY.recognise(View(tuple(output(*shape) for shape in shapes), (240, 320))) is None


def test_a_model_with_two_classes_of_its_own_is_not_claimed():
    outputs = tuple(infos(sound_outputs()))
    assert FAMILY.recognise(View(outputs, HW)) is not None
    assert FAMILY.recognise(View(outputs, HW, num_classes=2)) is None


def test_logits_and_regressions_in_the_trial_run_speak_against_it():
    scores, boxes = sound_outputs()
    view = View(tuple(infos([scores, boxes])), HW)
    assert FAMILY.recognise(replace(view, arrays=(scores, boxes))).certain
    assert FAMILY.recognise(replace(view, arrays=(scores - 3, boxes))) is None
    assert FAMILY.recognise(replace(view, arrays=(scores, boxes[..., ::-1]))) is None


@pytest.mark.assets
def test_the_real_model_finds_the_astronauts_face(assets):
    detector = Detector(str(assets / "models" / "ultraface_RFB-320.onnx"))
    found = detector.detect(cv2.imread(str(PHOTO)))
    assert detector.model.family is FAMILY and list(found.labels) == ["face"]
    # Where the face is, seen by eye: the head within the outer box, eyes and mouth within the inner one.
    left, top, right, bottom = found.xyxy[0]
    assert 820 < left < 865 and 160 < top < 212 and 910 < right < 955 and 262 < bottom < 305
    assert found.confidence[0] > 0.95
