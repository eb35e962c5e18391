"""CenterNet's raw heads: against a loop over the paper's text, and against OpenMMLab's implementation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import Detector
from pipeline.decoders import DECODERS, identify
from pipeline.decoders.family import View
from pipeline.errors import ModelError, UnknownLayoutError
from tests.constant_models import constant_model
from tests.decoding import HW, assert_same, image, infos, output, random

FAMILY = DECODERS["centernet"]
CELLS = (16, 24)
NPZ = Path(__file__).parent / "authors" / "centernet.npz"


def sound_outputs():
    heat = np.zeros((1, 3, *CELLS), np.float32)
    heat[0, 0, 4, 5], heat[0, 1, 10, 12], heat[0, 2, 7, 18] = 0.45, 0.5, 0.55
    return [heat, np.full((1, 2, *CELLS), 6, np.float32), np.full((1, 2, *CELLS), 0.5, np.float32)]


def by_loop(heat, sizes, offsets, threshold, top_k=100):
    """Section 4 of the paper: a peak is at least as high as its 8 neighbours; the 100 best stay."""
    peaks = []
    classes, rows, columns = heat.shape[1:]
    for kind in range(classes):
        for y in range(rows):
            for x in range(columns):
                score = float(heat[0, kind, y, x])
                near = heat[0, kind, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                if score > threshold and score >= near.max():
                    cx, cy = x + float(offsets[0, 0, y, x]), y + float(offsets[0, 1, y, x])
                    w, h = sizes[0, :, y, x].tolist()
                    box = (4 * (cx - w / 2), 4 * (cy - h / 2), 4 * (cx + w / 2), 4 * (cy + h / 2))
                    peaks.append((box, score, kind))
    return sorted(peaks, key=lambda peak: -peak[1])[:top_k]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_centernet(threshold):
    """A second implementation, from the paper."""
    heat, sizes, offsets = random(1, 1, 4, *CELLS), random(2, 1, 2, *CELLS) * 9, random(3, 1, 2, *CELLS)
    expected = by_loop(heat, sizes, offsets, threshold)
    assert threshold > 0.3 or len(expected) == 100
    assert_same(FAMILY.decode([heat, sizes, offsets], HW, threshold, {}), expected)
    by_order = FAMILY.decode([sizes, offsets, heat], HW, threshold, {"order": (2, 0, 1)})
    assert_same(by_order, expected)
    assert_same(FAMILY.decode([sizes, heat, offsets], HW, threshold, {}), expected)
    logits = np.log(heat / (1 - heat)).astype(np.float32)
    assert_same(FAMILY.decode([logits, sizes, offsets], HW, threshold, {"sigmoid": True}), expected)
    few = FAMILY.decode([heat, sizes, offsets], HW, threshold, {"top_k": 7})
    assert_same(few, by_loop(heat, sizes, offsets, threshold, 7))


def test_boxes_are_openmmlabs():
    """mmdet 3.3.0's code, tests/authors/centernet.py: a well-known implementation, not the authors' own.

    There is no NMS in it or in the paper, so that there is one table to compare.
    """
    with np.load(NPZ) as saved:
        data = dict(saved)
    found = FAMILY.decode(
        [data["logits"], data["sizes"], data["offsets"]], HW, 0.05, FAMILY.check_params({"sigmoid": True})
    )
    theirs = data["boxes"][:, 4] > 0.05
    expected = zip(
        data["boxes"][theirs, :4], data["boxes"][theirs, 4], data["labels"][theirs].astype(int), strict=True
    )
    assert len(found) == theirs.sum() == 100
    order = np.argsort(-found.scores, kind="stable")
    for index, (box, score, kind) in zip(order, expected, strict=True):
        np.testing.assert_allclose(found.xyxy[index], box, atol=1e-3)
        assert found.scores[index] == pytest.approx(score, abs=1e-6) and found.class_id[index] == kind


@pytest.mark.parametrize(
    "outputs",
    [
        sound_outputs()[:2],
        [o[:, :, :8] for o in sound_outputs()],
        [sound_outputs()[0]] * 3,
        [sound_outputs()[0], sound_outputs()[1], sound_outputs()[0]],
        [o.astype(np.int32) for o in sound_outputs()],
        [np.zeros((1, 0, *CELLS), np.float32), *sound_outputs()[1:]],
    ],
)
def test_other_shapes_are_refused(outputs):
    with pytest.raises(ModelError, match=r"centernet: expected a heatmap .*; got "):
        FAMILY.decode(outputs, HW, 0.3, {})


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [0, 1, 3], [True, 0, 2], "012", 3])
def test_an_order_that_is_none(order):
    with pytest.raises(ModelError, match="centernet: order: expected the numbers 0, 1 and 2"):
        FAMILY.check_params({"order": order})


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("hm", "wh", "reg"), (0, 1, 2)),
        (("offset", "heatmap", "size"), (1, 2, 0)),
        (("output0", "output1", "output2"), (0, 1, 2)),
    ],
)
@pytest.mark.parametrize("classes", [80, 2, 1])
def test_it_is_identified_by_channels_and_names(names, order, classes):
    held = dict(zip(order, (classes, 2, 2), strict=True))
    outputs = [output(1, held[index], 128, 128, name=name) for index, name in enumerate(names)]
    if classes == 2 and names[0] == "output0":
        assert FAMILY.recognise(View(tuple(outputs), (512, 512))).certain is False
        return
    found = identify([image((512, 512))], outputs, {})
    assert (found.family.name, found.num_classes, found.params["order"]) == ("centernet", classes, order)
    assert found.holds[order[0]].startswith("heatmap")
    # Telling names make up for a number of classes that nothing confirms.
    certain = FAMILY.recognise(View(tuple(outputs), (512, 512))).certain
    assert certain is (names[0] != "output0" or classes == 80)


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 80, 128, 128), (1, 4, 128, 128), (1, 2, 128, 128)),
        ((1, 80, 64, 64), (1, 2, 64, 64), (1, 2, 64, 64)),
        ((1, 80, 128, 128), (1, 2, 128, 128)),
        ((1, 255, 64, 64), (1, 255, 32, 32), (1, 255, 16, 16)),
        ((1, 1, 128, 128), (1, 2, 128, 128), (1, 2, 128, 128), (1, 10, 128, 128)),
    ],
)
def test_what_only_resembles_it_is_not_claimed(shapes):
    assert FAMILY.recognise(View(tuple(output(*shape) for shape in shapes), (512, 512))) is None


def test_the_trial_run_tells_logits_and_which_are_the_sizes():
    heat, sizes, offsets = sound_outputs()
    for arrays, order in (((heat, sizes, offsets), (0, 1, 2)), ((heat, offsets, sizes), (0, 2, 1))):
        view = View(tuple(infos(arrays)), HW, arrays=arrays)
        assert FAMILY.recognise(view).params == {"order": order, "sigmoid": False}
        logits = replace(view, arrays=(heat * 8 - 5, *arrays[1:]))
        assert FAMILY.recognise(logits).params == {"order": order, "sigmoid": True}
    # Names are believed, and what no value tells stays in the authors' order.
    named = View(tuple(infos(sound_outputs(), ("hm", "reg", "wh"))), HW, arrays=(heat, offsets, sizes))
    assert FAMILY.recognise(named).params["order"] == (0, 2, 1)
    alike = View(tuple(infos(sound_outputs())), HW, arrays=(heat, offsets, offsets))
    assert FAMILY.recognise(alike).params["order"] == (0, 1, 2)


def test_a_model_of_logits_runs_with_no_options(tmp_path):
    """Identified, decoded and brought to the frame: 64 × 96 boxes on a frame of twice the size."""
    heat, sizes, offsets = sound_outputs()
    path = constant_model(
        tmp_path / "m.onnx", {"a": np.where(heat > 0, 2, -6).astype(np.float32), "b": offsets, "c": sizes}
    )
    found = Detector(str(path)).detect(np.zeros((128, 192, 3), np.uint8))
    assert sorted(found.class_id.tolist()) == [0, 1, 2]
    first = found.xyxy[found.class_id.tolist().index(0)]
    np.testing.assert_allclose(first, [8 * 2.5, 8 * 1.5, 8 * 8.5, 8 * 7.5])


def test_the_classes_of_a_card_have_to_be_the_heatmaps():
    outputs = infos(sound_outputs(), ("hm", "wh", "reg"))
    with pytest.raises(UnknownLayoutError):
        identify([image(HW)], outputs, {}, labels=[""] * 4)
