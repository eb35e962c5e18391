"""YOLOv5's and Darknet's tables against a loop over their formula, and against YOLOv5's own code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.decoders.cells import ORDERS, Order
from pipeline.errors import ModelError, UnknownLayoutError
from pipeline.runtime.session import Session
from pipeline.runtime.trial import Trial
from pipeline.vision.nms import nms
from tests.decoding import HW, assert_same, cells, image, infos, output, passing, random
from tests.heads import view

DECODE = DECODERS["yolov5"].decode
ROWS = 3 * 126


def sound_outputs():
    table = np.full((1, ROWS, 8), 0.75, np.float32)
    table[..., :4] = (48, 32, 20, 16)
    return [table]


def by_loop(table, threshold, multi_label, normalised, score):
    for row in table.astype(np.float64):
        cx, cy, w, h = row[:4] * ([HW[1], HW[0]] * 2 if normalised else [1] * 4)
        scores = {"product": row[5:] * row[4], "class": row[5:], "objectness": row[4:5]}[score]
        for kind in passing(scores, threshold, multi_label):
            yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), scores[kind], kind


@pytest.mark.parametrize("threshold", [0.0, 0.3])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("score", ["product", "class", "objectness"])
def test_against_a_loop_over_the_formula(threshold, multi_label, normalised, score):
    """A second implementation, from the description of the layout."""
    table = random(1, 1, ROWS, 5 + 4)
    table[0, :, :4] *= 1 if normalised else 90
    params = {"multi_label": multi_label, "normalised": normalised, "score": score}
    found = DECODE([table], HW, threshold, params)
    assert_same(found, list(by_loop(table[0], threshold, multi_label, normalised, score)))


def authors():
    with np.load(Path(__file__).parent / "authors" / "yolov5.npz") as stored:
        return dict(stored)


def test_the_authors_package_decodes_the_same():
    """Against yolov5 7.0.14: an export of yolov5n with random weights."""
    stored = authors()
    found = DECODE([stored["output0"]], HW, 0.05, {})
    rows = zip(stored["before_boxes"], stored["before_scores"], stored["before_classes"], strict=True)
    assert len(found) > 50
    assert_same(found, list(rows))


def test_the_authors_package_keeps_the_same():
    """Against yolov5 7.0.14: after its NMS."""
    stored = authors()
    found = DECODE([stored["output0"]], HW, 0.05, {})
    chosen = nms(found.xyxy, found.scores, 0.45, found.class_id, 3000)
    rows = zip(stored["after_boxes"], stored["after_scores"], stored["after_classes"], strict=True)
    assert 10 < len(chosen) < len(found)
    assert_same(found.take(chosen), list(rows))


def test_the_raw_heads_of_older_exports_are_not_used():
    maps = [np.zeros((1, 3, 64 // s, 96 // s, 8), np.float32) for s in (8, 16, 32)]
    whole, (table,) = DECODE(sound_outputs(), HW, 0.3, {}), sound_outputs()
    for outputs in ([table, *maps], [*maps, table], [table[0], *(m[0] for m in maps)]):
        assert np.array_equal(DECODE(outputs, HW, 0.3, {}).xyxy, whole.xyxy)
    with pytest.raises(ModelError, match=r"yolov5: expected .*; got "):
        DECODE([table, maps[0][..., :7]], HW, 0.3, {})


@pytest.mark.parametrize(
    ("shape", "classes", "hw"),
    [
        ((1, 25200, 85), 80, (640, 640)),
        ((None, 25200, 85), 80, (640, 640)),
        ((1, 102000, 85), 80, (1280, 1280)),  # strides 8 to 64
        ((1, 2535, 85), 80, (416, 416)),  # strides 16 and 32
        ((1, 25200, 6), 1, (640, 640)),
    ],
)
def test_it_is_told_by_three_boxes_for_each_cell(shape, classes, hw):
    found = identify([image(hw)], [output(*shape)], {"names": repr(["x"] * classes)})
    assert found.params.get("strides") == ((8, 16, 32, 64) if hw == (1280, 1280) else None)
    assert (found.family.name, found.num_classes, found.params["normalised"]) == ("yolov5", classes, False)


@pytest.mark.parametrize(
    ("shape", "metadata"),
    [
        ((1, 25201, 85), {}),
        ((1, 25200, 5), {}),
        ((1, 25200, 85), {"names": "['one']"}),
        ((1, 25200, 85), {"task": "pose"}),
    ],
)
def test_what_only_resembles_it_is_not_taken_for_it(shape, metadata):
    with pytest.raises(UnknownLayoutError):
        identify([image()], [output(*shape)], metadata, family="yolov5")


def laid_out(order: Order, unit, products=False, seed=1):
    """A table as a detector would give it: each box near its cell, in the given order and unit."""
    generator, rows = np.random.default_rng(seed), []
    for stride in sorted((8, 16, 32), reverse=order.coarse_first):
        level = [(x, y) for x, y, _ in cells(HW, (stride,))]
        pairs = [c for c in level for _ in range(3)] if order.cell_first else level * 3
        inside = generator.random((len(pairs), 2)) * 2 - 0.5
        center = (np.array(pairs) + inside) * stride
        sizes = generator.random((len(pairs), 2)) * 2 * stride + 2
        rows.append(np.concatenate([center, sizes, generator.random((len(pairs), 4)) ** 3], axis=1))
    table = np.concatenate(rows).astype(np.float32)
    if unit == "parts":
        table[:, :4] /= [HW[1], HW[0]] * 2
    if products:
        table[:, 5:] *= table[:, 4:5]
    return [table[None]]


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("unit", ["pixels", "parts"])
@pytest.mark.parametrize("products", [False, True])
def test_unit_order_and_products_are_told_by_what_the_rows_hold(order, unit, products):
    seen = view(laid_out(order, unit, products))
    darknet = unit == "parts" and (products or order != Order())
    for name, expected in (("yolov5", not darknet), ("yolov5-darknet", darknet)):
        match = DECODERS[name].recognise(seen)
        assert (match is not None) == expected
        if match is not None:
            assert match.params == {
                "normalised": unit == "parts",
                "score": "class" if products else "product",
            }
            assert (
                match.certain
                and str(order) in match.reason
                and ("hold it already" in match.reason) == products
            )
            assert "parts of the input" in match.holds[0] if unit == "parts" else "pixels" in match.holds[0]


@pytest.mark.parametrize(("constant", "score"), [(0.5, "objectness"), (0.999, "product")])
def test_the_only_class_of_a_model_may_say_nothing(constant, score):
    """YOLOv7 leaves it untrained, and then scores by the objectness alone; YOLOv5's is almost 1."""
    (table,) = laid_out(Order(), "pixels")
    table = table[..., :6]
    table[..., 5] = constant
    match = DECODERS["yolov5"].recognise(view([table]))
    assert (match.num_classes, match.params["score"]) == (1, score)
    assert ("says nothing" in match.reason) == (score == "objectness")


