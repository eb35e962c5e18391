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
    table = np.zeros((1, 6, 12), np.float32)
    table[0, :4] = np.array([48, 32, 20, 10], np.float32)[:, None]
    table[0, 4] = np.linspace(0.4, 0.6, 12)
    table[0, 5] = np.arange(12) * 7
    return [table]


def by_loop(table, threshold):
    for cx, cy, w, h, score, kind in table[0].T.astype(np.float64).tolist():
        if score > threshold:
            yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), score, int(kind)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6])
def test_yolo9000(threshold):
    """A second implementation."""
    table = random(5, 1, 6, 867)
    table[0, :4] *= 60
    table[0, 5] = np.random.default_rng(1).integers(0, 9418, 867)
    assert_same(FAMILY.decode([table], HW, threshold, {}), list(by_loop(table, threshold)))


@pytest.mark.parametrize("kind", [0.5, -1.0, 2.0**25])
def test_what_is_no_number_of_a_class_is_named(kind):
    (table,) = sound_outputs()
    table[0, 5, 3] = kind
    with pytest.raises(ModelError, match=r"yolo9000: expected the number of a class in row 5; got values"):
        FAMILY.decode([table], HW, 0.3, {})
    table[0, 4, 3] = 0.1
    assert len(FAMILY.decode([table], HW, 0.3, {})) == 11, "a box that is no candidate may hold anything"


@pytest.mark.parametrize("shape", [(1, 5, 12), (1, 7, 12), (2, 6, 12), (1, 12, 6), (1, 6)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ModelError, match=r"yolo9000: expected one output \[1, 6, boxes\]; got "):
        FAMILY.decode([np.zeros(shape, np.float32)], HW, 0.3, {})


def test_it_is_what_a_card_or_the_metadata_say():
    names = {"names": str([f"c{index}" for index in range(9418)])}
    found = identify([image((544, 544))], [output(1, 6, 867)], names, family="yolo9000")
    assert (found.family.name, found.num_classes) == ("yolo9000", 9418)
    assert (found.input["pad"], found.input["resize"]) == (127, "letterbox")


def test_what_only_resembles_it_is_not_claimed():
    """Without a card [1, 6, boxes] is YOLOv8's for two classes; with one, numbers are of its classes."""
    assert FAMILY.recognise(View((output(1, 6, 8400),), (640, 640), num_classes=2)) is None
    for shape in ((1, 7, 867), (1, 867, 6)):
        with pytest.raises(UnknownLayoutError):
            identify([image((544, 544))], [output(*shape)], {"names": "['a', 'b']"}, family="yolo9000")
    (table,) = sound_outputs()
    view = View((output(1, 6, 12),), HW, num_classes=78, arrays=(table,), stated=True)
    assert FAMILY.recognise(view).num_classes == 78
    fewer = View((output(1, 6, 12),), HW, num_classes=77, arrays=(table,), stated=True)
    assert FAMILY.recognise(fewer) is None
