"""RetinaNet's heads: torchvision's own decoding, a loop over the formula, and what is not RetinaNet."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.decoders import DECODERS
from pipeline.decoders.family import View
from pipeline.decoders.priors import anchors, center_size_decode, maps_of
from pipeline.decoders.retinanet import _RATIOS, _SIZES, _STRIDES, decode, recognise
from pipeline.detector import Detector
from pipeline.errors import ModelError
from pipeline.vision.nms import nms
from tests.constant_models import constant_model
from tests.decoding import HW, assert_same, infos, passing, random

THEIRS = np.load(Path(__file__).parent / "authors" / "retinanet.npz")
COUNT = 1161


def sound_outputs():
    deltas = np.zeros((1, COUNT, 4), np.float32)
    return [np.zeros((1, COUNT, 1), np.float32), deltas]


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("swapped", [False, True])
def test_as_torchvision_decodes(stage, swapped):
    """The authors' own package: ``RetinaNet.postprocess_detections`` on random heads (tests/authors)."""
    outputs = [THEIRS["cls_logits"], THEIRS["bbox_regression"]]
    found = decode(outputs[::-1] if swapped else outputs, HW, 0.05, {})
    if stage == "after":
        found = found.take(nms(found.xyxy, found.scores, 0.5, found.class_id, 10**6))
    boxes, scores, labels = (THEIRS[f"{stage}_{name}"] for name in ("boxes", "scores", "labels"))
    theirs = np.lexsort((boxes[:, 0], labels, np.round(scores, 6)))
    ours = np.lexsort((found.xyxy[:, 0], found.class_id, np.round(found.scores, 6)))
    assert len(found) == len(boxes) > 100
    np.testing.assert_allclose(found.scores[ours], scores[theirs], atol=1e-5)
    np.testing.assert_allclose(found.xyxy[ours], boxes[theirs], atol=1e-3)
    assert np.array_equal(found.class_id[ours], labels[theirs])


def test_anchors_of_a_size_that_no_stride_divides():
    """The authors' own package: ``AnchorGenerator`` for 100×150, every 17th anchor."""
    hw = (100, 150)
    boxes = anchors(maps_of(hw, _STRIDES), _SIZES, _RATIOS, hw)[::17]
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    ours = np.concatenate([center - half, center + half], axis=1)
    np.testing.assert_allclose(ours, THEIRS["anchors_100x150"], atol=1e-3)


def by_loop(scores, deltas, threshold, multi_label):
    index = 0
    for stride, side in zip((8, 16, 32, 64, 128), (32, 64, 128, 256, 512), strict=True):
        rows, columns = math.ceil(HW[0] / stride), math.ceil(HW[1] / stride)
        for y in range(rows):
            for x in range(columns):
                for ratio in (0.5, 1, 2):
                    for size in (side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))):
                        w, h = 2 * round(size / ratio**0.5 / 2), 2 * round(size * ratio**0.5 / 2)
                        dx, dy, dw, dh = (float(d) for d in deltas[index])
                        cx, cy = x * (HW[1] // columns) + dx * w, y * (HW[0] // rows) + dy * h
                        w, h = w * math.exp(dw), h * math.exp(dh)
                        box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
                        box = [min(max(v, 0), m) for v, m in zip(box, (96, 64, 96, 64), strict=True)]
                        for kind in passing(scores[index], threshold, multi_label):
                            yield box, scores[index][kind], kind
                        index += 1


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("logits", [True, False])
def test_against_a_loop(multi_label, logits):
    """A second implementation, from the paper and the description of torchvision's anchors."""
    scores, deltas = random(1, 1, COUNT, 4), random(2, 1, COUNT, 4) - 0.5
    given = np.log(scores / (1 - scores)) if logits else scores
    params = {"multi_label": multi_label, "sigmoid": logits, "order": (0, 1)}
    found = decode([given, deltas], HW, 0.9, params)
    assert_same(found, list(by_loop(scores[0].astype(float), deltas[0], 0.9, multi_label)))


def test_a_score_exceeds_the_threshold_after_rounding_too():
    for threshold in np.linspace(0.05, 0.95, 50).tolist():
        logits, deltas = sound_outputs()
        above = np.float32(math.log(threshold / (1 - threshold)))
        logits[0, :3, 0] = above, np.nextafter(above, np.float32(9)), np.nextafter(above, np.float32(-9))
        assert (decode([logits, deltas], HW, threshold, {}).scores > threshold).all()


def test_what_grows_beyond_measure():
    """A box is at most 1000 / 16 times its anchor (``BoxCoder``), and an infinite one is none."""
    prior = np.array([[5, 5, 2, 4]], np.float32)
    grown = center_size_decode(np.array([[0, 0, 40, 40]], np.float32), prior)
    np.testing.assert_allclose(grown[0, 2:] - grown[0, :2], [125, 250], rtol=1e-5)
    logits, deltas = sound_outputs()
    deltas[0, 7, 0] = np.inf
    assert len(decode([logits, deltas], HW, 0.3, {})) == COUNT - 1


def test_other_shapes_are_named():
    scores, deltas = sound_outputs()
    for outputs in (
        [scores[:, 1:], deltas[:, 1:]],
        [scores, deltas[:, :, :3]],
        [scores],
        [scores[:, 1:], deltas],
    ):
        with pytest.raises(ModelError, match=r"retinanet: expected logits .*; got "):
            decode(outputs, HW, 0.3, {})


def view(outputs, names=("cls_logits", "bbox_regression"), known=None, tried=True):
    return View(tuple(infos(outputs, names)), HW, known, arrays=tuple(outputs) if tried else ())


def test_heads_are_recognised_and_others_are_not():
    logits, deltas = random(1, 1, COUNT, 91) * 9 - 7, random(2, 1, COUNT, 4) - 0.5
    match = recognise(view([logits, deltas]))
    assert match is not None and match.certain and match.num_classes == 91
    assert match.params == {"order": (0, 1), "sigmoid": True} and "logits" in match.reason
    assert recognise(view([deltas, logits])).params["order"] == (1, 0)
    assert recognise(view([logits, deltas], tried=False)).params["sigmoid"] is True
    probable = recognise(view([random(1, 1, COUNT, 7), deltas]))
    assert probable.params["sigmoid"] is False and "probabilities" in probable.reason
    assert not probable.certain and recognise(view([random(1, 1, COUNT, 7), deltas], known=7)).certain
    # four classes: the names decide, and without them nothing is guessed
    four = [deltas, random(1, 1, COUNT, 4) * 9 - 7]
    assert recognise(view(four, ("bbox_regression", "cls_logits"))).params["order"] == (1, 0)
    assert recognise(view(four, ("1", "2"))) is None
    # decoded boxes in pixels, another number of rows, other names' classes
    corner = random(3, 1, COUNT, 2) * 40
    assert recognise(view([logits, np.concatenate([corner, corner + 30], axis=2)])) is None
    assert recognise(view([logits[:, 1:], deltas[:, 1:]])) is None
    assert recognise(view([logits, deltas], known=80)) is None


def test_a_file_is_identified_with_no_options(tmp_path):
    """End to end: one anchor sure of class 18."""
    logits = np.full((1, COUNT, 91), -9.0, np.float32)
    logits[0, 500, 18] = 5
    answer = {"cls_logits": logits, "bbox_regression": random(2, 1, COUNT, 4) - 0.5}
    model = Detector(str(constant_model(tmp_path / "retina.onnx", answer))).model
    assert model.family is DECODERS["retinanet-raw"]
    assert model.decode(list(answer.values()), 0.5).class_id.tolist() == [18]
