"""YOLOv8 against a loop over its formula."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoders import DECODERS
from tests.decoding import HW, assert_same, passing, random


def yolov8_by_loop(output, threshold, multi_label):
    for column in output[0].T.astype(np.float64):
        cx, cy, w, h = column[:4]
        for kind in passing(column[4:], threshold, multi_label):
            yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), column[4 + kind], kind


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("multi_label", [False, True])
def test_yolov8(threshold, multi_label):
    output = random(0, 1, 4 + 5, 126)
    output[0, :4] *= 90
    found = DECODERS["yolov8"].decode([output], HW, threshold, {"multi_label": multi_label})
    assert_same(found, list(yolov8_by_loop(output, threshold, multi_label)))


def sound_outputs():
    output = np.full((1, 7, 126), 0.5, np.float32)
    output[0, :4] = 30
    return [output]


def test_scores_a_little_over_one_become_one():
    outputs = sound_outputs()
    outputs[0][0, 4:] = 1.001
    assert DECODERS["yolov8"].decode(outputs, HW, 0.3, {}).scores.max() == 1


def test_boxes_inside_out_are_dropped():
    outputs = sound_outputs()
    outputs[0][0, 2, :10] = -5
    assert len(DECODERS["yolov8"].decode(outputs, HW, 0.3, {})) == 116
