"""YOLO9000 as it is converted: against a loop over its formula. Against Darknet: test_convert_tree.py."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.decoders.family import View
from pipeline.errors import ModelError, UnknownLayoutError
from tests.decoding import HW, assert_same, image, output, random

FAMILY = DECODERS["yolo9000"]


def sound_outputs():
    table = np.zeros((1, 5, 12), np.float32)
    table[0, :4] = np.array([48, 32, 20, 10], np.float32)[:, None]
    table[0, 4] = np.linspace(0.4, 0.6, 12)
    return [table, np.arange(12)[None] * 800]


def by_loop(table, kinds, threshold):
    for (cx, cy, w, h, score), kind in zip(table[0].T.astype(np.float64).tolist(), kinds[0], strict=True):
        if score > threshold:
            yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), score, int(kind)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_yolo9000(threshold, dtype):
    """A second implementation."""
    table, kinds = random(5, 1, 5, 867), np.random.default_rng(1).integers(0, 9418, (1, 867)).astype(dtype)
    table[0, :4] *= 60
    found = FAMILY.decode([table, kinds], HW, threshold, {})
    assert_same(found, list(by_loop(table, kinds, threshold)))


@pytest.mark.parametrize("kind", [-1, 1 << 40])
def test_what_is_no_number_of_a_class_is_named(kind):
    table, kinds = sound_outputs()
    kinds[0, 3] = kind
    with pytest.raises(ModelError, match=r"yolo9000: expected the numbers of classes; got "):
        FAMILY.decode([table, kinds], HW, 0.3, {})
    table[0, 4, 3] = 0.1
    assert len(FAMILY.decode([table, kinds], HW, 0.3, {})) == 11, (
        "a box that is no candidate may hold anything"
    )


@pytest.mark.parametrize(
    ("table", "kinds"),
    [
        ((1, 6, 12), (1, 12)),
        ((1, 4, 12), (1, 12)),
        ((2, 5, 12), (2, 12)),
        ((1, 12, 5), (1, 12)),
        ((1, 5, 12), (1, 11)),
        ((1, 5, 12), (12, 1)),
        ((1, 5), (5,)),
    ],
)
def test_other_shapes_are_refused(table, kinds):
    outputs = [np.zeros(table, np.float32), np.zeros(kinds, np.int64)]
    with pytest.raises(ModelError, match=r"yolo9000: expected outputs \[1, 5, boxes\] and, .*; got "):
        FAMILY.decode(outputs, HW, 0.3, {})


def test_classes_that_are_no_whole_numbers_are_refused():
    """A float16 has no number for each class beyond 2048."""
    table, kinds = sound_outputs()
    with pytest.raises(ModelError, match=r"yolo9000: expected outputs"):
        FAMILY.decode([table, kinds.astype(np.float32)], HW, 0.3, {})


NAMES = {"names": str([f"c{index}" for index in range(9418)])}
WHOLE = output(1, 867, name="classes", dtype="int64")


@pytest.mark.parametrize("family", ["yolo9000", None])
def test_it_is_identified(family):
    found = identify([image((544, 544))], [output(1, 5, 867), WHOLE], NAMES, family=family)
    assert (found.family.name, found.num_classes) == ("yolo9000", 9418)
    assert (found.input["pad"], found.input["resize"]) == (127, "letterbox")


@pytest.mark.parametrize(
    "outputs",
    [
        [output(1, 6, 867), WHOLE],
        [output(1, 867, 5), WHOLE],
        [output(1, 5, 867), output(1, 866, name="classes", dtype="int64")],
        [output(1, 5, 867), output(1, 867, name="classes")],
        [output(1, 5, 867)],
    ],
)
def test_what_only_resembles_it_is_not_claimed(outputs):
    with pytest.raises(UnknownLayoutError):
        identify([image((544, 544))], outputs, NAMES, family="yolo9000")


def test_numbers_beyond_its_classes_speak_against_it():
    arrays = tuple(sound_outputs())
    outputs = (output(1, 5, 12), output(1, 12, name="classes", dtype="int64"))
    assert FAMILY.recognise(View(outputs, HW, num_classes=8801, arrays=arrays)).num_classes == 8801
    assert FAMILY.recognise(View(outputs, HW, num_classes=8800, arrays=arrays)) is None
    assert FAMILY.recognise(View(outputs, HW, arrays=arrays)) is None
