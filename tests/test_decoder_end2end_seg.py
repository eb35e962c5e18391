"""End-to-end segmentation exports against a loop over their rows, and against Ultralytics' own YOLO26."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.errors import ModelError
from tests.decoding import HW, assert_same, image, infos, output, random
from tests.heads import assert_authors_candidates, assert_authors_detections, authors, identified, view

FAMILY = DECODERS["end2end-seg"]


def sound_outputs():
    table = np.full((1, 30, 6 + 8), 0.5, np.float32)
    table[:, :, :4] = [20, 10, 60, 40]
    table[:, :, 5] = np.arange(30) % 3
    return [table, random(3, 1, 8, 16, 24)]


def test_against_a_loop_over_the_rows():
    """A second implementation, from the description of the layout."""
    table = random(1, 1, 30, 6 + 8)
    table[:, :, :2] *= 20
    table[:, :, 2:4] = table[:, :, :2] + 5 + table[:, :, 2:4] * 20
    table[:, :, 5] = np.arange(30) % 4
    planes = random(2, 1, 8, 16, 24)
    expected = [(row[:4], row[4], row[5]) for row in table[0] if row[4] > 0.4]
    for outputs in ([table, planes], [planes, table]):
        found = FAMILY.decode(outputs, HW, 0.4, {})
        assert_same(found, expected)
        np.testing.assert_array_equal(found.mask_coefficients, table[0][table[0, :, 4] > 0.4, 6:])


def test_the_authors_package_decodes_the_same():
    """Against ultralytics 8.4: an export of yolo26n-seg with random weights."""
    assert_authors_candidates("end2end-seg")


def test_boxes_that_overlap_all_stay_and_the_masks_are_the_authors():
    """Against ultralytics 8.4, whose end-to-end exports go through no NMS."""
    found, _ = assert_authors_detections("end2end-seg")
    masks = np.unpackbits(authors("end2end-seg")[3]["after_masks"], axis=-1).astype(bool)
    boxes = authors("end2end-seg")[3]["after_frame_boxes"]
    shown = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(axis=1)).tolist()
    compared = [(ours, theirs) for ours, theirs in enumerate(shown) if theirs < len(masks)]
    assert len(compared) > 5 and any(masks[theirs].any() for _, theirs in compared)
    for ours, theirs in compared:
        assert (found.masks[ours] != masks[theirs]).mean() < 1e-3


def test_what_the_authors_export_is_identified_by_its_metadata():
    found = identified("end2end-seg")
    assert (found.family.name, found.family.task, found.num_classes) == ("end2end-seg", "segment", 3)
    assert not found.family.nms
    assert found.holds == ("box, score, class + 32 mask coefficients", "32 mask prototypes")


def test_told_by_shapes_and_refuted_by_a_trial_run():
    found = identify([image()], [output(1, 300, 38), output(1, 32, 160, 160, name="p")], {})
    assert (found.family.name, found.num_classes) == ("end2end-seg", 80)
    assert "taken for COCO's 80 class numbers" in found.reasons["family"]
    outputs = sound_outputs()
    assert FAMILY.recognise(view(outputs)) is not None
    outputs[0][0, 3, 5] = 1.5
    assert FAMILY.recognise(view(outputs)) is None
    assert FAMILY.recognise(view(sound_outputs(), task="detect")) is None
    assert FAMILY.recognise(view([sound_outputs()[0][:, :, :13], sound_outputs()[1]])) is None


def test_a_class_that_is_no_whole_number_is_named():
    outputs = sound_outputs()
    outputs[0][0, 3, 5] = 1.5
    with pytest.raises(ModelError, match="end2end-seg: expected the number of a class in column 5"):
        FAMILY.decode(outputs, HW, 0.3, {})


def test_malformed_outputs_are_named():
    table, planes = sound_outputs()
    for outputs in ([table], [table[:, :, :13], planes], [table, planes[0]], [table, planes, planes]):
        with pytest.raises(ModelError, match=r"end2end-seg: expected .*; got "):
            FAMILY.decode(outputs, HW, 0.3, {})
    assert len(infos(sound_outputs())) == 2
