"""YOLO's oriented boxes against a loop over their formula, and against Ultralytics' own decoding."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.errors import ModelError, UnknownLayoutError
from tests.decoding import HW, assert_same, image, infos, output, passing, random
from tests.heads import assert_authors_candidates, assert_authors_detections, detections, identified, view

FAMILY = DECODERS["yolov8-obb"]
CELLS = 126
DOTA = repr({i: f"thing {i}" for i in range(15)})


def sound_outputs():
    table = np.full((1, 4 + 3 + 1, CELLS), 0.5, np.float32)
    table[:, 0], table[:, 1], table[:, 2], table[:, 3] = np.linspace(40, 50, CELLS), 32, 20, 10
    table[:, 7] = np.linspace(-0.7, 2.3, CELLS)
    return [table]


@pytest.mark.parametrize("form", ["rows", "columns"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_against_a_loop_over_the_formula(form, multi_label):
    """A second implementation: the upright box is that of the corners, from a turned rectangle."""
    rows = random(1, CELLS, 8)
    rows[:, :4] = rows[:, :4] * 40 + 5
    rows[:, 7] = rows[:, 7] * 3 - 0.78
    expected = []
    for row in rows.astype(np.float64):
        cx, cy, w, h = row[:4]
        along = np.array([math.cos(row[7]), math.sin(row[7])])
        across = np.array([-along[1], along[0]])
        corners = np.array(
            [[cx, cy] + a * w / 2 * along + b * h / 2 * across for a in (-1, 1) for b in (-1, 1)]
        )
        for kind in passing(row[4:7], 0.6, multi_label):
            expected.append(((*corners.min(axis=0), *corners.max(axis=0)), row[4 + kind], kind))
    params = {"form": form, "multi_label": multi_label}
    found = FAMILY.decode([(rows.T if form == "rows" else rows)[None]], HW, 0.6, params)
    assert_same(found, expected)
    assert found.rotated.shape == (len(found), 5) and found.rotated.dtype == np.float32


def test_the_authors_package_decodes_the_same():
    """Against ultralytics 8.4: an export of yolo11n-obb with random weights."""
    assert_authors_candidates("yolov8-obb")


def test_the_authors_package_keeps_the_same_and_has_the_same_corners():
    """Against ultralytics 8.4: after its rotated NMS, corners in the picture, in any order."""
    found, expected = assert_authors_detections("yolov8-obb")
    for ours, theirs in zip(found.polygons, expected["after_corners"], strict=True):
        apart = np.abs(ours[:, None] - theirs[None]).max(axis=2)
        assert sorted(apart.argmin(axis=1)) == [0, 1, 2, 3] and apart.min(axis=1).max() < 2e-2


def test_corners_and_sizes_in_a_picture_that_was_stretched():
    """A property: whatever the two scales are, the polygon's corners map onto the rotated box's."""
    from pipeline.vision.letterbox import InputSpec

    outputs = sound_outputs()
    spec = InputSpec(*HW, resize="stretch")
    found = detections("yolov8-obb", outputs, {}, 0.3, 0.99, (128, 48), spec)
    assert len(found) > 0
    by_angle = {round(float(a), 4): x for x, a in zip(outputs[0][0, 0], outputs[0][0, 7], strict=True)}
    for polygon in found.polygons:
        scaled = polygon * [96 / 48, 64 / 128]
        angle = math.atan2(*(scaled[1] - scaled[0])[::-1])
        corners = cv2.boxPoints(((by_angle[round(angle, 4)], 32), (20, 10), math.degrees(angle)))
        apart = np.abs(scaled[:, None] - corners[None]).max(axis=2)
        assert apart.min(axis=1).max() < 1e-2


def test_what_the_authors_export_is_identified_by_its_metadata():
    found = identified("yolov8-obb")
    assert (found.family.name, found.family.task, found.num_classes) == ("yolov8-obb", "obb", 3)


def test_told_by_metadata_or_names():
    found = identify([image()], [output(1, 20, 8400)], {"task": "obb"})
    assert (found.family.name, found.num_classes) == ("yolov8-obb", 15)
    found = identify([image()], [output(1, 20, 8400)], {"names": DOTA})
    assert (found.family.name, found.num_classes) == ("yolov8-obb", 15)


def test_told_by_a_trial_run_alone():
    outputs = sound_outputs()
    found = FAMILY.recognise(view(outputs))
    assert found.num_classes == 3 and not found.certain
    assert "from -0.70 to 2.30 in the trial run" in found.reason
    whole = identify([image(HW)], infos(outputs), {}, trial=lambda _: outputs)
    assert whole.family.name == "yolov8-obb"


def test_a_probability_in_the_place_of_the_angle_is_a_class():
    plain = sound_outputs()
    plain[0][:, 7] = np.linspace(0, 0.9, CELLS)
    assert FAMILY.recognise(view(plain, tried=False)) is not None
    assert FAMILY.recognise(view(plain)) is None


@pytest.mark.parametrize("metadata", [{"task": "detect"}, {"task": "pose"}, {"names": repr(["a"] * 16)}])
def test_what_only_resembles_it_is_not_taken_for_it(metadata):
    try:
        found = identify([image()], [output(1, 20, 8400)], metadata)
    except UnknownLayoutError:
        return
    assert found.family.task != "obb"


@pytest.mark.parametrize(
    "outputs", [[np.zeros((1, 5, 126), np.float32)], [np.zeros((2, 8, 126), np.float32)], []]
)
def test_malformed_outputs_are_named(outputs):
    with pytest.raises(ModelError, match=r"yolov8-obb: expected .*; got "):
        FAMILY.decode(outputs, HW, 0.3, {})


def test_a_box_with_a_size_below_zero_is_none():
    outputs = sound_outputs()
    outputs[0][0, 3, 5] = -1
    outputs[0][0, 7, 6] = np.inf
    assert len(FAMILY.decode(outputs, HW, 0.3, {})) == CELLS - 2
