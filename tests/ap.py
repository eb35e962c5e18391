"""AP of a detector on the labelled pictures of the assets, as pycocotools computes it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Detect = Callable[[NDArray[np.uint8]], tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
"""A BGR picture to xyxy [N, 4] in its pixels, scores [N] and class indices [N] in COCO's 80."""


def coco_ap(detect: Detect, assets: Path) -> dict[str, float]:
    """Run ``detect`` over coco-val128. Returns "AP", "AP50" and "AP person", each in 0..1.

    All 128 pictures count, those without a detection too; top 100 of each. The indices 0..79 of a
    model are COCO's category ids (1..90 with gaps) in rising order.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder = assets / "coco-val128"
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "instances.json"))
        categories = sorted(truth.getCatIds())
        assert len(categories) == 80
        found = []
        for image_id, entry in sorted(truth.imgs.items()):
            image = cv2.imread(str(folder / "images" / entry["file_name"]))
            assert image is not None and image.shape[:2] == (entry["height"], entry["width"])
            boxes, scores, classes = detect(image)
            for (left, top, right, bottom), score, class_id in zip(
                boxes.tolist(), scores.tolist(), classes.tolist(), strict=True
            ):
                box_xywh = [left, top, right - left, bottom - top]
                found.append(
                    {
                        "image_id": image_id,
                        "category_id": categories[class_id],
                        "bbox": box_xywh,
                        "score": score,
                    }
                )
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.params.imgIds = sorted(truth.imgs)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # precision: [IoU threshold, recall, category, area range, max detections]; -1 where nothing to find.
    person = evaluation.eval["precision"][:, :, categories.index(1), 0, -1]
    return {
        "AP": float(evaluation.stats[0]),
        "AP50": float(evaluation.stats[1]),
        "AP person": float(person[person > -1].mean()),
    }
