"""Rotated boxes: corners there and back, ProbIoU against its definition, and the NMS that goes by it."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.vision.rotated import corners, from_corners, prob_iou, rotated_nms


def boxes(seed, count, spread=40.0):
    generator = np.random.default_rng(seed)
    rotated = generator.random((count, 5)) * [spread, spread, 30, 20, 3] + [0, 0, 2, 2, -0.8]
    return rotated.astype(np.float32)


def test_corners_are_those_that_opencv_has():
    for box, polygon in zip(boxes(1, 20), corners(boxes(1, 20)), strict=True):
        cx, cy, w, h, angle = box.tolist()
        theirs = cv2.boxPoints(((cx, cy), (w, h), math.degrees(angle)))
        apart = np.abs(polygon[:, None] - theirs[None]).max(axis=2)
        assert sorted(apart.argmin(axis=1)) == [0, 1, 2, 3] and apart.min(axis=1).max() < 1e-3


def test_corners_begin_at_the_top_left_and_go_clockwise():
    (polygon,) = corners(np.array([[10, 20, 8, 4, 0]], np.float32))
    assert polygon.tolist() == [[6, 18], [14, 18], [14, 22], [6, 22]]
    (turned,) = corners(np.array([[10, 20, 8, 4, math.pi / 2]], np.float32))
    np.testing.assert_allclose(turned, [[12, 16], [12, 24], [8, 24], [8, 16]], atol=1e-5)


@given(st.integers(0, 10**6))
def test_boxes_come_back_from_their_corners(seed):
    rotated = boxes(seed, 5)
    np.testing.assert_allclose(from_corners(corners(rotated)), rotated, atol=1e-3)
    assert from_corners(corners(rotated)).dtype == corners(rotated).dtype == np.float32


def by_definition(a, b):
    """ProbIoU from the Bhattacharyya distance of two Gaussians, with matrices."""
    means, covariances = [], []
    for cx, cy, w, h, angle in (a.astype(np.float64), b.astype(np.float64)):
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        means.append(np.array([cx, cy]))
        covariances.append(turn @ np.diag([w * w / 12, h * h / 12]) @ turn.T)
    middle, apart = (covariances[0] + covariances[1]) / 2, means[0] - means[1]
    determinants = [np.linalg.det(matrix) for matrix in (middle, *covariances)]
    distance = apart @ np.linalg.inv(middle) @ apart / 8
    distance += 0.5 * math.log(determinants[0] / math.sqrt(determinants[1] * determinants[2]))
    return 1 - math.sqrt(1 - math.exp(-max(distance, 0.0)))


def test_prob_iou_is_what_the_paper_defines():
    """A second implementation, from the paper, with matrices."""
    a, b = boxes(2, 12), boxes(3, 9)
    expected = [[by_definition(first, second) for second in b] for first in a]
    np.testing.assert_allclose(prob_iou(a, b), expected, atol=1e-6)
    # The square root makes much of a distance of 1e-15 between a box and itself.
    np.testing.assert_allclose(np.diag(prob_iou(a, a)), 1, atol=1e-6)


def test_a_turn_by_half_a_circle_or_of_a_square_changes_nothing():
    a, b = boxes(4, 6), boxes(5, 6)
    turned = a + np.array([0, 0, 0, 0, math.pi], np.float32)
    np.testing.assert_allclose(prob_iou(turned, b), prob_iou(a, b), atol=1e-5)
    exchanged = a[:, [0, 1, 3, 2, 4]] + np.array([0, 0, 0, 0, math.pi / 2], np.float32)
    np.testing.assert_allclose(prob_iou(exchanged, b), prob_iou(a, b), atol=1e-5)


@pytest.mark.parametrize("box", [[10, 10, 0, 5, 0], [10, 10, 0, 0, 0], [1e30, 0, 1e30, 1e30, 1]])
def test_boxes_without_area_and_huge_ones_agree_with_none(box):
    odd = np.array([box], np.float32)
    agreement = prob_iou(odd, boxes(6, 4))
    assert np.isfinite(agreement).all() and (agreement >= 0).all() and agreement.max() < 1e-3


def fast_nms_by_loop(rotated, scores, threshold, class_id):
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    agreement = prob_iou(rotated, rotated)
    return [
        i
        for place, i in enumerate(order)
        if not any(
            agreement[i, j] > threshold and (class_id is None or class_id[i] == class_id[j])
            for j in order[:place]
        )
    ]


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 60, 400])
def test_nms_against_a_loop(count, aware):
    """A second implementation; 400 boxes are several blocks."""
    generator = np.random.default_rng(count)
    rotated, scores = boxes(7, count, 150.0), generator.random(count, np.float32).round(2)
    class_id = generator.integers(0, 3, count).astype(np.int32) if aware else None
    expected = fast_nms_by_loop(rotated, scores, 0.4, class_id)
    assert rotated_nms(rotated, scores, 0.4, class_id, 1000).tolist() == expected
    assert rotated_nms(rotated, scores, 0.4, class_id, 7).tolist() == expected[:7]
    top = sorted(range(count), key=lambda i: (-scores[i], i))[:50]
    looked_at = rotated_nms(rotated, scores, 0.4, class_id, 1000, top_k=50).tolist()
    assert looked_at == [i for i in expected if i in top]
    assert count < 60 or len(expected) < count


def test_a_box_that_goes_takes_others_with_it():
    """What tells Fast NMS from the greedy one."""
    rotated = np.array([[0, 0, 20, 10, 0], [6, 0, 20, 10, 0], [12, 0, 20, 10, 0]], np.float32)
    agreement = prob_iou(rotated, rotated)
    threshold = (agreement[0, 1] + agreement[0, 2]) / 2
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert rotated_nms(rotated, scores, threshold, None, 10).tolist() == [0]


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"expected rotated \[3, 5\] for 3 scores; got rotated \(2, 5\)"):
        rotated_nms(boxes(1, 2), np.zeros(3, np.float32), 0.5, None, 10)
    with pytest.raises(ValueError, match=r"and class_id \(1,\)"):
        rotated_nms(boxes(1, 2), np.zeros(2, np.float32), 0.5, np.zeros(1, np.int32), 10)
