"""YOLOv6 against a loop over its formula. No package of its authors installs: a second implementation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from tests.decoding import HW, assert_same, cells, image, infos, passing, random
from tests.heads import view

DECODE = DECODERS["yolov6"].decode
CELLS = 126


def sound_outputs():
    table = np.full((1, CELLS, 8), 0.5, np.float32)
    table[..., :5] = (48, 32, 20, 16, 1)
    return [table]


def by_loop(table, threshold, multi_label, normalised):
    for row in table.astype(np.float64):
        cx, cy, w, h = row[:4] * ([HW[1], HW[0]] * 2 if normalised else [1] * 4)
        for kind in passing(row[5:], threshold, multi_label):
            yield (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), row[5 + kind], kind


@pytest.mark.parametrize("threshold", [0.0, 0.6])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_against_a_loop_over_the_formula(threshold, multi_label, normalised):
    """A second implementation, from the description of the layout."""
    table = random(1, 1, CELLS, 5 + 4)
    table[0, :, :4] *= 1 if normalised else 90
    table[0, :, 4] = 1
    found = DECODE([table], HW, threshold, {"multi_label": multi_label, "normalised": normalised})
    assert_same(found, list(by_loop(table[0], threshold, multi_label, normalised)))


def laid_out(classes=3, unit="pixels", objectness=1.0):
    """A table as a detector would give it: each box near its cell."""
    generator, places = np.random.default_rng(2), cells(HW, (8, 16, 32))
    center = np.array([[(x + 0.5) * s, (y + 0.5) * s] for x, y, s in places])
    center += generator.normal(0, 4, center.shape)
    sizes = generator.random((CELLS, 2)) * 30 + 2
    table = np.concatenate([center, sizes, np.full((CELLS, 1), objectness)], axis=1)
    table = np.concatenate([table, generator.random((CELLS, classes)) ** 4], axis=1).astype(np.float32)
    if unit == "parts":
        table[:, :4] /= [HW[1], HW[0]] * 2
    return [table[None]]


@pytest.mark.parametrize("unit", ["pixels", "parts"])
@pytest.mark.parametrize("objectness", [1.0, 0.997])
def test_an_objectness_of_one_tells_it_from_yolox_and_yolov8(unit, objectness):
    outputs = laid_out(3, unit, objectness)
    found = identify([image(HW)], infos(outputs), {}, trial=lambda _fed: outputs)
    assert (found.family.name, found.num_classes) == ("yolov6", 3)
    assert found.params == {"normalised": unit == "parts"}
    assert "objectness is 1 everywhere" in found.reasons["family"]
    assert DECODERS["yolox"].recognise(view(outputs)) is None
    assert DECODERS["yolov8"].recognise(view(outputs)) is None


@pytest.mark.parametrize("spoil", ["objectness", "places", "logits", "order"])
def test_what_answers_otherwise_is_none(spoil):
    (table,) = laid_out()
    assert DECODERS["yolov6"].recognise(view([table])) is not None
    if spoil == "objectness":
        table[0, 50, 4] = 0.5
    elif spoil == "places":
        table[..., :2] = 0.3
    elif spoil == "logits":
        table[..., 5:] -= 2
    else:
        table[0] = table[0, ::-1]
    assert DECODERS["yolov6"].recognise(view([table])) is None


def test_untried_it_gives_way_to_yolox():
    (table,) = laid_out(80)
    assert not DECODERS["yolov6"].recognise(view([table], tried=False)).certain
    assert identify([image(HW)], infos([table]), {}).family.name == "yolox"


def test_levels_the_other_way_round_are_none_but_what_a_card_states_is_believed():
    (table,) = laid_out()
    coarse_first = np.concatenate([table[:, 120:], table[:, 96:120], table[:, :96]], axis=1)
    assert DECODERS["yolov6"].recognise(view([coarse_first])) is None
    match = DECODERS["yolov6"].recognise(replace(view([coarse_first]), stated=True))
    assert match.params == {"normalised": False} and "does not show" in match.reason
