"""Arithmetic on arrays of boxes. Every array is [N, 4]; the suffix of its name says of what.

``_xyxy``: left, top, right, bottom. ``_cxcywh``: centre x, centre y, width, height. An area is
(right - left) × (bottom - top), without the +1 of old Pascal VOC code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]


def cxcywh_to_xyxy(boxes_cxcywh: Boxes) -> Boxes:
    """Return float32 [N, 4] xyxy for boxes [N, 4] given by centre and size, in the same units."""
    boxes_xyxy = np.empty(boxes_cxcywh.shape, np.float32)
    half_sizes = boxes_cxcywh[:, 2:] * np.float32(0.5)
    np.subtract(boxes_cxcywh[:, :2], half_sizes, out=boxes_xyxy[:, :2])
    np.add(boxes_cxcywh[:, :2], half_sizes, out=boxes_xyxy[:, 2:])
    return boxes_xyxy


def clip(boxes_xyxy: Boxes, height: int, width: int) -> Boxes:
    """Move every edge into 0..width and 0..height, in place; returns the same array."""
    np.minimum(boxes_xyxy, np.array([width, height, width, height], np.float32), out=boxes_xyxy)
    return np.maximum(boxes_xyxy, 0, out=boxes_xyxy)


def iou_matrix(a_xyxy: Boxes, b_xyxy: Boxes) -> NDArray[np.float32]:
    """Intersection over union of every box of ``a`` with every box of ``b``: float32 [A, B] in 0..1.

    Two boxes without any area between them have an IoU of 0. In float32 throughout; sides are
    differences, so large coordinates lose no more than they had lost already.
    """
    a_left, a_top, a_right, a_bottom = (a_xyxy[:, column, None] for column in range(4))
    b_left, b_top, b_right, b_bottom = np.ascontiguousarray(b_xyxy.T)

    intersection = np.minimum(a_right, b_right)
    intersection -= np.maximum(a_left, b_left)
    np.maximum(intersection, 0, out=intersection)
    heights = np.minimum(a_bottom, b_bottom)
    heights -= np.maximum(a_top, b_top)
    np.maximum(heights, 0, out=heights)
    intersection *= heights

    a_areas = (a_right - a_left) * (a_bottom - a_top)
    b_areas = (b_right - b_left) * (b_bottom - b_top)
    union = np.add(a_areas, b_areas, out=heights)
    union -= intersection
    ious: NDArray[np.float32] = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    return ious
