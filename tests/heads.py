"""What the tests of the heads beside detection share: the authors' stored answers, and ours to the same."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from pipeline.decoders import DECODERS, identify
from pipeline.decoders.family import View
from pipeline.frame import Frame, Raw
from pipeline.stages.postprocess import Postprocess, Thresholds
from pipeline.vision.letterbox import InputSpec, Letterbox
from tests.decoding import HW, image, infos

FRAME = (80, 192)
CONF, IOU = 0.05, 0.7
"""As in tests/authors/ultralytics_heads.py."""


def authors(family):
    """The stored outputs, their names, the metadata, and what is expected, by name."""
    with np.load(Path(__file__).parent / "authors" / f"{family.replace('-', '_')}.npz") as stored:
        values = {name: stored[name] for name in stored.files}
    outputs = [values.pop(f"output{i}") for i in range(len(values["names"]))]
    return outputs, list(values.pop("names")), ast.literal_eval(str(values.pop("metadata"))), values


def identified(family):
    """What the stored outputs are taken for, by their metadata, and without a trial run."""
    outputs, names, metadata, _ = authors(family)
    return identify([image(HW)], infos(outputs, names), metadata)


def view(outputs, *, tried=True, num_classes=None, **metadata):
    return View(tuple(infos(outputs)), HW, num_classes, metadata, arrays=tuple(outputs) if tried else ())


def detections(family, outputs, params, conf=CONF, iou=IOU, frame_hw=FRAME, spec=None, classes=None):
    """The outputs of one picture through the stage behind inference."""
    known = DECODERS[family]
    model = SimpleNamespace(
        family=known,
        labels=(),
        decode=lambda raw, threshold, hw: known.decode(raw, hw, threshold, params),
    )
    box = Letterbox.of(*frame_hw, spec or InputSpec(*HW))
    frame = Frame("", 0, np.zeros((*frame_hw, 3), np.uint8), None, None, 0.0, 0.0)
    (result,) = Postprocess(model, Thresholds(conf, iou, 300, classes))([Raw(frame, box, outputs)])
    return result.detections


def ordered(scores, boxes, *parts):
    """All of them by falling score and then by box, so that equal scores do not matter."""
    order = np.lexsort((*boxes.round(1).T, -scores.round(5)))
    return [part[order] for part in (scores, boxes, *parts)]


def assert_authors_candidates(family):
    """What is decoded at the low threshold is what the authors' package decodes; returns both, ordered."""
    outputs, _, _, expected = authors(family)
    found = DECODERS[family].decode(outputs, HW, CONF, identified(family).params)
    extra = [expected["before_angles"]] if "before_angles" in expected else []
    scores, boxes, classes, *extra = ordered(
        expected["before_scores"], expected["before_boxes"], expected["before_classes"], *extra
    )
    ours = found.rotated[:, :4] if found.rotated is not None else found.xyxy
    parts = [found.rotated[:, 4]] if found.rotated is not None else []
    our_scores, our_boxes, our_classes, *parts = ordered(found.scores, ours, found.class_id, *parts)
    assert len(scores) == len(our_scores) > 20
    np.testing.assert_allclose(our_scores, scores, atol=1e-5)
    np.testing.assert_allclose(our_boxes, boxes, atol=1e-3)
    np.testing.assert_array_equal(our_classes, classes)
    for part, theirs in zip(parts, extra, strict=True):
        np.testing.assert_allclose(part, theirs, atol=1e-5)


def assert_authors_detections(family):
    """After NMS and back in the picture, too; returns ours with the rows of theirs."""
    outputs, _, _, expected = authors(family)
    found = detections(family, outputs, identified(family).params)
    boxes = expected["after_frame_boxes"]
    if found.rotated is None:
        shown = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1))  # not in the padding alone
    else:
        corners = expected["after_corners"]
        inside = (corners.max(axis=1) > 0) & (corners.min(axis=1) < [FRAME[1], FRAME[0]])
        shown = np.flatnonzero(inside.all(axis=1))
    assert len(found) == len(shown) > 5
    np.testing.assert_allclose(found.confidence, expected["after_scores"][shown], atol=1e-5)
    np.testing.assert_array_equal(found.class_id, expected["after_classes"][shown])
    if found.rotated is None:
        np.testing.assert_allclose(found.xyxy, boxes[shown], atol=1e-3)
    return found, {name: values[shown] for name, values in expected.items() if len(values) == len(boxes)}
