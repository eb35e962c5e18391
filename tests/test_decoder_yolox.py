"""YOLOX against a loop over its formula, and against Megvii's own code."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.decoders.candidates import grid
from pipeline.errors import UnknownLayoutError
from pipeline.runtime.session import Session
from pipeline.runtime.trial import Trial
from pipeline.vision.nms import nms
from tests.decoding import HW, assert_same, cells, image, output, passing, random
from tests.heads import view


def yolox_by_loop(output, threshold, multi_label, decoded, strides):
    for row, (x, y, stride) in zip(output[0].astype(np.float64), cells(HW, strides), strict=True):
        cx, cy, w, h = row[:4]
        if not decoded:
            cx, cy, w, h = (cx + x) * stride, (cy + y) * stride, math.exp(w) * stride, math.exp(h) * stride
        scores = row[4] * row[5:]
        for kind in passing(scores, threshold, multi_label):
            yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), scores[kind], kind


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("decoded", [False, True])
@pytest.mark.parametrize("strides", [(8, 16, 32), (8, 16, 32, 64)])
def test_yolox(threshold, multi_label, decoded, strides):
    output = random(1, 1, len(cells(HW, strides)), 5 + 4)
    output[0, :, :4] = output[0, :, :4] * 4 - 1 if not decoded else output[0, :, :4] * 90
    params = {"multi_label": multi_label, "decoded": decoded}
    found = DECODERS["yolox"].decode([output], HW, threshold, params)
    assert_same(found, list(yolox_by_loop(output, threshold, multi_label, decoded, strides)))


def sound_outputs():
    return [np.full((1, 126, 8), 0.75, np.float32)]


def test_decoded_boxes_may_be_in_parts_of_the_input():
    pixels = random(2, 1, 126, 8)
    pixels[0, :, :4] *= 90
    parts = pixels / np.array([96, 64, 96, 64, 1, 1, 1, 1], np.float32)
    params = {"decoded": True, "normalised": True}
    found = DECODERS["yolox"].decode([parts], HW, 0.3, params)
    assert_same(found, list(yolox_by_loop(pixels, 0.3, False, True, (8, 16, 32))))


def laid_out(unit, seed=3):
    """A table as a detector would give it, in one of the units of its boxes."""
    generator = np.random.default_rng(seed)
    raw = np.concatenate([generator.random((126, 2)) * 1.5 - 0.25, generator.normal(0, 1, (126, 2))], axis=1)
    points, sizes = grid(HW, (8, 16, 32), 0.0)
    if unit != "offsets":
        raw = np.concatenate([raw[:, :2] * sizes + points, np.exp(raw[:, 2:]) * sizes], axis=1)
    if unit == "parts":
        raw /= [HW[1], HW[0]] * 2
    return [np.concatenate([raw, generator.random((126, 4)) ** 3], axis=1)[None].astype(np.float32)]


@pytest.mark.parametrize("unit", ["offsets", "pixels", "parts"])
def test_whether_boxes_are_decoded_is_told_by_where_they_are(unit):
    outputs = laid_out(unit)
    match = DECODERS["yolox"].recognise(view(outputs, num_classes=3))
    expected = {"strides": (8, 16, 32), "decoded": unit != "offsets", "normalised": unit == "parts"}
    assert match.params == expected and match.certain
    assert ("decoded already" in match.reason) == (unit != "offsets")
    assert ("offsets" in match.holds[0]) == (unit == "offsets")
    # The same boxes, whatever they are written in.
    usual = DECODERS["yolox"].decode(laid_out("offsets"), HW, 0.1, {})
    found = DECODERS["yolox"].decode(outputs, HW, 0.1, match.params)
    np.testing.assert_allclose(found.xyxy, usual.xyxy, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("spoil", ["far", "objectness", "logits", "nan"])
def test_a_table_that_answers_otherwise_is_none(spoil):
    (table,) = laid_out("offsets")
    if spoil == "far":
        table[..., :2] += 20
    elif spoil == "objectness":  # YOLOv6's
        table[..., 4] = 1
    elif spoil == "logits":
        table[..., 4:] -= 3
    else:
        table[0, 3, 1] = np.nan
    assert DECODERS["yolox"].recognise(view([table])) is None


@pytest.mark.parametrize("unit", ["offsets", "pixels", "parts"])
def test_the_real_model_in_every_form(assets, unit):
    """Against itself: yolox_nano, decoded after its graph as ``--decode_in_inference`` does."""
    session = Session(assets / "models" / "yolox_nano.onnx", "cpu")
    points, sizes = grid((416, 416), (8, 16, 32), 0.0)
    real = Trial(session)

    def trial(fed):
        (table,) = real(fed)
        if unit == "offsets":
            return [table]
        xy, wh = table[..., :2] * sizes + points, np.exp(table[..., 2:4]) * sizes
        scale = 416 if unit == "parts" else 1
        return [np.concatenate([xy / scale, wh / scale, table[..., 4:]], axis=2)]

    found = identify([image((416, 416))], session.outputs, {}, trial=trial)
    assert (found.family.name, found.params["decoded"]) == ("yolox", unit != "offsets")
    assert found.params["normalised"] == (unit == "parts")


@pytest.mark.parametrize("classes", [[0, 2], [2, 7], [5]])
def test_noise_is_no_evidence_of_a_class_more(assets, classes):
    """Against itself, decoded: a person and a car; cars and trucks, or buses: none is there."""
    session = Session(assets / "models" / "yolox_nano.onnx", "cpu")
    points, sizes = grid((416, 416), (8, 16, 32), 0.0)
    real = Trial(session)

    def trial(fed):
        (table,) = real(fed)
        boxes = [table[..., :2] * sizes + points, np.exp(table[..., 2:4]) * sizes]
        likely = table[..., [5 + each for each in classes]]
        sure = table[..., 4:5] * likely.max(axis=2, keepdims=True)
        return [np.concatenate([*boxes, sure, likely], axis=2)]

    outputs = [output(1, 3549, 5 + len(classes))]
    if 0 in classes:
        found = identify([image((416, 416))], outputs, {}, trial=trial)
        assert (found.family.name, found.num_classes) == ("yolox", 2)
    else:
        with pytest.raises(UnknownLayoutError, match="could be yolox") as refused:
            identify([image((416, 416))], outputs, {}, trial=trial)
        assert {("yolox", len(classes)), ("yolov8", len(classes) + 1)} <= set(refused.value.candidates)


def test_parts_of_the_input_are_no_offsets(assets):
    """Against another: YOLOv8's boxes as corners in parts of the input, which lie in 0..1 as offsets may."""
    session = Session(assets / "models" / "yolov8n_640_deq.onnx", "cpu")
    real = Trial(session)

    def trial(fed):
        table = real(fed)[0].swapaxes(1, 2)
        middle, half = table[..., :2], table[..., 2:4] / 2
        corners = np.concatenate([middle - half, middle + half], axis=2) / 640
        return [np.concatenate([corners, table[..., 4:]], axis=2)]

    with pytest.raises(UnknownLayoutError) as refused:
        identify([image()], [output(1, 8400, 84)], {}, trial=trial)
    assert "yolox" not in str(refused.value)


@pytest.mark.parametrize("decoded", [False, True])
def test_the_authors_package_decodes_and_keeps_the_same(decoded):
    """Against yolox 0.3.0: YOLOX-nano with random weights, exported without and with its decoding."""
    with np.load(Path(__file__).parent / "authors" / "yolox.npz") as stored:
        values = dict(stored)
    table = values["decoded" if decoded else "output"]
    found = DECODERS["yolox"].decode([table], HW, 0.05, {"decoded": decoded})
    chosen = nms(found.xyxy, found.scores, 0.45, found.class_id, 300)
    assert len(found) > len(chosen) > 10
    for ours, when in ((found, "before"), (found.take(chosen), "after")):
        expected = [values[f"{when}_{part}"] for part in ("boxes", "scores", "classes")]
        assert_same(ours, list(zip(*expected, strict=True)))
    assert DECODERS["yolox"].recognise(view([table], num_classes=3)).params["decoded"] == decoded


def test_what_a_card_states_is_believed():
    (table,) = laid_out("offsets")
    table[..., :2] += 20
    match = DECODERS["yolox"].recognise(replace(view([table]), stated=True))
    assert match.params["decoded"] is False and "does not show" in match.reason
