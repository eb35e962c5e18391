"""TensorFlow's boxes before NMS: the Object Detection API's own, a loop, and what is read instead."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from pipeline.decoders import DECODERS, identify
from pipeline.decoders.family import TensorInfo, View
from pipeline.decoders.scene import objects_in
from pipeline.decoders.tf_ssd_raw import FAMILY, decode
from pipeline.detector import Detector
from pipeline.errors import ModelError
from tests.constant_models import constant_model
from tests.decoding import HW, assert_same, infos, random
from tests.tf_scene import THEIRS, assert_theirs, logits_of, scores_of

NAMES = ("raw_detection_boxes", "raw_detection_scores")
WITH_NMS = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
AT_300 = (300, 300)


def sound_outputs():
    boxes = np.tile(np.array([0.2, 0.3, 0.6, 0.7], np.float32), (1, 50, 1))
    return [boxes, np.tile(np.array([0.3, 0.5], np.float32), (1, 50, 1))]


@pytest.mark.parametrize("name", ["ssd", "efficient", "other"])
@pytest.mark.parametrize("stage", ["before", "after"])
def test_as_the_object_detection_api_suppresses(name, stage):
    """The authors' own package: what it gives its NMS, and what comes out of it (tests/authors)."""
    params = {"background": name != "efficient", "background_label": False}
    found = decode([THEIRS[f"{name}_raw_boxes"], THEIRS[f"{name}_raw_scores"]], HW, 0.05, params)
    assert_theirs(found, name, stage, HW)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
@pytest.mark.parametrize("normalised", [True, False])
def test_by_loop(background, activation, normalised):
    """A second implementation: a loop over boxes and the documented activations."""
    boxes, scores = np.sort(random(1, 1, 60, 4), axis=2), random(2, 1, 60, 4)
    if activation != "none":
        scores = scores * 8 - 4
    params = {"background": background, "activation": activation, "normalised": normalised}
    expected = []
    for box, row in zip(boxes[0].astype(np.float64), scores[0].astype(np.float64), strict=True):
        values = row
        if activation == "sigmoid":
            values = 1 / (1 + np.exp(-row))
        elif activation == "softmax":
            values = np.exp(row) / np.exp(row).sum()
        height, width = HW if normalised else (1, 1)
        corners = (box[1] * width, box[0] * height, box[3] * width, box[2] * height)
        for kind in range(1 if background else 0, 4):
            if values[kind] > 0.4:
                expected.append((corners, values[kind], kind + (not background)))
    assert_same(decode([boxes, scores], HW, 0.4, params), expected)
    assert_same(decode([scores, boxes], HW, 0.4, {**params, "order": (1, 0)}), expected)


def scene(columns=91, background=True, count=1917):
    low, size = random(3, count, 2) * 0.5, random(4, count, 2) * 0.5
    boxes = np.concatenate([low, low + size], axis=1)
    boxes[[200, 1700 % count]] = (objects_in(AT_300, "stretch", "center") / 300)[:, [1, 0, 3, 2]]
    return boxes[None], scores_of(count, columns, {200: 1, 1700 % count: 17}, background)


def view(boxes, scores, names=NAMES, known=None, tried=True, beside=()):
    arrays = (boxes, scores)
    declared = [*infos(arrays, names), *(TensorInfo(name, (1, 100), "float32") for name in beside)]
    padding = tuple(np.zeros((1, 100), np.float32) for _ in beside)
    return View(tuple(declared), AT_300, known, arrays=(*arrays, *padding) if tried else ())


@pytest.mark.parametrize("dressed", ["{}", "{}:0", "StatefulPartitionedCall/{}:0"])
@pytest.mark.parametrize("logits", [False, True])
def test_the_names_tell(dressed, logits):
    boxes, scores = scene()
    names = [dressed.format(name) for name in NAMES]
    seen = view(boxes, logits_of(scores) if logits else scores, names, beside=("num_detections",))
    match = FAMILY.recognise(seen)
    assert match is not None and match.certain and match.doubt is None and match.num_classes == 91
    assert match.params["order"] == (0, 1) and match.params["normalised"]
    assert match.params["activation"] == ("sigmoid" if logits else "none")
    assert match.holds[2] == "not used" and "ymin, xmin" in match.holds[0]
    found = decode(seen.arrays, AT_300, 0.5, match.params)
    assert found.class_id.tolist() == [1, 17]
    np.testing.assert_allclose(found.xyxy, objects_in(AT_300, "stretch", "center"), atol=1e-3)
    assert FAMILY.recognise(view(boxes, scores, names, tried=False)) is not None


