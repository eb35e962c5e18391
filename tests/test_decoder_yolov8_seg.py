"""YOLO segmentation against a loop over its formula, and against Ultralytics' own decoding and masks."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.errors import ModelError, UnknownLayoutError
from tests.decoding import HW, assert_same, image, infos, output, passing, random
from tests.heads import FRAME, assert_authors_candidates, assert_authors_detections, authors, identified, view

DECODE = DECODERS["yolov8-seg"].decode
CELLS = 126


def sound_outputs():
    table = np.full((1, 4 + 3 + 8, CELLS), 0.5, np.float32)
    table[:, 0], table[:, 1], table[:, 2:4] = 48, 32, 20
    return [table, random(3, 1, 8, 16, 24)]


def by_loop(rows, classes, threshold, multi_label, objectness=False):
    """Each row: centre and size, perhaps an objectness, classes, coefficients."""
    for row in rows.astype(np.float64):
        first = 5 if objectness else 4
        scores = row[first : first + classes] * (row[4] if objectness else 1)
        cx, cy, w, h = row[:4]
        for kind in passing(scores, threshold, multi_label):
            box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
            yield box, scores[kind], kind, row[first + classes :]


@pytest.mark.parametrize("form", ["rows", "columns", "objectness"])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_against_a_loop_over_the_formula(form, multi_label, threshold):
    """A second implementation, from the description of the layout."""
    head = 5 if form == "objectness" else 4
    rows = random(1, CELLS, head + 3 + 8)
    rows[:, :4] = rows[:, :4] * 40 + 5
    expected = list(by_loop(rows, 3, threshold, multi_label, form == "objectness"))
    table = (rows.T if form == "rows" else rows)[None]
    planes = random(2, 1, 8, 16, 24)
    params = {"form": form, "multi_label": multi_label}
    for outputs in ([table, planes], [planes, table]):
        found = DECODE(outputs, HW, threshold, params)
        assert_same(found, [entry[:3] for entry in expected])
        assert found.prototypes.shape == (8, 16, 24)
        by_box = {tuple(np.round(box, 2)): coefficients for box, _, _, coefficients in expected}
        for box, coefficients in zip(found.xyxy, found.mask_coefficients, strict=True):
            nearest = min(by_box, key=lambda other: np.abs(box - other).max())
            np.testing.assert_allclose(coefficients, by_box[nearest], rtol=1e-5)


def test_the_authors_package_decodes_the_same():
    """Against ultralytics 8.4: an export of yolov8n-seg with random weights."""
    assert_authors_candidates("yolov8-seg")


def test_the_authors_package_keeps_the_same_and_has_the_same_masks():
    """Against ultralytics 8.4: after NMS, boxes and masks in the picture."""
    found, _ = assert_authors_detections("yolov8-seg")
    masks = np.unpackbits(authors("yolov8-seg")[3]["after_masks"], axis=-1).astype(bool)
    boxes = authors("yolov8-seg")[3]["after_frame_boxes"]
    shown = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1)).tolist()
    compared = [(ours, theirs) for ours, theirs in enumerate(shown) if theirs < len(masks)]
    assert len(compared) > 5 and any(masks[theirs].any() for _, theirs in compared)
    for ours, theirs in compared:
        mask = found.masks[ours]
        assert mask.shape == FRAME
        # A logit of almost 0 may fall to either side.
        assert (mask != masks[theirs]).mean() < 1e-3


def test_what_the_authors_export_is_identified_by_its_metadata():
    found = identified("yolov8-seg")
    assert (found.family.name, found.family.task, found.num_classes) == ("yolov8-seg", "segment", 3)
    assert found.holds == ("4 + 3 classes + 32 mask coefficients", "32 mask prototypes")


@pytest.mark.parametrize(
    ("shape", "planes", "classes", "form"),
    [
        ((1, 116, 8400), (1, 32, 160, 160), 80, "rows"),
        ((1, 37, 8400), (1, 32, 160, 160), 1, "rows"),
        ((1, 8400, 116), (1, 32, 160, 160), 80, "columns"),
        ((1, 25200, 117), (1, 32, 160, 160), 80, "objectness"),
    ],
)
def test_two_outputs_of_which_one_has_as_many_planes_as_the_other_has_coefficients(
    shape, planes, classes, form
):
    for outputs in (
        [output(*shape), output(*planes, name="p")],
        [output(*planes, name="p"), output(*shape)],
    ):
        found = identify([image()], outputs, {})
        assert (found.family.name, found.num_classes) == ("yolov8-seg", classes)
        assert found.params["form"] == form
        assert found.holds[[len(o.shape) for o in outputs].index(4)] == "32 mask prototypes"


@pytest.mark.parametrize(
    ("outputs", "metadata"),
    [
        ([output(1, 116, 8400), output(1, 32, 160, 160)], {"task": "detect"}),
        ([output(1, 116, 8400), output(1, 32, 160, 160)], {"names": "{0: 'one'}"}),
        ([output(1, 116, 8401), output(1, 32, 160, 160)], {}),
        ([output(1, 116, 8400), output(1, 32, 160, 80)], {}),
        ([output(1, 116, 8400), output(1, 113, 160, 160)], {}),
    ],
)
def test_what_only_resembles_it_is_not_taken_for_it(outputs, metadata):
    with pytest.raises(UnknownLayoutError):
        identify([image()], outputs, metadata)


def test_a_dynamic_export_is_told_by_its_names():
    declared = infos(sound_outputs())
    free = [output(None, 15, None), output(None, 8, None, None, name="p")]
    found = identify([image(HW)], free, {"names": "['a', 'b', 'c']", "task": "segment"})
    assert (found.family.name, found.num_classes) == ("yolov8-seg", 3)
    assert DECODERS["yolov8-seg"].recognise(view(sound_outputs())).num_classes == 3
    assert len(declared) == 2


@pytest.mark.parametrize(
    "outputs",
    [
        [np.zeros((1, 116, 126), np.float32)],
        [np.zeros((1, 12, 126), np.float32), np.zeros((1, 8, 16, 24), np.float32)],
        [np.zeros((1, 15, 126), np.float32), np.zeros((2, 8, 16, 24), np.float32)],
        [np.zeros((1, 15, 126), np.float32), np.zeros((1, 8, 0, 24), np.float32)],
        [np.zeros((1, 15, 126), np.float32), np.zeros((1, 8, 16, 24), np.int64)],
        [np.zeros((1, 15, 126), np.float32), np.zeros((1, 15, 126), np.float32)],
    ],
)
def test_malformed_outputs_are_named(outputs):
    if outputs[0].shape[1] == 12:  # four of a box and eight coefficients leave no class
        outputs[0] = outputs[0][:, :12]
    with pytest.raises(ModelError, match=r"yolov8-seg: expected .*; got "):
        DECODE(outputs, HW, 0.3, {})


def test_params_of_a_card():
    family = DECODERS["yolov8-seg"]
    assert family.check_params({"form": "objectness"}) == {"form": "objectness"}
    with pytest.raises(ModelError, match="form: expected one of rows, columns, objectness; got 'end2end'"):
        family.check_params({"form": "end2end"})
