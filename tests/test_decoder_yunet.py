"""YuNet: against a loop over its formula, and against OpenCV's FaceDetectorYN on the same numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipeline import Detector
from pipeline.decoders import DECODERS, identify
from pipeline.decoders.family import View
from pipeline.errors import ModelError
from pipeline.vision.nms import nms
from tests.constant_models import constant_model
from tests.decoding import HW, assert_same, cells, image, infos, random

FAMILY = DECODERS["yunet"]
ROWS = (96, 24, 6)
NAMES = tuple(f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32))


def sound_outputs():
    return [
        np.full((1, rows, width), value, np.float32)
        for width, value in ((1, 0.5), (1, 0.5), (4, 0.25), (10, 0.5))
        for rows in ROWS
    ]


def heads(seed):
    """Boxes of every size up to a quarter of the picture."""
    outputs = [random(seed + index, *o.shape) for index, o in enumerate(sound_outputs())]
    return [o * 2 - 0.5 if 6 <= index < 9 else o for index, o in enumerate(outputs)]


def by_loop(outputs, threshold):
    parts = [np.concatenate(outputs[i : i + 3], axis=1)[0].tolist() for i in (0, 3, 6, 9)]
    for (column, row, stride), (kind,), (there,), (x, y, w, h), marks in zip(
        cells(HW, (8, 16, 32)), *parts, strict=True
    ):
        score = math.sqrt(kind * there)
        if score > threshold:
            cx, cy, w, h = (
                (x + column) * stride,
                (y + row) * stride,
                math.exp(w) * stride,
                math.exp(h) * stride,
            )
            points = [
                ((a + column) * stride, (b + row) * stride)
                for a, b in zip(marks[::2], marks[1::2], strict=True)
            ]
            yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), score, 0, points


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8])
def test_yunet(threshold):
    """A second implementation, from the paper and OpenCV's documentation."""
    outputs = heads(1)
    expected = list(by_loop(outputs, threshold))
    found = FAMILY.decode(outputs, HW, threshold, {})
    assert_same(found, [row[:3] for row in expected])
    np.testing.assert_allclose(found.keypoints[:, :, :2], [row[3] for row in expected], atol=1e-3)
    assert (found.keypoints[:, :, 2] == 1).all()
    turned = FAMILY.decode(outputs[::-1], HW, threshold, {})
    assert np.array_equal(turned.xyxy, found.xyxy) and np.array_equal(turned.keypoints, found.keypoints)


def opencv_faces(path, threshold, iou):
    detector = cv2.FaceDetectorYN.create(str(path), "", (HW[1], HW[0]), threshold, iou, 5000)
    _, found = detector.detect(np.full((*HW, 3), 9, np.uint8))
    box_xywh, points, scores = found[:, :4], found[:, 4:14].reshape(-1, 5, 2), found[:, 14]
    return np.concatenate([box_xywh[:, :2], box_xywh[:, :2] + box_xywh[:, 2:]], axis=1), points, scores


@pytest.mark.parametrize("seed", [1, 40, 77])
def test_boxes_are_opencvs(tmp_path, seed):
    """The authors' own code, in C++: OpenCV's FaceDetectorYN, given a model that answers the same."""
    outputs = heads(seed)
    path = constant_model(tmp_path / "m.onnx", dict(zip(NAMES, outputs, strict=True)))
    found = FAMILY.decode(outputs, HW, 0.05, {})
    order = np.argsort(-found.scores, kind="stable")
    # At an IoU of 1 its NMS keeps all; it sorts by score.
    boxes, points, scores = opencv_faces(path, 0.05, 1.0)
    np.testing.assert_allclose(found.scores[order], scores, atol=1e-5)
    np.testing.assert_allclose(found.xyxy[order], boxes, atol=1e-3)
    np.testing.assert_allclose(found.keypoints[order, :, :2], points, atol=1e-3)
    # Its NMS compares boxes whose left, top, width and height are cut to whole pixels; ours does not.
    boxes, points, scores = opencv_faces(path, 0.05, 0.3)
    start = np.trunc(found.xyxy[:, :2])
    cut = np.concatenate([start, start + np.trunc(found.xyxy[:, 2:] - found.xyxy[:, :2])], axis=1)
    kept = nms(cut, found.scores, FAMILY.iou_threshold, None, 1000)
    np.testing.assert_allclose(found.xyxy[kept], boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores[kept], scores, atol=1e-5)
    np.testing.assert_allclose(found.keypoints[kept, :, :2], points, atol=1e-3)


def test_it_is_identified_and_runs_with_no_options(tmp_path):
    outputs = [np.zeros_like(o) for o in sound_outputs()]
    outputs[1][0, 8], outputs[4][0, 8] = 0.95, 0.97  # stride 16: row 1, column 2
    path = constant_model(tmp_path / "m.onnx", dict(zip(NAMES, outputs, strict=True)))
    detector = Detector(str(path))
    assert detector.model.family is FAMILY and list(detector.labels) == ["face"]
    found = detector.detect(np.zeros((128, 192, 3), np.uint8))
    np.testing.assert_allclose(found.xyxy, [[48, 16, 80, 48]], atol=1e-3)
    assert found.confidence[0] == pytest.approx(math.sqrt(0.95 * 0.97), abs=1e-6)


def test_names_are_not_needed():
    found = identify([image(HW)], infos(sound_outputs()), {})
    assert (found.family.name, found.num_classes) == ("yunet", 1)
    assert (found.input["align"], found.input["color"], found.input["std"]) == ("top-left", "BGR", (1, 1, 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda outputs: outputs[:11],
        lambda outputs: [*outputs[:11], outputs[9]],
        lambda outputs: [o[:, ::2] for o in outputs],
        lambda outputs: [o[..., :1] for o in outputs],
    ],
)
def test_what_only_resembles_it_is_refused(change):
    outputs = change(sound_outputs())
    assert FAMILY.recognise(View(tuple(infos(outputs)), HW)) is None
    with pytest.raises(ModelError, match=r"yunet: expected .*; got "):
        FAMILY.decode(outputs, HW, 0.3, {})


def test_logits_and_other_classes_speak_against_it():
    outputs = sound_outputs()
    view = View(tuple(infos(outputs)), HW)
    assert FAMILY.recognise(replace(view, arrays=tuple(outputs))).certain
    assert FAMILY.recognise(replace(view, arrays=(*outputs[:3], outputs[3] * 9, *outputs[4:]))) is None
    assert FAMILY.recognise(replace(view, num_classes=3)) is None
