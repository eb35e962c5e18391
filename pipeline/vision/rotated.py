"""Rotated boxes: their corners, how much two of them agree, and the NMS that goes by it.

A rotated box is centre x, centre y, width, height and the angle of the width in radians, clockwise
as the picture is seen (the y axis points down).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.vision.nms import BLOCK

Rotated = NDArray[np.float32]
_SIGNS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], np.float32)


def corners(rotated: Rotated) -> NDArray[np.float32]:
    """Return the four corners of rotated boxes [N, 5] in order, float32 [N, 4, 2]."""
    cosine, sine = np.cos(rotated[:, 4]), np.sin(rotated[:, 4])
    width_axis = rotated[:, 2:3] * np.stack([cosine, sine], axis=1)
    height_axis = rotated[:, 3:4] * np.stack([-sine, cosine], axis=1)
    axes = np.stack([width_axis, height_axis], axis=1)
    return np.asarray(rotated[:, None, :2] + _SIGNS @ axes, np.float32)


def from_corners(polygons: NDArray[np.float32]) -> Rotated:
    """Return rotated boxes float32 [N, 5] of corners [N, 4, 2] as ``corners`` orders them.

    Of a parallelogram: its centre, the lengths of its sides, and the angle of the first.
    """
    width_axis, height_axis = polygons[:, 1] - polygons[:, 0], polygons[:, 3] - polygons[:, 0]
    rotated = np.empty((len(polygons), 5), np.float32)
    rotated[:, :2] = polygons.mean(axis=1)
    rotated[:, 2] = np.hypot(width_axis[:, 0], width_axis[:, 1])
    rotated[:, 3] = np.hypot(height_axis[:, 0], height_axis[:, 1])
    rotated[:, 4] = np.arctan2(width_axis[:, 1], width_axis[:, 0])
    return rotated


def prob_iou(a: Rotated, b: Rotated) -> NDArray[np.float64]:
    """Agreement of every box of ``a`` with every box of ``b``, float64 [A, B] in 0..1.

    ProbIoU (Llerena et al. 2021, "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union
    for Object Detection"): each box becomes the Gaussian of its centre and of the covariance that
    a uniform density over it has, w²/12 and h²/12 turned by its angle; with the Bhattacharyya
    distance B of two of them it is 1 - sqrt(1 - exp(-B)). Ultralytics' rotated NMS goes by it
    (``utils/metrics.py``, ``batch_probiou``). A box without area agrees with none.
    """
    a_x, a_y, a_xx, a_yy, a_xy, a_det = (part[:, None] for part in _gaussian(a))
    b_x, b_y, b_xx, b_yy, b_xy, b_det = _gaussian(b)
    xx, yy, xy = a_xx + b_xx, a_yy + b_yy, a_xy + b_xy
    dx, dy = a_x - b_x, a_y - b_y
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        determinant = xx * yy - xy * xy
        distance = (xx * dy * dy + yy * dx * dx - 2 * xy * dx * dy) / (4 * determinant)
        distance += 0.5 * np.log(determinant / (4 * np.sqrt(a_det * b_det)))
        agreement = 1 - np.sqrt(-np.expm1(-np.maximum(distance, 0)))
    return np.asarray(np.nan_to_num(agreement, nan=0.0))


def _gaussian(rotated: Rotated) -> list[NDArray[np.float64]]:
    """Centre, covariance (xx, yy, xy) and its determinant, [N] each."""
    x, y, width, height, angle = rotated.astype(np.float64).T
    along, across = width * width / 12, height * height / 12
    cosine, sine = np.cos(angle), np.sin(angle)
    xx = along * cosine**2 + across * sine**2
    yy = along * sine**2 + across * cosine**2
    return [x, y, xx, yy, (along - across) * cosine * sine, along * across]


def rotated_nms(
    rotated: Rotated,
    scores: NDArray[np.float32],
    iou_threshold: float,
    class_id: NDArray[np.int32] | None,
    limit: int,
    top_k: int = 30_000,
) -> NDArray[np.int64]:
    """Return the indices of the rotated boxes kept, int64 [K ≤ limit], by falling score.

    As the authors' own (``ultralytics/utils/nms.py``, ``TorchNMS.fast_nms`` with
    ``batch_probiou``) it is Fast NMS (Bolya et al. 2019, YOLACT, section 4.4): a box goes when one
    with a higher score agrees with it by more than ``iou_threshold``, even one that goes itself, so
    it keeps fewer than the greedy way. With ``class_id`` only boxes of one class count. Of equal
    scores the lower index comes first; the ``top_k`` highest scores are looked at, in blocks, until
    ``limit`` are kept. Raises ValueError when the lengths differ.
    """
    count = len(scores)
    if rotated.shape != (count, 5) or (class_id is not None and class_id.shape != (count,)):
        classes = "" if class_id is None else f" and class_id {class_id.shape}"
        raise ValueError(
            f"expected rotated [{count}, 5] for {count} scores; got rotated {rotated.shape}{classes}"
        )
    order = np.argsort(-scores, kind="stable")[:top_k]
    kept = order[:0]
    for start in range(0, len(order), BLOCK):
        if len(kept) >= limit:
            break
        block, higher = order[start : start + BLOCK], order[: start + BLOCK]
        pairs = prob_iou(rotated[block], rotated[higher]) > iou_threshold
        if class_id is not None:
            pairs &= class_id[block][:, None] == class_id[higher]
        # Row i is the box at place start + i: only those before it have a higher score.
        kept = np.concatenate([kept, block[~np.tril(pairs, start - 1).any(axis=1)]])
    return kept[:limit]
