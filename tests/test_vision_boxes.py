"""Box arithmetic against the definition, one pair at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.vision.boxes import clip, cxcywh_to_xyxy, iou_matrix


@st.composite
def whole_boxes(draw, most=8, size=60):
    """Boxes with whole corners: their areas are exact."""
    rows = []
    for _ in range(draw(st.integers(0, most))):
        left, top = draw(st.integers(-5, size)), draw(st.integers(-5, size))
        rows.append([left, top, left + draw(st.integers(0, size)), top + draw(st.integers(0, size))])
    return np.array(rows, np.float32).reshape(-1, 4)


def iou_of(a, b):
    """By counting the pixels of two boxes with whole corners."""
    pixels = [
        {(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))}
        for box in (a, b)
    ]
    union = len(pixels[0] | pixels[1])
    return len(pixels[0] & pixels[1]) / union if union else 0.0


@given(whole_boxes(4, 12), whole_boxes(4, 12))
def test_iou_is_that_of_the_pixels(a, b):
    matrix = iou_matrix(a, b)
    assert matrix.shape == (len(a), len(b)) and matrix.dtype == np.float32
    for i in range(len(a)):
        for j in range(len(b)):
            assert matrix[i, j] == pytest.approx(iou_of(a[i], b[j]), abs=1e-6)


def test_boxes_without_area_overlap_nothing_and_warn_of_nothing():
    point = np.array([[3, 3, 3, 3]], np.float32)
    assert iou_matrix(point, point)[0, 0] == 0


def test_far_from_the_origin_no_precision_is_lost():
    near = np.array([[0, 0, 10, 10], [5, 0, 15, 10]], np.float32)
    assert iou_matrix(near + 100_000, near + 100_000)[0, 1] == pytest.approx(1 / 3, abs=1e-6)


def test_cxcywh_to_xyxy():
    boxes = cxcywh_to_xyxy(np.array([[10, 20, 4, 6], [0, 0, 1, 1]], np.float32))
    assert boxes.dtype == np.float32
    assert boxes.tolist() == [[8, 17, 12, 23], [-0.5, -0.5, 0.5, 0.5]]


def test_clip_is_in_place_and_knows_height_from_width():
    boxes = np.array([[-5, -5, 500, 500], [10, 20, 30, 40]], np.float32)
    assert clip(boxes, height=100, width=200) is boxes
    assert boxes.tolist() == [[0, 0, 200, 100], [10, 20, 30, 40]]
