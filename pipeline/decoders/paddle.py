"""PaddleDetection exports with their own NMS: PP-YOLOE, PP-YOLO, PicoDet and their kin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.background import CLASSES, COCO_NUMBERS, numbered, whose_numbers
from pipeline.decoders.candidates import Candidates, malformed
from pipeline.decoders.family import Family, InputDefaults, Match, View

_EXPECTED = "detections [N, 6] (class, score, x0, y0, x1, y1) and their number [1] (an integer)"

IMAGENET = InputDefaults("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "stretch", "center", 0)
"""PP-YOLO, PP-YOLOE and PicoDet: plain resize, ImageNet's mean and deviation."""
UNIT = InputDefaults("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "stretch", "center", 0)
"""PP-YOLOE+: 0..1 (``ppyoloe_plus_reader.yml``)."""


def decode(
    outputs: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],  # noqa: ARG001
    conf_threshold: float,
    params: Mapping[str, Any],
) -> Candidates:
    """Take detections [N, 6]: class, score, x0, y0, x1, y1, of which the first ``count`` [1] are meant.

    Boxes are in pixels of the picture before it was scaled by ``scale_factor``, which is 1 here:
    of the input. Class -1 says that there is nothing (``ppdet/modeling/layers.py``,
    ``MultiClassNMS`` and ``MatrixNMS``; ``ppdet/modeling/post_process.py``). ``params``:
    ``classes``. Raises ModelError for other shapes, and for a class beyond ``classes``.
    """
    found = [o for o in outputs if o.ndim in (2, 3) and o.shape[-1] == 6 and o.shape[:-2] in ((), (1,))]
    counts = [o for o in outputs if o.size == 1 and o.ndim <= 1 and np.issubdtype(o.dtype, np.integer)]
    if len(outputs) != 2 or len(found) != 1 or len(counts) != 1:
        raise malformed("paddle", _EXPECTED, outputs)
    rows = found[0].reshape(-1, 6)
    count = int(counts[0].reshape(-1)[0])
    if not np.issubdtype(rows.dtype, np.floating) or not 0 <= count <= len(rows):
        raise malformed("paddle", f"{_EXPECTED}, no more than N", outputs)
    rows = rows[:count]
    rows = rows[(rows[:, 1] > conf_threshold) & (rows[:, 0] != -1) & np.isfinite(rows[:, 0])]
    class_id = numbered(rows[:, 0].astype(np.float64), params.get("classes"), "paddle")
    return Candidates.checked(rows[:, 2:], rows[:, 1], class_id)


def recognise(view: View) -> Match | None:
    """Detections [N, 6] without a batch axis, and an integer that counts them."""
    if len(view.outputs) != 2:
        return None
    detections = next((i for i in (0, 1) if len(view.shapes[i]) == 2 and view.shapes[i][1] == 6), None)
    if detections is None or len(view.shapes[1 - detections]) != 1:
        return None
    if not view.outputs[1 - detections].dtype.startswith("int"):
        return None
    labels = scores = None
    if view.tried:
        rows, count = view.arrays[detections], view.arrays[1 - detections]
        if rows.ndim != 2 or count.size != 1 or int(count.reshape(-1)[0]) > len(rows):
            return None
        labels, scores = rows[:, 0], rows[:, 1]
        sound = np.isfinite(rows[:, :2]).all() and (labels == np.floor(labels)).all()
        if not sound or labels.min(initial=0) < -1 or scores.max(initial=0) > 1.05:
            return None
    numbers = whose_numbers(view.num_classes, labels, scores, coco=COCO_NUMBERS)
    holds = ["how many detections there are"] * 2
    holds[detections] = "class, score, x0, y0, x1, y1 of each, after NMS"
    return Match(
        numbers.count,
        {"classes": numbers.count},
        f"{view.outputs[detections]} and {view.outputs[1 - detections]} = detections and their number; "
        f"{numbers.why}",
        certain=True,
        holds=tuple(holds),
        batched=False,
        numbers=numbers,
    )


def _family(name: str, fed: InputDefaults, whose: str) -> Family:
    return Family(
        name=name,
        layout=f"[N, 6] = class, score, x0, y0, x1, y1, and their number [1], fed as {whose}",
        decode=decode,
        recognise=recognise,
        class_aware=True,
        input=fed,
        input_hw=(640, 640),
        conf_threshold=0.50,
        iou_threshold=0.70,
        params={"classes": CLASSES},
        nms=False,
    )


FAMILY = _family("paddle", IMAGENET, "PP-YOLOE, PP-YOLO and PicoDet are (ImageNet's mean)")
PLUS = _family("paddle-plus", UNIT, "PP-YOLOE+ is (0..1)")
