"""YOLOX against a loop over its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.decoders import DECODERS
from tests.decoding import HW, assert_same, cells, passing, random


def yolox_by_loop(output, threshold, multi_label, decoded, strides):
    for row, (x, y, stride) in zip(output[0].astype(np.float64), cells(HW, strides), strict=True):
        cx, cy, w, h = row[:4]
        if not decoded:
            cx, cy, w, h = (cx + x) * stride, (cy + y) * stride, math.exp(w) * stride, math.exp(h) * stride
        scores = row[4] * row[5:]
        for kind in passing(scores, threshold, multi_label):
            yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), scores[kind], kind


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("decoded", [False, True])
@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64)])
def test_yolox(threshold, multi_label, decoded, strides):
    output = random(1, 1, len(cells(HW, strides)), 5 + 4)
    output[0, :, :4] = output[0, :, :4] * 4 - 1 if not decoded else output[0, :, :4] * 90
    params = {"multi_label": multi_label, "decoded": decoded}
    found = DECODERS["yolox"].decode([output], HW, threshold, params)
    assert_same(found, list(yolox_by_loop(output, threshold, multi_label, decoded, strides)))


def sound_outputs():
    return [np.full((1, 126, 8), 0.75, np.float32)]
