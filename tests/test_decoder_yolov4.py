"""pytorch-YOLOv4's two outputs against a loop. No package of its author installs: a second implementation."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.errors import ModelError, UnknownLayoutError
from tests.decoding import HW, assert_same, image, output, passing, random
from tests.heads import view

DECODE = DECODERS["yolov4"].decode
ROWS = 3 * 126


def sound_outputs():
    boxes = np.tile(np.array([0.3, 0.25, 0.7, 0.75], np.float32), (1, ROWS, 1, 1))
    return [boxes, np.full((1, ROWS, 3), 0.5, np.float32)]


def outputs_of(seed, classes=4):
    center, half = random(seed, 1, ROWS, 1, 2), random(seed + 1, 1, ROWS, 1, 2) / 4
    return [np.concatenate([center - half, center + half], axis=3), random(seed + 2, 1, ROWS, classes) ** 2]


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("multi_label", [False, True])
def test_against_a_loop_over_the_formula(threshold, multi_label):
    """A second implementation, from the description of the layout."""
    boxes, confs = outputs_of(1)
    expected = []
    for (x0, y0, x1, y1), scores in zip(boxes[0, :, 0].tolist(), confs[0].astype(np.float64), strict=True):
        box = (x0 * HW[1], y0 * HW[0], x1 * HW[1], y1 * HW[0])
        expected += [(box, scores[kind], kind) for kind in passing(scores, threshold, multi_label)]
    for given in ([boxes, confs], [confs, boxes]):
        assert_same(DECODE(given, HW, threshold, {"multi_label": multi_label}), expected)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_axis_of_one_tells_it(swapped):
    outputs = [output(1, 10647, 1, 4, name="boxes"), output(1, 10647, 80, name="confs")]
    found = identify([image((416, 416))], outputs[::-1] if swapped else outputs, {})
    assert (found.family.name, found.num_classes) == ("yolov4", 80)
    assert found.holds[1 if swapped else 0] == "boxes, xyxy in parts of the input"
    match = DECODERS["yolov4"].recognise(view(outputs_of(5)))
    assert match.certain and "parts of the input" in match.reason and match.num_classes == 4


@pytest.mark.parametrize(
    ("boxes", "confs"),
    [
        ((1, 10647, 1, 4), (1, 10646, 80)),
        ((1, 10648, 1, 4), (1, 10648, 80)),
        ((1, 10647, 2, 4), (1, 10647, 80)),
        ((1, 10647, 4), (1, 10647, 80)),
    ],
)
def test_what_only_resembles_it_is_not_taken_for_it(boxes, confs):
    with pytest.raises(UnknownLayoutError):
        identify([image((416, 416))], [output(*boxes), output(*confs)], {}, family="yolov4")


@pytest.mark.parametrize("spoil", ["pixels", "logits", "nan"])
def test_what_answers_otherwise_is_none(spoil):
    boxes, confs = outputs_of(7)
    if spoil == "pixels":
        boxes = boxes * 64
    elif spoil == "logits":
        confs = confs - 3
    else:
        boxes[0, 5, 0, 2] = np.nan
    assert DECODERS["yolov4"].recognise(view([boxes, confs])) is None


@pytest.mark.parametrize(
    "shapes", [[(1, 9, 1, 4), (1, 8, 3)], [(1, 9, 1, 5), (1, 9, 3)], [(1, 9, 1, 4), (1, 9, 0)]]
)
def test_malformed_outputs_are_named(shapes):
    outputs = [np.zeros(shape, np.float32) for shape in shapes]
    with pytest.raises(ModelError, match=r"yolov4: expected .*; got "):
        DECODE(outputs, HW, 0.3, {})
