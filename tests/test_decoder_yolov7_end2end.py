"""YOLOv7's rows of seven against a loop, and against what its own NMS module gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.errors import ModelError, UnknownLayoutError
from pipeline.vision.nms import nms
from tests.decoding import HW, assert_same, image, infos, output, random
from tests.heads import view

DECODE = DECODERS["yolov7-end2end"].decode


def sound_outputs():
    rows = [[0, 10 + i, 8, 40 + i, 50, i % 3, 0.4 + i / 50] for i in range(9)]
    return [np.array(rows, np.float32)]


@pytest.mark.parametrize("threshold", [0.0, 0.45])
def test_against_a_loop_over_the_rows(threshold):
    """A second implementation, from the description of the layout."""
    table = random(1, 30, 7)
    table[:, 0], table[:, 1:3], table[:, 3:5] = 0, table[:, 1:3] * 30, table[:, 3:5] * 30 + 30
    table[:, 5] = np.arange(30) % 7
    expected = [(row[1:5], row[6], int(row[5])) for row in table.tolist() if row[6] > threshold]
    assert_same(DECODE([table], HW, threshold, {}), expected)
    assert len(DECODE([np.zeros((0, 7), np.float32)], HW, threshold, {})) == 0


@pytest.mark.parametrize(("column", "value"), [(0, 1), (0, 0.5), (5, 1.5), (5, -1), (5, 1e6)])
def test_rows_of_other_pictures_and_classes_that_are_none_are_named(column, value):
    (table,) = sound_outputs()
    table[3, column] = value
    with pytest.raises(ModelError, match="expected picture 0 in column 0 and the number of a class"):
        DECODE([table], HW, 0.3, {})


def test_it_is_told_by_its_columns():
    outputs = sound_outputs()
    outputs[0][:2, 5] = 0, 15
    found = identify([image(HW)], [output(None, 7, name="output")], {}, trial=lambda _fed: outputs)
    assert (found.family.name, found.num_classes, found.batched) == ("yolov7-end2end", 80, False)
    assert "column 5 a whole number and column 6 a probability" in found.reasons["family"]
    assert "found a person and a cat under COCO's number" in found.reasons["family"]
    outputs = sound_outputs()
    match = DECODERS["yolov7-end2end"].recognise(view(outputs, num_classes=3))
    assert match.num_classes == 3 and match.certain
    outputs[0][0, 5] = 89
    assert DECODERS["yolov7-end2end"].recognise(view(outputs)).numbers.counted is False
    assert DECODERS["yolov7-end2end"].recognise(view(outputs, num_classes=3)) is None


def test_a_run_without_a_row_says_nothing():
    match = DECODERS["yolov7-end2end"].recognise(view([np.zeros((0, 7), np.float32)]))
    assert match is not None and not match.certain and "no row" in match.reason


@pytest.mark.parametrize("spoil", ["batch", "class", "score", "swapped", "nan"])
def test_columns_that_are_others_are_none(spoil):
    (table,) = sound_outputs()
    if spoil == "swapped":  # score before class, as others have it
        table = table[:, [0, 1, 2, 3, 4, 6, 5]]
    else:
        table[2, {"batch": 0, "class": 5, "score": 6, "nan": 1}[spoil]] = np.nan if spoil == "nan" else 1.5
    assert DECODERS["yolov7-end2end"].recognise(view([table])) is None


@pytest.mark.parametrize("shape", [(1, 100, 7), (100, 6), (100, 8)])
def test_what_only_resembles_it_is_not_taken_for_it(shape):
    with pytest.raises(UnknownLayoutError):
        identify([image()], [output(*shape)], {}, family="yolov7-end2end")


def test_a_classifier_of_seven_classes_is_none():
    outputs = [np.array([[0.1, 0.2, 0.1, 0.3, 0.1, 0.1, 0.1]], np.float32)]
    assert DECODERS["yolov7-end2end"].recognise(view(outputs)) is None
    assert identify([image()], infos(outputs), {}, trial=lambda _fed: outputs).family.task == "classify"


def test_the_authors_module_gives_these_rows():
    """Against yolov7detect 1.0.1 (YOLOv7's code): ``ONNX_ORT`` exported and run on a random table."""
    with np.load(Path(__file__).parent / "authors" / "yolov7_end2end.npz") as stored:
        table, rows = stored["table"], stored["output"]
    found = DECODE([rows], HW, 0.05, {})
    raw = DECODERS["yolov5"].decode([table], HW, 0.05, {})
    chosen = nms(raw.xyxy, raw.scores, 0.45, raw.class_id, 100)
    expected = raw.take(chosen)
    assert len(found) == len(rows) == 100 and len(raw) > 150
    assert_same(found, list(zip(expected.xyxy, expected.scores, expected.class_id, strict=True)))
    assert DECODERS["yolov7-end2end"].recognise(view([rows])).certain