@pytest.mark.parametrize("spoil", ["logits", "places", "nan", "pose"])
def test_a_table_that_answers_otherwise_is_none(spoil):
    (table,) = laid_out(Order(), "pixels")
    if spoil == "logits":
        table[..., 4:] -= 3
    elif spoil == "places":
        table[..., :2] = table[:, ::-1, :2]
    elif spoil == "nan":
        table[0, 7, 0] = np.nan
    else:  # further columns in pixels
        table[..., 6:] *= 90
    assert DECODERS["yolov5"].recognise(view([table])) is None


def test_the_real_model_in_every_form(assets):
    """Against itself: yolov5n's answer to the photograph, rewritten as other exports write it."""
    session = Session(assets / "models" / "yolov5n_fp32.onnx", "cpu")
    found = identify(session.inputs, session.outputs, session.metadata, trial=Trial(session))
    assert (found.family.name, found.params) == ("yolov5", {"normalised": False, "score": "product"})
    assert "stride" not in found.input and "does not run" in found.reasons["stride"]
    (table,) = Trial(session)({k: v for k, v in found.input.items() if k != "stride"})
    table = table.copy()
    boxes = DECODE([table], (640, 640), 0.3, {}).xyxy
    parts = table / np.array([640] * 4 + [1] * 81, np.float32)
    mixed = np.concatenate(
        [
            parts[:, start : start + 3 * n].reshape(1, 3, n, 85).swapaxes(1, 2).reshape(1, 3 * n, 85)
            for start, n in ((24000, 400), (19200, 1600), (0, 6400))
        ],
        axis=1,
    )
    products = mixed.copy()
    products[..., 5:] *= products[..., 4:5]
    merged = np.concatenate([table[..., :4], table[..., 5:] * table[..., 4:5]], axis=2)
    rows = {"form": "columns", "normalised": False, "sigmoid": False}
    cases = [
        (merged, "yolov8", rows),
        (merged[..., [0, 1, 2, 3, 4, 6, 11]], "yolov8", rows),  # person, car, truck
        (merged[..., [0, 1, 2, 3, 6, 11]], "yolov8", rows),  # of which the photograph shows none
        (table[..., [0, 1, 2, 3, 4, 7, 12]], "yolov5", {"normalised": False, "score": "product"}),
        (parts, "yolov5", {"normalised": True, "score": "product"}),
        (mixed, "yolov5-darknet", {"normalised": True, "score": "product"}),
        (products, "yolov5-darknet", {"normalised": True, "score": "class"}),
    ]
    for changed, family, params in cases:
        told = identify([image()], infos([changed]), {}, trial=lambda _fed, changed=changed: [changed])
        assert (told.family.name, told.params) == (family, params)
        again = told.family.decode([changed], (640, 640), 0.3, told.params)
        if told.num_classes == 80:
            np.testing.assert_allclose(np.sort(again.xyxy, axis=0), np.sort(boxes, axis=0), atol=0.01)
        assert told.num_classes == (
            80 if changed.shape[2] > 80 else changed.shape[2] - (5 - (family == "yolov8"))
        )


def test_what_a_card_states_is_believed():
    own, other = laid_out(Order(), "parts"), laid_out(ORDERS[3], "parts")
    for name, outputs in (("yolov5", other), ("yolov5-darknet", own)):
        assert DECODERS[name].recognise(view(outputs)) is None
        stated = DECODERS[name].recognise(replace(view(outputs), stated=True))
        assert stated.params == {"normalised": True, "score": "product"}
