"""Labels, boxes and scores as they come: by loop, against transformers, and told from torchvision's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import Detector
from pipeline.decoders import DECODERS, TensorInfo, identify
from pipeline.errors import ModelError, UnknownLayoutError
from tests.decoding import HW, assert_same, image, infos, random

NAMES = ("labels", "boxes", "scores")
SIZES = TensorInfo("orig_target_sizes", (None, 2), "int64")


def sound_outputs():
    boxes = np.array([10, 8, 30, 28], np.float32) + np.arange(12, dtype=np.float32)[:, None]
    return [np.arange(12)[None] % 3, boxes[None], (0.4 + 0.01 * np.arange(12, dtype=np.float32))[None]]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("batched", [False, True])
def test_labels_boxes_and_scores_by_loop(threshold, normalised, order, batched):
    """A second implementation, from the layout's description."""
    numbers, expected, rows = random(3, 30, 6), [], []
    for x, y, w, h, score, kind in numbers.astype(np.float64):
        box = (x * 60, y * 40, x * 60 + w * 30, y * 40 + h * 20)
        rows.append([v / (HW[1], HW[0])[i % 2] for i, v in enumerate(box)] if normalised else box)
        if score > threshold:
            expected.append((box, score, int(kind * 5)))
    outputs = [(numbers[:, 5] * 5).astype(np.int64), np.array(rows, np.float32), numbers[:, 4]]
    outputs = [outputs[i][None] if batched else outputs[i] for i in order]
    assert_same(DECODERS["deim"].decode(outputs, HW, threshold, {"normalised": normalised}), expected)


def test_as_transformers_answers():
    """The authors' own code: transformers 5.23's RT-DETR, written by tests/authors/detr.py; it has no NMS."""
    data = np.load(Path(__file__).parent / "authors" / "deim.npz")
    found = DECODERS["deim"].decode(
        [data["raw_labels"], data["raw_boxes"], data["raw_scores"]],
        tuple(data["hw"]),
        float(data["conf"]),
        {},
    )
    expected = [data[f"expected_{part}"] for part in ("boxes", "scores", "labels")]
    assert_same(found, list(zip(*expected, strict=True)))


def test_a_class_beyond_the_labels_is_an_error():
    with pytest.raises(ModelError, match="deim: expected classes that are whole numbers from 0 to 1; got 2"):
        DECODERS["deim"].decode(sound_outputs(), HW, 0.3, {"classes": 2})


def answers(batched=True, seen=(15, 0), scale=1.0):
    labels, scores = np.zeros(300, np.int64), np.full(300, 0.01, np.float32)
    labels[:2], scores[:2] = seen, (0.8, 0.7)
    boxes = np.tile(np.array([10, 20, 50, 60], np.float32) * np.float32(scale), (300, 1))
    boxes[:2] = np.array([[30, 304, 233, 579], [357, 131, 503, 509]], np.float32) * np.float32(scale)
    return [a[None] if batched else a for a in (labels, boxes, scores)]


def person_alone():
    """With something of number 3 that is not the cat."""
    outputs = answers(seen=(3, 0))
    outputs[1][0, 0] = 500, 400, 600, 500
    return outputs


def read(outputs, names=NAMES, extra=(SIZES,), metadata=None):
    return identify([image(), *extra], infos(outputs, names), metadata or {}, trial=lambda _fed: outputs)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("names", [NAMES, ("a", "b", "c")])
def test_a_model_that_wants_the_pictures_size_is_one(batched, names):
    found = read(answers(batched), names)
    assert (found.family.name, found.num_classes, found.batched) == ("deim", 80, batched)
    assert found.params == {"classes": 80} and not found.family.nms
    assert found.holds == ("class numbers", "boxes, xyxy in input pixels", "scores")
    assert "orig_target_sizes" in found.reasons["family"] and "a person and a cat" in found.reasons["family"]


def test_without_the_size_names_and_batch_axis_tell_it_from_torchvision():
    assert read(answers(), extra=()).family.name == "deim"
    assert read(answers(False), extra=()).family.name == "torchvision"
    with pytest.raises(UnknownLayoutError):
        read(answers(), ("a", "b", "c"), ())


def test_boxes_in_parts_of_the_input_are_seen():
    found = read(answers(scale=1 / 640))
    assert found.params == {"classes": 80, "normalised": True} and "parts of the input" in found.holds[1]


def test_classes_come_from_the_names_else_from_what_the_run_finds():
    names = {"names": "['cat', 'dog']"}
    assert read(answers(seen=(0, 1)), metadata=names).num_classes == 2
    with pytest.raises(UnknownLayoutError, match="whole numbers from 0 to 1; got 15"):
        read(answers(), metadata=names)
    unknown = read(answers(seen=(3, 7)))
    assert unknown.num_classes == 1000 and not unknown.counted
    assert not read(answers(seen=(0, 100))).counted, "no class of COCO's is the hundredth"
    assert read(answers()).doubt is None
    assert "the cat under number 3" in read(answers(seen=(3, 0))).unlike_coco
    assert "a person found under number 0" in read(person_alone()).doubt
    every = person_alone()
    every[0][0, 2:] = np.arange(298) % 80
    assert read(every).doubt is None, "faint answers show that there are 80"
    assert read(person_alone(), metadata={"names": repr(list("abcdefgh"))}).doubt is None


@pytest.mark.parametrize(
    "outputs",
    [
        answers()[:2],
        [*answers(), np.zeros((1, 300), np.float32)],
        [answers()[0].astype(np.float32), *answers()[1:]],
        [answers()[0], answers()[1][..., :3], answers()[2]],
    ],
)
def test_what_is_something_else_is_not_claimed(outputs):
    with pytest.raises(UnknownLayoutError):
        read(outputs, [f"o{i}" for i in range(len(outputs))])


@pytest.mark.assets
def test_real_models_are_known_with_no_options(assets):
    for file, batched in (("deimv2_femto", True), ("deimv2_atto_int8_msh", False)):
        model = Detector(str(assets / "models" / f"{file}.onnx")).model
        assert (model.family.name, model.max_batch, len(model.labels)) == ("deim", None if batched else 1, 80)