def test_pixels_and_columns_without_a_background_are_told_by_evidence():
    boxes, scores = scene()
    match = FAMILY.recognise(view(boxes * 300, scores))
    assert not match.params["normalised"] and "pixels" in match.reason
    boxes, scores = scene(columns=90, background=False)  # EfficientDet
    match = FAMILY.recognise(view(boxes, scores))
    assert not match.params["background"] and match.params["background_label"] and match.num_classes == 91
    assert decode([boxes, scores], AT_300, 0.5, match.params).class_id.tolist() == [2, 18]


def test_the_apis_own_nms_is_read_where_it_is_there():
    boxes, scores = scene()
    assert FAMILY.recognise(view(boxes, scores, beside=WITH_NMS)) is None
    assert FAMILY.recognise(view(boxes, scores, beside=WITH_NMS[:3])) is not None
    assert FAMILY.recognise(view(boxes, scores, ("boxes", "scores"))) is None
    assert FAMILY.recognise(view(boxes[..., [2, 3, 0, 1]], scores)) is None  # no boxes
    assert FAMILY.recognise(view(boxes, scores, known=80)) is None


@pytest.mark.parametrize(("count", "columns"), [(300, 91), (1917, 91), (1917, 90), (300, 92)])
def test_no_other_family_is_sure_of_them(count, columns):
    """Faster R-CNN has as many boxes as DETR has queries, and they look alike."""
    boxes, scores = scene(columns, columns == 91, count)
    image = TensorInfo("input_tensor", (1, 300, 300, 3), "uint8")
    for answer in ([boxes, scores], [boxes, logits_of(scores)]):
        found = identify([image], infos(answer, NAMES), {}, trial=lambda _, each=answer: each)
        assert found.family.name == "tf-ssd-raw"


@pytest.mark.parametrize("beside", [False, True])
def test_a_file_is_identified_with_no_options(tmp_path, beside):
    """End to end: uint8, channels last; NMS by the project where the file has none, else the file's."""
    boxes, scores = scene()
    answer = {"raw_detection_boxes:0": boxes, "raw_detection_scores:0": scores}
    if beside:
        answer |= {
            "detection_boxes:0": np.full((1, 2, 4), [0.1, 0.2, 0.5, 0.6], np.float32),
            "detection_classes:0": np.array([[3, 1]], np.float32),
            "detection_scores:0": np.array([[0.8, 0]], np.float32),
            "num_detections:0": np.array([1], np.float32),
        }
    path = constant_model(tmp_path / "raw.onnx", answer, shape=(1, 300, 300, 3), dtype=TensorProto.UINT8)
    detector = Detector(str(path))
    assert detector.model.family is DECODERS["tf-ssd" if beside else "tf-ssd-raw"]
    # The constant answer finds neither the person nor the cat under COCO's numbers.
    assert (detector.model.found.doubt is not None) == beside and detector.model.spec.dtype == np.uint8
    found = detector.detect(np.zeros((720, 1280, 3), np.uint8), conf=0.5)
    if beside:
        assert found.class_id.tolist() == [3]
    else:
        np.testing.assert_allclose(found.xyxy, [[711, 146, 1012, 577], [60, 342, 480, 655]], atol=0.5)
        assert [detector.model.labels[kind] for kind in found.class_id] == ["person", "cat"]


def test_outputs_that_are_none_of_these_are_named():
    boxes, scores = sound_outputs()
    for outputs, params in (
        ([boxes, scores, scores], {}),
        ([boxes[:, 1:], scores], {}),
        ([boxes, scores[..., :1]], {}),
        ([boxes, scores], {"order": (0, 2)}),
    ):
        with pytest.raises(ModelError, match=r"tf-ssd-raw: expected raw_detection_boxes .*; got "):
            decode(outputs, HW, 0.3, params)
