"""Rows of box, score and class: by loop, against Ultralytics, and told from what only looks like them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from pipeline import Detector
from pipeline.decoders import DECODERS, Candidates, identify
from pipeline.decoders.scene import agreement, objects_in
from pipeline.errors import ModelError, UnknownLayoutError
from pipeline.runtime.session import Session
from pipeline.runtime.trial import Trial, photograph
from pipeline.vision.letterbox import InputSpec, Letterbox
from tests.decoding import HW, assert_same, image, infos, random

ULTRALYTICS = {"author": "Ultralytics", "end2end": "True"}
CAT, PERSON = (
    (59 / 2, 341 / 2 + 140, 466 / 2, 652 / 2 + 140),
    (715 / 2, 148 / 2 + 140, 1006 / 2, 573 / 2 + 140),
)
"""Where a detector finds them in the trial's photograph, letterboxed into 640 × 640."""


def sound_outputs():
    rows = np.zeros((1, 12, 6), np.float32)
    rows[0, :, :4] = [10, 8, 30, 28] + np.arange(12)[:, None]
    rows[0, :, 4], rows[0, :, 5] = 0.4 + 0.01 * np.arange(12), np.arange(12) % 3
    return [rows]


@pytest.mark.parametrize("name", ["end2end", "end2end-centernet", "end2end-rtdetr"])
@pytest.mark.parametrize("form", ["xyxy", "yxyx", "cxcywh"])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("class_first", [False, True])
def test_every_form_by_loop(name, form, normalised, class_first):
    """A second implementation, from the layout's description."""
    numbers = random(3, 40, 6)
    expected, rows = [], []
    for x, y, w, h, score, kind in numbers.astype(np.float64):
        left, top, right, bottom = x * 60, y * 40, x * 60 + w * 30 + 1, y * 40 + h * 20 + 1
        box = {
            "xyxy": (left, top, right, bottom),
            "yxyx": (top, left, bottom, right),
            "cxcywh": ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top),
        }[form]
        sides = (HW[0], HW[1]) * 2 if form == "yxyx" else (HW[1], HW[0]) * 2
        if normalised:
            box = tuple(value / side for value, side in zip(box, sides, strict=True))
        label = int(kind * 5)
        rows.append([*box, *((label, score) if class_first else (score, label))])
        if score > 0.3:
            expected.append(((left, top, right, bottom), score, label))
    params = {"boxes": form, "normalised": normalised, "class_first": class_first}
    found = DECODERS[name].decode([np.array([rows], np.float32)], HW, 0.3, params)
    assert_same(found, expected)


def test_as_ultralytics_answers():
    """The authors' own code: ultralytics 8.4, written by tests/authors/end2end.py."""
    data = np.load(Path(__file__).parent / "authors" / "end2end.npz")
    for model in ("yolov10", "yolo26", "nms"):
        raw, expected = data[f"{model}_raw"], data[f"{model}_expected"]
        found = DECODERS["end2end"].decode([raw], tuple(data["hw"]), float(data["conf"]), {})
        assert_same(found, [(row[:4], row[4], int(row[5])) for row in expected])
    raw, expected = data["rtdetr_raw"], data["rtdetr_expected"]
    found = DECODERS["end2end-rtdetr"].decode(
        [raw], tuple(data["hw"]), float(data["conf"]), {"boxes": "cxcywh", "normalised": True}
    )
    assert_same(found, [(row[:4], row[4], int(row[5])) for row in expected])


def test_classes_that_are_no_numbers_of_classes_are_refused():
    rows = sound_outputs()[0]
    for wrong in (0.5, -1, 1e9):
        rows[0, 3, 5] = wrong
        with pytest.raises(ModelError, match="end2end: expected the number of a class in column 5"):
            DECODERS["end2end"].decode([rows], HW, 0.3, {})
    assert len(DECODERS["end2end"].decode([rows], HW, 0.45, {})) == 6  # its score is below


