"""End-to-end exports of oriented boxes against a loop, and against Ultralytics' own YOLO26."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.errors import ModelError
from tests.decoding import HW, assert_same, image, infos, output, random
from tests.heads import assert_authors_candidates, assert_authors_detections, identified, view

FAMILY = DECODERS["end2end-obb"]


def sound_outputs():
    table = np.full((1, 30, 7), 0.5, np.float32)
    table[:, :, 0], table[:, :, 1:4] = np.linspace(30, 60, 30), [32, 20, 10]
    table[:, :, 5] = np.arange(30) % 3
    table[:, :, 6] = np.linspace(-0.7, 1.5, 30)
    return [table]


def test_against_a_loop_over_the_rows():
    """A second implementation: the upright box is that of the turned corners."""
    table = random(1, 1, 30, 7)
    table[:, :, :4] = table[:, :, :4] * 30 + 5
    table[:, :, 5] = np.arange(30) % 4
    expected = []
    for cx, cy, w, h, score, kind, angle in table[0].astype(np.float64):
        if score > 0.4:
            turn = complex(math.cos(angle), math.sin(angle))
            corners = [
                complex(cx, cy) + turn * complex(a * w / 2, b * h / 2) for a in (-1, 1) for b in (-1, 1)
            ]
            xs, ys = [c.real for c in corners], [c.imag for c in corners]
            expected.append(((min(xs), min(ys), max(xs), max(ys)), score, kind))
    found = FAMILY.decode([table], HW, 0.4, {})
    assert_same(found, expected)
    np.testing.assert_array_equal(found.rotated, table[0][table[0, :, 4] > 0.4][:, [0, 1, 2, 3, 6]])


def test_the_authors_package_decodes_the_same():
    """Against ultralytics 8.4: an export of yolo26n-obb with random weights."""
    assert_authors_candidates("end2end-obb")


def test_the_authors_package_keeps_the_same_and_has_the_same_corners():
    """Against ultralytics 8.4: corners in the picture, in any order, without any NMS."""
    found, expected = assert_authors_detections("end2end-obb")
    for ours, theirs in zip(found.polygons, expected["after_corners"], strict=True):
        apart = np.abs(ours[:, None] - theirs[None]).max(axis=2)
        assert sorted(apart.argmin(axis=1)) == [0, 1, 2, 3] and apart.min(axis=1).max() < 2e-2


def test_what_the_authors_export_is_identified_by_its_metadata():
    found = identified("end2end-obb")
    assert (found.family.name, found.family.task, found.num_classes) == ("end2end-obb", "obb", 3)


def test_told_by_a_trial_run_alone():
    outputs = sound_outputs()
    found = FAMILY.recognise(view(outputs))
    assert found.num_classes == 15 and not found.certain
    whole = identify([image(HW)], infos(outputs), {}, trial=lambda _: outputs)
    assert whole.family.name == "end2end-obb"


def test_what_only_resembles_it_is_not_taken_for_it():
    assert FAMILY.recognise(view(sound_outputs(), task="detect")) is None
    for other in (0.5, np.linspace(0, 100, 30)):  # no network turns all alike, or in degrees
        odd = sound_outputs()
        odd[0][:, :, 6] = other
        assert FAMILY.recognise(view(odd)) is None
    numbered = sound_outputs()
    numbered[0][:, :, 4:6] = numbered[0][:, :, 5:3:-1]  # a class first, then the score
    assert FAMILY.recognise(view(numbered)) is None
    many = identify([image()], [output(1, 8400, 7)], {"names": "['a', 'b']"})
    assert many.family.task != "obb"


@pytest.mark.parametrize("shape", [(1, 30, 6), (1, 30, 8), (2, 30, 7), (30,)])
def test_malformed_outputs_are_named(shape):
    with pytest.raises(ModelError, match=r"end2end-obb: expected .*; got "):
        FAMILY.decode([np.zeros(shape, np.float32)], HW, 0.3, {})
