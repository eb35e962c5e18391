"""Torchvision's whole detectors: what is passed on, what is left out, and what is not theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.decoders import TensorInfo
from pipeline.decoders.family import View
from pipeline.decoders.torchvision import FAMILY, decode, recognise
from pipeline.detector import Detector
from pipeline.errors import ModelError
from tests.constant_models import constant_model
from tests.decoding import HW, assert_same

NAMES = ("boxes", "labels", "scores")
SHAPES = ((None, 4), (None,), (None,))
DTYPES = ("float32", "int64", "float32")


def sound_outputs():
    boxes = np.array([[10, 10, 40, 30], [20, 20, 60, 50], [30, 5, 80, 60]], np.float32)
    return [boxes, np.array([1, 17, 90]), np.array([0.6, 0.5, 0.4], np.float32)]


def declared(order=(0, 1, 2), names=NAMES):
    return tuple(TensorInfo(names[i], SHAPES[i], DTYPES[i]) for i in order)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0)])
@pytest.mark.parametrize("background_label", [True, False])
def test_boxes_are_passed_on_in_any_order_of_outputs(order, background_label):
    """Against a loop over the contract: label 0 is the background, a score must exceed the threshold."""
    rng = np.random.default_rng(1)
    xy, size = rng.uniform(0, 40, (30, 2)), rng.uniform(1, 20, (30, 2))
    boxes = np.concatenate([xy, xy + size], axis=1).astype(np.float32)
    labels, scores = rng.integers(0, 5, 30), rng.random(30, np.float32)
    scores[4] = 0.3
    outputs = [(boxes, labels, scores)[i] for i in order]
    found = decode(outputs, HW, 0.3, {"background_label": background_label, "classes": 5})
    expected = [
        (box, score, label if background_label else label - 1)
        for box, label, score in zip(boxes, labels, scores, strict=True)
        if label != 0 and score > np.float32(0.3)
    ]
    assert_same(found, expected)
    assert FAMILY.nms is False


def test_a_class_that_has_no_label_is_named():
    boxes, labels, scores = sound_outputs()
    with pytest.raises(ModelError, match="whole numbers from 0 to 89; got 90"):
        decode([boxes, labels, scores], HW, 0.3, {"classes": 90})
    assert len(decode([boxes, labels, scores], HW, 0.45, {"classes": 90})) == 2


@pytest.mark.parametrize(
    "outputs",
    [
        sound_outputs()[:2],
        [sound_outputs()[0], sound_outputs()[1].astype(np.float32), sound_outputs()[2]],
        [sound_outputs()[0][:2], *sound_outputs()[1:]],
        [sound_outputs()[0][:, :3], *sound_outputs()[1:]],
    ],
)
def test_other_outputs_are_refused(outputs):
    with pytest.raises(ModelError, match=r"torchvision: expected boxes .*; got "):
        decode(outputs, HW, 0.3, {})


@pytest.mark.parametrize(
    ("labels", "known", "classes", "background", "words"),
    [
        ([1, 3], None, 91, True, "found a person under"),
        ([17, 1], None, 91, True, "a person and a cat"),
        ([2, 3], None, 1000, True, "nothing names"),
        ([1, 2], 2, 2, False, "2 classes"),
        ([1, 2], 91, 91, True, "91 classes"),
    ],
)
def test_whose_class_numbers_they_are_is_told_by_the_trial_run(labels, known, classes, background, words):
    arrays = (sound_outputs()[0][:2], np.array(labels), np.array([0.9, 0.8], np.float32))
    match = recognise(View(declared(), HW, known, arrays=arrays))
    assert match is not None and match.num_classes == classes and words in match.reason
    assert match.params == {"classes": classes, "background_label": background}
    assert match.certain and match.batched is False and match.holds[1] == "labels from 1"


def test_outputs_of_others_are_not_claimed():
    assert recognise(View(declared(), HW)) is not None
    # DETR's kin wants the picture's size, and may lack the batch axis, too.
    assert recognise(View(declared(), HW, extra_inputs=("orig_target_sizes",))) is None
    masks = TensorInfo("masks", (None, 1, 28, 28), "float32")
    assert recognise(View((*declared(), masks), HW)) is None
    batched = tuple(TensorInfo(n, (1, 300, *s[1:]), d) for n, s, d in zip(NAMES, SHAPES, DTYPES, strict=True))
    assert recognise(View(batched, HW)) is None
    floats = tuple(TensorInfo(n, s, "float32") for n, s in zip(NAMES, SHAPES, strict=True))
    assert recognise(View(floats, HW)) is None
    strange = tuple(TensorInfo(n, s, "seq(tensor(float))") for n, s in zip(NAMES, SHAPES, strict=True))
    assert recognise(View(strange, HW)) is None


def test_a_file_is_identified_with_no_options(tmp_path):
    """End to end: names as an export without names has them, and the order of SSD and RetinaNet."""
    boxes, labels, scores = sound_outputs()
    answer = {"2107": boxes, "2108": scores, "2109": labels}
    open_sizes = {"2107": ("n", 4), "2108": ("n",), "2109": ("n",)}
    path = constant_model(tmp_path / "ssd.onnx", answer, declared=open_sizes)
    with_model = Detector(str(path))
    assert with_model.model.family.name == "torchvision" and with_model.model.max_batch == 1
    found = with_model.detect(np.zeros((*HW, 3), np.uint8), conf=0.45)
    np.testing.assert_allclose(found.xyxy, boxes[:2], atol=1e-4)
    assert found.class_id.tolist() == [1, 17]


def test_the_labels_are_cocos_with_its_gaps():
    root = Path(__file__).parent.parent / "models" / "labels"
    ids = (root / "coco91.txt").read_text(encoding="utf-8").splitlines()
    contiguous = (root / "coco80.txt").read_text(encoding="utf-8").split("\n")
    assert len(ids) == 91 and ids[0] == "__background__"
    assert (ids[1], ids[17], ids[44], ids[90]) == ("person", "cat", "bottle", "toothbrush")
    unused = {index for index, label in enumerate(ids) if label == "N/A"}
    assert unused == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert [label for label in ids[1:] if label != "N/A"] == [label for label in contiguous if label]
