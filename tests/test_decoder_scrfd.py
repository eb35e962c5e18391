"""SCRFD: against a loop over its formula, and against InsightFace's own code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.decoders.family import View
from pipeline.errors import ModelError
from pipeline.vision.nms import nms
from tests.decoding import HW, assert_same, cells, image, infos, output, random

FAMILY = DECODERS["scrfd"]
NPZ = Path(__file__).parent / "authors" / "scrfd.npz"
ROWS = (192, 48, 12)


def sound_outputs():
    scores = [np.full((1, rows, 1), 0.5, np.float32) for rows in ROWS]
    boxes = [np.tile(np.array([-0.1, -0.1, 0.9, 0.8], np.float32), (1, rows, 1)) for rows in ROWS]
    points = [np.full((1, rows, 10), 0.5, np.float32) for rows in ROWS]
    return [*scores, *boxes, *points]


def heads(seed):
    outputs = [random(seed + index, *o.shape) for index, o in enumerate(sound_outputs())]
    return [o if index < 3 else o * 3 for index, o in enumerate(outputs)]


def by_loop(outputs, threshold):
    corners = [cell for cell in cells(HW, (8, 16, 32)) for _ in range(2)]
    scores, boxes, points = (np.concatenate(outputs[i : i + 3], axis=1)[0].tolist() for i in (0, 3, 6))
    for (x, y, stride), (score,), (left, top, right, bottom), marks in zip(
        corners, scores, boxes, points, strict=True
    ):
        if score > threshold:
            box = tuple(stride * v for v in (x - left, y - top, x + right, y + bottom))
            yield (
                box,
                score,
                0,
                [(stride * (x + a), stride * (y + b)) for a, b in zip(marks[::2], marks[1::2], strict=True)],
            )


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8])
def test_scrfd(threshold):
    """A second implementation, from the paper and InsightFace's description."""
    outputs = heads(1)
    expected = list(by_loop(outputs, threshold))
    found = FAMILY.decode(outputs, HW, threshold, {})
    assert_same(found, [row[:3] for row in expected])
    np.testing.assert_allclose(found.keypoints[:, :, :2], [row[3] for row in expected], atol=1e-3)
    assert (found.keypoints[:, :, 2] == 1).all()
    boxes = FAMILY.decode(outputs[:6], HW, threshold, {})
    assert_same(boxes, [row[:3] for row in expected])
    assert boxes.keypoints is None
    shuffled = FAMILY.decode([outputs[i] for i in (4, 8, 0, 3, 2, 1, 6, 5, 7)], HW, threshold, {})
    assert np.array_equal(shuffled.xyxy, found.xyxy) and np.array_equal(shuffled.keypoints, found.keypoints)


@pytest.mark.parametrize(("name", "input_hw"), [("kps", HW), ("boxes", HW), ("five", (128, 128))])
def test_boxes_are_insightfaces(name, input_hw):
    """The authors' own code, insightface 2.1: tests/authors/scrfd.py."""
    with np.load(NPZ) as saved:
        data = {key.removeprefix(f"{name}/"): saved[key] for key in saved.files if key.startswith(f"{name}/")}
    outputs = [value for key, value in data.items() if key.startswith("output/")]
    found = FAMILY.decode(outputs, input_hw, 0.05, {})
    np.testing.assert_allclose(found.xyxy, data["before_boxes"], atol=1e-3)
    np.testing.assert_allclose(found.scores, data["before_scores"], atol=1e-6)
    kept = nms(found.xyxy, found.scores, FAMILY.iou_threshold, None, 1000)
    # Their NMS takes a box to be a pixel wider and higher than its corners say.
    wide = nms(found.xyxy + np.array([0, 0, 1, 1], np.float32), found.scores, 0.4, None, 1000)
    np.testing.assert_allclose(found.xyxy[wide], data["after"][:, :4], atol=1e-3)
    assert len(np.intersect1d(kept, wide)) > 0.9 * len(wide)
    if name == "kps":
        np.testing.assert_allclose(found.keypoints[:, :, :2], data["before_points"], atol=1e-3)
        np.testing.assert_allclose(found.keypoints[wide, :, :2], data["after_points"], atol=1e-3)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("count", [6, 9])
def test_it_is_identified(batched, count):
    outputs = [
        output(*((1, rows, width) if batched else (rows, width)), name=str(440 + index))
        for index, (width, rows) in enumerate((w, r) for w in (1, 4, 10) for r in (12800, 3200, 800))
    ][:count]
    found = identify([image((640, 640))], outputs, {})
    assert (found.family.name, found.num_classes, found.batched) == ("scrfd", 1, batched)
    assert (found.input["align"], found.input["pad"], found.input["color"]) == ("top-left", 0, "RGB")


@pytest.mark.parametrize(
    "change",
    [
        lambda outputs: outputs[:8],
        lambda outputs: [*outputs[:8], outputs[7]],
        lambda outputs: [o[:, ::2] for o in outputs],
        lambda outputs: [np.repeat(o, 2, axis=2) for o in outputs],
    ],
)
def test_what_only_resembles_it_is_refused(change):
    outputs = change(sound_outputs())
    assert FAMILY.recognise(View(tuple(infos(outputs)), HW)) is None
    with pytest.raises(ModelError, match=r"scrfd: expected .*; got "):
        FAMILY.decode(outputs, HW, 0.3, {})


def test_logits_and_other_classes_speak_against_it():
    outputs = sound_outputs()
    view = View(tuple(infos(outputs)), HW)
    assert FAMILY.recognise(replace(view, arrays=tuple(outputs))).certain
    assert FAMILY.recognise(replace(view, arrays=(outputs[0] - 4, *outputs[1:]))) is None
    assert FAMILY.recognise(replace(view, num_classes=3)) is None