def test_feature_maps_may_stand_beside_the_rows_with_the_batch_axis_or_without():
    rows = sound_outputs()[0]
    maps = [np.zeros((1, 3, 16, 24), np.float32), np.zeros((1, 4, 16, 24), np.float32)]
    for outputs in ([rows, *maps], [maps[0], rows, maps[1]], [rows[0], *(m[0] for m in maps)]):
        assert len(DECODERS["end2end"].decode(outputs, HW, 0.3, {})) == 12
    with pytest.raises(ModelError, match="end2end: expected"):
        DECODERS["end2end"].decode([rows, rows], HW, 0.3, {})


def answers(boxes=(CAT, PERSON), scores=(0.8, 0.7), classes=(15, 0), count=300):
    rows = np.zeros((1, count, 6), np.float32)
    for index, (box, score, kind) in enumerate(zip(boxes, scores, classes, strict=True)):
        rows[0, index] = [*box, score, kind]
    return rows


def read(rows, metadata=None, names=("output0",), shape=None):
    """Identify a model that always answers so; whatever it is fed."""
    outputs = [rows] if isinstance(rows, np.ndarray) else rows
    return identify([image()], infos(outputs, names), metadata or {}, trial=lambda _fed: outputs)


def test_ultralytics_metadata_make_it_certain():
    found = read(answers(), ULTRALYTICS)
    assert (found.family.name, found.params, found.num_classes) == ("end2end", {}, 80)
    assert "score in column 4" in found.reasons["family"] and not found.family.nms
    assert "box (xyxy in input pixels)" in found.holds[0]


def test_class_numbers_that_nothing_names_are_cocos_only_where_the_run_shows_it():
    assert read(answers(), ULTRALYTICS).counted
    own = read(answers(classes=(1, 1)), ULTRALYTICS)
    assert own.num_classes == 1000 and not own.counted
    assert "nothing names" in own.reasons["family"]
    alone = read(answers(boxes=((500, 500, 600, 560), PERSON), classes=(0, 0)), ULTRALYTICS)
    assert alone.num_classes == 80 and "a person found under number 0, the first" in alone.doubt
    named = read(answers(classes=(0, 0)), {**ULTRALYTICS, "names": "['bolt', 'nut']"})
    assert named.num_classes == 2 and named.doubt is None


def test_the_columns_and_the_form_of_the_boxes_are_told_from_the_run():
    rows = answers()
    exchanged = rows[..., [0, 1, 2, 3, 5, 4]]
    assert read(exchanged, ULTRALYTICS).params == {"class_first": True}
    turned = rows[..., [1, 0, 3, 2, 4, 5]]
    assert read(turned, ULTRALYTICS).params == {"boxes": "yxyx"}
    parts = rows / np.array([640, 640, 640, 640, 1, 1], np.float32)
    assert read(parts, ULTRALYTICS).params == {"normalised": True}
    centred = rows.copy()
    centred[..., :2], centred[..., 2:4] = (rows[..., :2] + rows[..., 2:4]) / 2, rows[..., 2:4] - rows[..., :2]
    assert read(centred, ULTRALYTICS).params == {"boxes": "cxcywh"}


def test_rt_detr_of_ultralytics_gives_centre_and_size_in_parts_of_a_stretched_picture():
    boxes = [(0.205, 0.69, 0.318, 0.432), (0.672, 0.5, 0.227, 0.59)]
    found = read(answers(boxes), {"author": "Ultralytics", "description": "Ultralytics RT-DETR-l model"})
    assert found.family.name == "end2end-rtdetr" and found.input["resize"] == "stretch"
    assert found.params == {"normalised": True, "boxes": "cxcywh"}


@pytest.mark.parametrize(
    "rows",
    [
        np.concatenate([answers()[..., :4], random(1, 1, 300, 2)], axis=-1),  # two classes, or 5 + 1
        np.concatenate([answers()[..., :4], 7 * random(2, 1, 300, 2)], axis=-1),  # logits
        answers(count=1575),  # a grid's cells at 480 × 480, more than such a model answers
        answers()[..., :5],
        answers(classes=(90, 0)),  # a class beyond the names
    ],
)
def test_what_only_has_the_shape_is_not_claimed(rows):
    names = repr({i: str(i) for i in range(80)})
    with pytest.raises(UnknownLayoutError):
        read(rows, {"names": names, "author": "Ultralytics"})


