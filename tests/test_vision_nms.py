"""NMS against the textbook's loop, and by the properties that define it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.vision.boxes import iou_matrix
from pipeline.vision.nms import BLOCK, nms


def textbook(boxes, scores, threshold, classes, limit):
    """Greedy, one pair at a time, in exact arithmetic on whole corners."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        for j in kept:
            if classes is not None and classes[i] != classes[j]:
                continue
            a, b = [int(v) for v in boxes[i]], [int(v) for v in boxes[j]]
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            inter = max(0, width) * max(0, height)
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
            if inter > threshold * union:
                break
        else:
            kept.append(i)
    return kept[:limit]


@st.composite
def cases(draw, most=40):
    """Crowded boxes with whole corners, scores with ties, few classes, thresholds in quarters."""
    count = draw(st.integers(0, most))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, draw(st.integers(1, 60)), (count, 2))
    sizes = rng.integers(0, 30, (count, 2))
    boxes = np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)
    scores = (rng.integers(1, draw(st.sampled_from([3, 1000])), count) / 1000).astype(np.float32)
    classes = rng.integers(0, 3, count).astype(np.int32) if draw(st.booleans()) else None
    return boxes, scores, draw(st.sampled_from([0.0, 0.25, 0.5, 0.75])), classes


@given(cases(), st.integers(0, 50))
def test_nms_is_the_textbook_one(case, limit):
    kept = nms(*case, limit)
    assert kept.dtype == np.int64
    assert kept.tolist() == textbook(*case, limit)


@pytest.mark.parametrize("aware", [True, False])
def test_nms_is_the_textbook_one_over_many_blocks(aware):
    rng = np.random.default_rng(1)
    count = 5 * BLOCK + 3
    corners = rng.integers(0, 300, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(5, 60, (count, 2))], axis=1).astype(np.float32)
    scores = rng.random(count, np.float32)
    classes = rng.integers(0, 4, count).astype(np.int32) if aware else None
    for limit in (10, BLOCK, count):
        expected = textbook(boxes, scores, 0.5, classes, limit)
        assert len(expected) == min(limit, len(expected)) and len(expected) > 9
        assert nms(boxes, scores, 0.5, classes, limit).tolist() == expected


@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_the_boxes_does_not_matter_when_scores_differ(case, random):
    boxes, scores, threshold, classes = case
    scores = np.linspace(0.1, 0.9, len(scores), dtype=np.float32)
    order = list(range(len(scores)))
    random.shuffle(order)
    shuffled = nms(boxes[order], scores[order], threshold, None if classes is None else classes[order], 99)
    assert nms(boxes, scores, threshold, classes, 99).tolist() == [order[i] for i in shuffled]


@given(cases(most=300))
def test_what_is_kept_and_what_is_not(case):
    boxes, scores, threshold, classes = case
    kept = nms(*case, limit=1000)
    same = np.ones((len(boxes), len(boxes)), bool) if classes is None else classes[:, None] == classes
    clash = (iou_matrix(boxes, boxes) > threshold) & same
    among_kept = clash[np.ix_(kept, kept)]
    assert not (among_kept & ~np.eye(len(kept), dtype=bool)).any()
    assert (np.diff(scores[kept]) <= 0).all()
    for removed in set(range(len(boxes))) - set(kept.tolist()):
        assert any(clash[removed, k] and scores[k] >= scores[removed] for k in kept)


def test_equal_scores_keep_the_lower_index():
    box = np.tile(np.array([[0, 0, 10, 10]], np.float32), (5, 1))
    assert nms(box, np.full(5, 0.5, np.float32), 0.5, None, 10).tolist() == [0]


def test_an_overlap_of_exactly_the_threshold_is_kept():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)
    scores = np.array([0.9, 0.8], np.float32)
    assert nms(boxes, scores, 0.5, None, 10).tolist() == [0, 1]
    assert nms(boxes, scores, 0.4999, None, 10).tolist() == [0]


def test_classes_far_apart_in_number_lose_no_precision():
    # Moved apart by class × the largest coordinate, as is often done, 79 × 8192 leaves 1/16 of a
    # pixel to float32: too coarse for these two, which overlap by .504 and .496.
    left = np.float32(8000)
    boxes = np.array(
        [[left, 0, left + 1, 1], [left + 0.33, 0, left + 1.33, 1], [left + 0.337, 0, left + 1.337, 1]],
        np.float32,
    )
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    classes = np.array([79, 79, 79], np.int32)
    expected = nms(boxes - [left, 0, left, 0], scores, 0.5, classes, 10).tolist()
    assert nms(boxes, scores, 0.5, classes, 10).tolist() == expected == [0, 2]


def test_top_k_and_limit():
    boxes = np.array([[20 * i, 0, 20 * i + 10, 10] for i in range(10)], np.float32)
    scores = np.linspace(0.1, 0.9, 10, dtype=np.float32)
    assert nms(boxes, scores, 0.5, None, 100, top_k=3).tolist() == [9, 8, 7]
    assert nms(boxes, scores, 0.5, None, 4).tolist() == [9, 8, 7, 6]
    assert nms(boxes, scores, 0.5, None, 0).tolist() == []


def test_boxes_too_large_for_an_area_are_kept_without_a_warning():
    huge = np.array([[-1e38, -1e38, 1e38, 1e38]] * 2, np.float32)
    assert nms(huge, np.array([0.5, 0.6], np.float32), 0.5, None, 10).tolist() == [1, 0]


def test_lengths_that_differ_are_refused():
    boxes, scores = np.zeros((3, 4), np.float32), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"expected xyxy \[2, 4\] for 2 scores"):
        nms(boxes, scores[:2], 0.5, None, 10)
    with pytest.raises(ValueError, match=r"class_id \(2,\)"):
        nms(boxes, scores, 0.5, np.zeros(2, np.int32), 10)
