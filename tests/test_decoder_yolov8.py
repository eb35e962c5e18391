"""YOLOv8 against a loop over its formula, and against Ultralytics' own code."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.errors import ModelError
from pipeline.runtime.session import Session
from pipeline.runtime.trial import Trial
from pipeline.vision.nms import nms
from tests.decoding import HW, assert_same, image, infos, output, passing, random
from tests.heads import view

DECODE = DECODERS["yolov8"].decode
PACKAGED = ["yolov8n", "yolov5nu", "yolov6n", "yolov9t", "yolo11n", "yolo12n"]


def yolov8_by_loop(output, threshold, multi_label):
    for column in output[0].T.astype(np.float64):
        cx, cy, w, h = column[:4]
        for kind in passing(column[4:], threshold, multi_label):
            yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), column[4 + kind], kind


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("multi_label", [False, True])
def test_yolov8(threshold, multi_label):
    output = random(0, 1, 4 + 5, 126)
    output[0, :4] *= 90
    found = DECODERS["yolov8"].decode([output], HW, threshold, {"multi_label": multi_label})
    assert_same(found, list(yolov8_by_loop(output, threshold, multi_label)))


def sound_outputs():
    output = np.full((1, 7, 126), 0.5, np.float32)
    output[0, :4] = 30
    return [output]


def test_scores_a_little_over_one_become_one():
    outputs = sound_outputs()
    outputs[0][0, 4:] = 1.001
    assert DECODERS["yolov8"].decode(outputs, HW, 0.3, {}).scores.max() == 1


def test_boxes_inside_out_are_dropped():
    outputs = sound_outputs()
    outputs[0][0, 2, :10] = -5
    assert len(DECODERS["yolov8"].decode(outputs, HW, 0.3, {})) == 116


@pytest.mark.parametrize("threshold", [0.0, 0.4])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("form", ["rows", "columns"])
def test_other_forms_of_the_table_hold_the_same(threshold, normalised, sigmoid, form):
    """A second implementation: the loop above, of the table brought back to the usual form."""
    usual = random(3, 1, 4 + 5, 126) * 0.98 + 0.01
    usual[0, :4] *= 90
    written = usual.copy()
    if normalised:
        written[0, :4] /= np.array([[HW[1]], [HW[0]]] * 2)
    if sigmoid:
        written[0, 4:] = [[math.log(p / (1 - p)) for p in row] for row in usual[0, 4:].tolist()]
    if form == "columns":
        written = np.ascontiguousarray(written.swapaxes(1, 2))
    for multi_label in (False, True):
        params = {"form": form, "normalised": normalised, "sigmoid": sigmoid, "multi_label": multi_label}
        assert_same(
            DECODE([written], HW, threshold, params), list(yolov8_by_loop(usual, threshold, multi_label))
        )


def authors(name):
    with np.load(Path(__file__).parent / "authors" / "yolov8.npz") as stored:
        return {
            key.removeprefix(f"{name}_"): stored[key] for key in stored.files if key.startswith(f"{name}_")
        }


@pytest.mark.parametrize("name", PACKAGED)
def test_the_authors_package_decodes_and_keeps_the_same(name):
    """Against ultralytics 8.4: exports with random weights, before and after its NMS."""
    stored = authors(name)
    metadata = ast.literal_eval(str(stored["metadata"]))
    found = identify([image(HW)], infos([stored["output"]]), metadata)
    assert (found.family.name, found.num_classes) == ("yolov8", 3)
    seen = view([stored["output"]], num_classes=3, **metadata)
    assert DECODERS["yolov8"].recognise(seen).params == found.params
    assert found.params == {"form": "rows", "normalised": False, "sigmoid": False}
    candidates = DECODE([stored["output"]], HW, 0.05, found.params)
    chosen = nms(candidates.xyxy, candidates.scores, 0.7, candidates.class_id, 300)
    assert len(candidates) > len(chosen) > 10
    for ours, when in ((candidates, "before"), (candidates.take(chosen), "after")):
        expected = [stored[f"{when}_{part}"] for part in ("boxes", "scores", "classes")]
        assert_same(ours, list(zip(*expected, strict=True)))


@pytest.mark.parametrize("form", ["rows", "columns"])
@pytest.mark.parametrize("unit", [1, 96])
def test_axes_and_unit_are_told_by_where_the_boxes_are(form, unit):
    """With 3 classes and 126 boxes the shapes tell; with square tables only the numbers do."""
    table = authors("yolo11n")["output"][0].copy()
    table[:4] /= 1 if unit == 1 else np.array([[HW[1]], [HW[0]]] * 2)
    table[4:] *= 1e-3  # trained weights deny nearly everywhere, random ones nowhere
    outputs = [np.ascontiguousarray(table if form == "rows" else table.T)[None]]
    match = DECODERS["yolov8"].recognise(view(outputs))
    assert match.params == {"form": form, "normalised": unit != 1, "sigmoid": False}
    assert ("parts of the input" in match.reason) == (unit != 1)
    assert match.certain == (form == "rows")  # of columns only a known number of classes is
    assert DECODERS["yolov8"].recognise(view(outputs, num_classes=3)).certain


def test_a_square_table_is_read_along_the_right_axis():
    """An input of 64 × 64 has 84 cells, which are as many as 4 + 80 rows."""
    square = np.zeros((84, 84), np.float32)
    points = [
        ((x + 0.5) * s, (y + 0.5) * s) for s in (8, 16, 32) for y in range(64 // s) for x in range(64 // s)
    ]
    square[:2], square[2:4] = np.array(points).T, random(5, 2, 84) * 20 + 4
    square[4:] = random(4, 80, 84) ** 3 * 1e-3
    for table, form in ((square, "rows"), (square.T, "columns")):
        outputs = [np.ascontiguousarray(table)[None]]
        found = identify([image((64, 64))], infos(outputs), {}, trial=lambda _fed, outputs=outputs: outputs)
        assert (found.family.name, found.num_classes, found.params["form"]) == ("yolov8", 80, form)


@pytest.mark.parametrize("spoil", ["places", "keypoints", "angles", "task"])
def test_a_table_that_answers_otherwise_is_none(spoil):
    table = authors("yolov8n")["output"].copy()
    assert DECODERS["yolov8"].recognise(view([table])) is not None
    metadata = {"task": "pose"} if spoil == "task" else {}
    if spoil == "places":
        table[0, :2] = table[0, :2, ::-1]
    elif spoil == "keypoints":
        table[0, 5] *= 90
    elif spoil == "angles":
        table[0, 6] -= 0.7
    assert DECODERS["yolov8"].recognise(view([table], **metadata)) is None


def test_logits_are_told_from_probabilities():
    table = authors("yolov8n")["output"].copy()
    table[0, 4:] = np.log(table[0, 4:] / (1 - table[0, 4:])) - 2
    match = DECODERS["yolov8"].recognise(view([table]))
    assert match.params["sigmoid"] is True and "scores are logits" in match.reason
    assert "class logits" in match.holds[0]


@pytest.mark.parametrize(("columns", "family"), [(84, "yolov8"), (85, "yolox")])
def test_84_columns_are_never_taken_for_85(assets, columns, family):
    """Against itself: yolov8n's answer with its axes exchanged, and yolox_nano's decoded one."""
    if family == "yolov8":
        session = Session(assets / "models" / "yolov8n_640_deq.onnx", "cpu")
        real = Trial(session)
        turned = lambda fed: [np.ascontiguousarray(a.swapaxes(1, 2)) for a in real(fed)]  # noqa: E731
        outputs, hw = [output(1, 8400, 84)], (640, 640)
    else:
        session = Session(assets / "models" / "yolox_nano.onnx", "cpu")
        turned, outputs, hw = Trial(session), [output(1, 3549, 85)], (416, 416)
    found = identify([image(hw)], outputs, {}, trial=turned)
    assert (found.family.name, found.num_classes) == (family, 80)
    assert found.params.get("form") == ("columns" if family == "yolov8" else None)


def test_params_of_a_card():
    with pytest.raises(ModelError, match="form: expected one of rows, columns; got 'objectness'"):
        DECODERS["yolov8"].check_params({"form": "objectness"})
    with pytest.raises(ModelError, match=r"yolov8: expected one output \[1, boxes, 4 \+ classes\]; got "):
        DECODE([np.zeros((1, 126, 4), np.float32)], HW, 0.3, {"form": "columns"})


def test_a_coarser_level_than_usual_is_told_to_who_sizes_the_input():
    for shape, hw, strides in (((1, 84, 34000), 640, None), ((1, 84, 34000), 1280, (8, 16, 32, 64))):
        found = identify([image((hw, hw))], [output(*shape)], {"task": "detect"})
        assert found.params.get("strides") == strides


def test_an_answer_that_is_no_number_hides_no_layout():
    """Such a model is warned of when it is loaded; called unknown, nobody would see what is wrong."""
    table = authors("yolov8n")["output"].copy()
    table[0, 0, 0] = table[0, 5, 1] = np.nan
    assert DECODERS["yolov8"].recognise(view([table])).certain


def test_a_logit_whose_probability_is_nothing_is_no_candidate():
    outputs = sound_outputs()
    outputs[0][0, 4:] = -200
    assert len(DECODE(outputs, HW, 0.0, {"sigmoid": True})) == 0
    outputs[0][0, 5, 3] = 1
    assert len(DECODE(outputs, HW, 0.0, {"sigmoid": True})) == 1


def test_what_a_card_states_is_believed():
    table = authors("yolov8n")["output"].copy()
    table[0, :2] = table[0, :2, ::-1]
    match = DECODERS["yolov8"].recognise(replace(view([table]), stated=True))
    assert match.params["form"] == "rows" and "does not show" in match.reason
