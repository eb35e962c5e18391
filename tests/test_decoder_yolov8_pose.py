"""YOLO pose against a loop over its formula, and against Ultralytics' own decoding."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.errors import ModelError, UnknownLayoutError
from tests.decoding import HW, assert_same, image, infos, output, passing, random
from tests.heads import assert_authors_candidates, assert_authors_detections, identified, view

FAMILY = DECODERS["yolov8-pose"]
CELLS = 126
PERSON = "{0: 'person'}"


def sound_outputs():
    """One class, five keypoints."""
    table = np.full((1, 5 + 15, CELLS), 0.5, np.float32)
    table[:, 0], table[:, 1], table[:, 2:4] = 48, 32, np.linspace(15, 25, CELLS)
    for k in range(5):
        table[:, 5 + 3 * k] = np.linspace(2, 90, CELLS)
        table[:, 6 + 3 * k] = np.linspace(3, 60, CELLS)
    return [table]


@pytest.mark.parametrize("values", [2, 3])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("form", ["rows", "columns"])
def test_against_a_loop_over_the_formula(values, classes, form):
    """A second implementation, from the description of the layout."""
    rows = random(1, CELLS, 4 + classes + 4 * values)
    rows[:, :4] = rows[:, :4] * 40 + 5
    found = FAMILY.decode(
        [(rows.T if form == "rows" else rows)[None]], HW, 0.6, {"kpt_shape": (4, values), "form": form}
    )
    expected, points = [], []
    for row in rows.astype(np.float64):
        for kind in passing(row[4 : 4 + classes], 0.6, False):
            cx, cy, w, h = row[:4]
            expected.append(((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), row[4 + kind], kind))
            rest = row[4 + classes :]
            points.append(
                [
                    [*rest[k * values : k * values + 2], rest[k * values + 2] if values == 3 else 1.0]
                    for k in range(4)
                ]
            )
    assert_same(found, expected)
    assert found.keypoints.shape == (len(expected), 4, 3) and found.keypoints.dtype == np.float32
    np.testing.assert_allclose(found.keypoints, points, rtol=1e-6)


def test_the_authors_package_decodes_the_same():
    """Against ultralytics 8.4: an export of yolo11n-pose with random weights."""
    assert_authors_candidates("yolov8-pose")


def test_the_authors_package_keeps_the_same_and_has_the_same_keypoints():
    """Against ultralytics 8.4: after NMS, boxes and keypoints in the picture."""
    found, expected = assert_authors_detections("yolov8-pose")
    np.testing.assert_allclose(found.keypoints, expected["after_frame_keypoints"], atol=1e-3)


def test_what_the_authors_export_is_identified_by_its_metadata():
    found = identified("yolov8-pose")
    assert (found.family.name, found.family.task, found.num_classes) == ("yolov8-pose", "pose", 1)
    assert found.params == {"form": "rows", "kpt_shape": (17, 3)}
    assert "metadata kpt_shape [17, 3]" in found.reasons["family"]


@pytest.mark.parametrize(
    ("shape", "metadata", "kpt_shape"),
    [
        ((1, 56, 8400), {"task": "pose", "kpt_shape": "[17, 3]"}, (17, 3)),
        ((1, 56, 8400), {"task": "pose", "names": PERSON}, (17, 3)),
        ((1, 56, 8400), {"names": PERSON}, (17, 3)),
        ((1, 13, 8400), {"task": "pose", "kpt_shape": "[4, 2]", "names": PERSON}, (4, 2)),
        ((1, 8400, 56), {"task": "pose", "kpt_shape": "[17, 3]", "names": PERSON}, (17, 3)),
    ],
)
def test_told_by_metadata(shape, metadata, kpt_shape):
    found = identify([image()], [output(*shape)], metadata)
    assert (found.family.name, found.params["kpt_shape"]) == ("yolov8-pose", kpt_shape)


def test_told_by_a_trial_run_alone():
    outputs = sound_outputs()
    found = FAMILY.recognise(view(outputs))
    assert (found.num_classes, found.params) == (1, {"form": "rows", "kpt_shape": (5, 3)})
    assert "places and probabilities in the trial run" in found.reason and not found.certain
    whole = identify([image(HW)], infos(outputs), {}, trial=lambda _: outputs)
    assert whole.family.name == "yolov8-pose"


def test_probabilities_in_the_place_of_keypoints_are_classes():
    plain = sound_outputs()
    plain[0][:, 4:] = 0.5
    assert FAMILY.recognise(view(plain, tried=False)) is not None
    assert FAMILY.recognise(view(plain)) is None


@pytest.mark.parametrize(
    "metadata",
    [{"task": "detect"}, {"task": "obb"}, {"names": "['a', 'b']"}, {"kpt_shape": "[4, 3]", "names": PERSON}],
)
def test_what_only_resembles_it_is_not_taken_for_it(metadata):
    try:
        found = identify([image()], [output(1, 56, 8400)], metadata)
    except UnknownLayoutError:
        return
    assert found.family.task != "pose"


@pytest.mark.parametrize(
    ("table", "params"),
    [
        (np.zeros((1, 6, 126), np.float32), {}),
        (np.zeros((1, 9, 126), np.float32), {}),
        (np.zeros((1, 12, 126), np.float32), {"kpt_shape": (17, 3)}),
        (np.zeros(3, np.float32), {}),
    ],
)
def test_malformed_outputs_are_named(table, params):
    with pytest.raises(ModelError, match=r"yolov8-pose: expected .*; got "):
        FAMILY.decode([table], HW, 0.3, params)


def test_a_keypoint_that_is_none_takes_its_box_with_it_alone():
    outputs = sound_outputs()
    outputs[0][0, 9, 7] = np.nan
    found = FAMILY.decode(outputs, HW, 0.3, {})
    assert len(found) == CELLS - 1 and np.isfinite(found.keypoints).all()


def test_params_of_a_card():
    assert FAMILY.check_params({"kpt_shape": [21, 3]}) == {"kpt_shape": (21, 3)}
    for wrong in ([17], [17, 4], [0, 3], 17, [17.0, 3], [True, 3]):
        with pytest.raises(ModelError, match="kpt_shape: expected"):
            FAMILY.check_params({"kpt_shape": wrong})