def test_a_raw_grid_of_two_classes_is_not_taken_for_rows_even_where_its_scores_are_whole():
    rows = np.zeros((1, 84, 6), np.float32)  # 64 × 64: 64 + 16 + 4 cells
    assert DECODERS["end2end"].recognise(view_of(rows, (64, 64))) is None
    assert DECODERS["end2end"].recognise(view_of(rows, (128, 128))) is not None


def view_of(rows, input_hw):
    from pipeline.decoders.family import View

    return View(tuple(infos([rows])), input_hw, arrays=(rows,))


def test_a_classifier_of_six_classes_is_none():
    assert DECODERS["end2end"].recognise(view_of(np.zeros((1, 6), np.float32), (64, 64))) is None


def test_the_way_of_feeding_is_the_one_whose_boxes_lie_on_what_is_to_be_seen():
    """Without names and metadata: hundreds of sure boxes lose against two in the right places."""
    numbers = random(5, 1, 300, 6)
    wild = numbers * np.array([300, 300, 300, 300, 1, 80], np.float32)
    wild[..., 2:4] += wild[..., :2]
    wild[..., 5] = np.floor(wild[..., 5])

    def identified(right):
        return identify(
            [image()],
            infos([wild]),
            {},
            trial=lambda fed: [answers() if (fed["std"][0] == 1) == right else wild],
        ).family.name

    assert identified(True) == "end2end-centernet"
    assert identified(False) == "end2end"
    same = identify([image()], infos([wild]), {}, trial=lambda _fed: [answers()])
    assert same.doubt is not None and "does not tell how it is fed (end2end or end2end-" in same.doubt


@pytest.mark.assets
def test_real_models_stripped_of_names_and_metadata_are_told_apart(assets, tmp_path):
    import onnx

    for file, outputs, family in (
        ("yolo26n_deq", 1, "end2end"),
        ("centernet_mbv3_512_faithful", 1, "end2end-centernet"),
    ):
        model = onnx.load(assets / "models" / f"{file}.onnx")
        del model.metadata_props[:], model.graph.output[outputs:]
        onnx.save(model, tmp_path / "model.onnx")
        session = Session(tmp_path / "model.onnx", "cpu")
        found = identify(session.inputs, session.outputs, session.metadata, trial=Trial(session))
        assert found.family.name == family and "agree" in found.evidence


@pytest.mark.assets
def test_real_models_are_known_with_no_options(assets):
    for file, family in (
        ("yolo26n_deq", "end2end"),
        ("centernet_mbv3_512_faithful", "end2end-centernet"),
    ):
        detector = Detector(str(assets / "models" / f"{file}.onnx"))
        assert detector.model.family.name == family


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("align", ["center", "top-left"])
@pytest.mark.parametrize("input_hw", [(640, 640), (256, 416), (480, 320)])
def test_the_known_objects_are_where_a_detector_finds_them(resize, align, input_hw):
    """What judges the ways of feeding lies, however the picture is fed, where the bundled model sees it."""
    spec = InputSpec(*input_hw, resize=resize, align=align)
    where = Letterbox.of(*photograph().shape[:2], spec)
    objects = objects_in(input_hw, resize, align)
    expected = where.letterbox(np.array(found_in_photograph(), np.float32))
    assert np.abs(objects - expected).max() < 45 * max(where.width / 1280, where.height / 720)


@lru_cache(maxsize=1)
def found_in_photograph():
    found = Detector().detect(photograph(), conf=0.4)
    return [found.xyxy[list(found.labels).index(label)] for label in ("person", "cat")]


def test_agreement_is_high_for_the_objects_alone():
    objects = objects_in((640, 640), "letterbox", "center")
    one = np.ones(2, np.float32)
    assert agreement(Candidates(objects, one, one.astype(np.int32)), objects) == pytest.approx(1.0)
    assert agreement(Candidates.empty(), objects) == 0
    many = Candidates(np.repeat(objects, 50, axis=0), np.ones(100, np.float32), np.zeros(100, np.int32))
    assert agreement(many, objects) == pytest.approx(4 / 102)  # each repetition is a false alarm
    assert agreement(many, objects_in((640, 640), "crop", "center")) == 0
    elsewhere = Candidates(objects + 640, one, one.astype(np.int32))
    assert agreement(elsewhere, objects) == 0
