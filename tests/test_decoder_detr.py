"""Logits and boxes of queries: against a loop, against transformers, and which of the kin a model is."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.errors import ModelError, UnknownLayoutError
from tests.decoding import HW, assert_same, image, infos, random

AUTHORS = Path(__file__).parent / "authors" / "detr.npz"
NAMES = repr({i: f"thing {i}" for i in range(20)})


def sound_outputs():
    """Ten queries, each with an even chance between its class and no object, among five."""
    logits = np.full((1, 10, 6), -20, np.float32)
    logits[0, range(10), np.arange(10) % 5] = 3.0
    logits[..., 5] = 3.0 + 0.02 * np.arange(10)
    boxes = np.tile(np.array([0.5, 0.5, 0.3, 0.4], np.float32), (1, 10, 1))
    boxes[..., 0] += 0.01 * np.arange(10, dtype=np.float32)
    return [logits, boxes]


def softmax_by_loop(logits, boxes, threshold):
    for row, (cx, cy, w, h) in zip(logits[0].astype(np.float64), boxes[0].astype(np.float64), strict=True):
        powers = [math.exp(value) for value in row]
        scores = [power / sum(powers) for power in powers][:-1]
        kind = max(range(len(scores)), key=lambda k: scores[k])
        if scores[kind] > threshold:
            yield placed(cx, cy, w, h), scores[kind], kind


def sigmoid_by_loop(logits, boxes, threshold, raw):
    answers = [
        (1 / (1 + math.exp(-value)) if raw else value, query, kind)
        for query, row in enumerate(logits[0].astype(np.float64))
        for kind, value in enumerate(row)
    ]
    for score, query, kind in sorted(answers, reverse=True)[: logits.shape[1]]:
        if score > threshold:
            yield placed(*boxes[0, query].astype(np.float64)), score, kind


def placed(cx, cy, w, h):
    height, width = HW
    return (cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
@pytest.mark.parametrize("exchanged", [False, True])
def test_every_activation_by_loop(threshold, activation, exchanged):
    """A second implementation, from the papers: DETR's softmax, and the best of queries × classes."""
    logits, boxes = random(1, 1, 25, 7), random(2, 1, 25, 4)
    if activation != "none":
        logits = logits * 8 - 4
    if activation == "softmax":
        expected = list(softmax_by_loop(logits, boxes, threshold))
    else:
        expected = list(sigmoid_by_loop(logits, boxes, threshold, activation == "sigmoid"))
    outputs = [boxes, logits] if exchanged else [logits, boxes]
    assert_same(DECODERS["detr"].decode(outputs, HW, threshold, {"activation": activation}), expected)


@pytest.mark.parametrize(
    ("model", "activation"),
    [
        ("detr", "softmax"),
        ("random_detr", "softmax"),
        ("rtdetr", "sigmoid"),
        ("dfine", "sigmoid"),
        ("rfdetr", "sigmoid"),
    ],
)
def test_as_transformers_answers(model, activation):
    """The authors' own code: transformers 5.23, written by tests/authors/detr.py; these have no NMS."""
    data = np.load(AUTHORS)
    scores = data[f"{model}_expected_scores"]
    for threshold in (float(data["conf"]), float(np.median(scores))):
        found = DECODERS["detr"].decode(
            [data[f"{model}_logits"], data[f"{model}_boxes"]],
            tuple(data["hw"]),
            threshold,
            {"activation": activation},
        )
        kept = scores > threshold
        boxes, labels = (data[f"{model}_expected_{part}"][kept] for part in ("boxes", "labels"))
        assert_same(found, list(zip(boxes, scores[kept], labels, strict=True)))


def test_one_output_answers_with_the_best_class_of_each_query():
    rows = np.zeros((1, 3, 4 + 2), np.float32)
    rows[0, :, :4], rows[0, :, 4:] = (0.5, 0.5, 0.2, 0.2), [[0.7, 0.8], [0.9, 0.2], [0.1, 0.2]]
    found = DECODERS["detr-rt"].decode([rows], HW, 0.5, {"activation": "none"})
    assert sorted(zip(found.class_id.tolist(), found.scores.tolist(), strict=True)) == [
        (0, pytest.approx(0.9)),
        (1, pytest.approx(0.8)),
    ]


def test_columns_that_are_no_classes_never_answer():
    logits, boxes = sound_outputs()
    found = DECODERS["detr-rf"].decode([logits, boxes], HW, 0.3, {"activation": "sigmoid", "classes": 5})
    assert set(found.class_id.tolist()) == {0, 1, 2, 3, 4}


def test_softmax_of_extreme_logits_is_quiet_and_exact():
    logits, boxes = sound_outputs()
    logits[0, 0] = [3e38, -3e38, 0, 0, 0, 0]
    found = DECODERS["detr"].decode([logits, boxes], HW, 0.9, {})
    assert found.scores.tolist() == [1.0] and found.class_id.tolist() == [0]


def test_probabilities_are_required_where_no_activation_is_left():
    logits, boxes = sound_outputs()
    with pytest.raises(ModelError, match="expected probabilities"):
        DECODERS["detr"].decode([logits, boxes], HW, 0.3, {"activation": "none"})


def queries(columns, seen="sigmoid", count=100):
    """Answers as real models give: most queries see nothing."""
    logits = random(3, 1, count, columns) * 2 - 7
    logits[0, :2, 0] = 2.0
    if seen == "softmax":
        logits[0, 2:, -1] = 5.0
    if seen == "none":
        logits = 1 / (1 + np.exp(-logits))
    boxes = random(4, 1, count, 4) * 0.3 + 0.3
    return [logits.astype(np.float32), boxes.astype(np.float32)]


def read(outputs, names=("logits", "pred_boxes"), metadata=None):
    return identify([image()], infos(outputs, names), metadata or {}, trial=lambda _fed: outputs)


@pytest.mark.parametrize(
    ("columns", "seen", "names", "family", "classes"),
    [
        (92, "softmax", ("logits", "pred_boxes"), "detr", 91),
        (80, "sigmoid", ("logits", "pred_boxes"), "detr-rt", 80),
        (91, "sigmoid", ("logits", "pred_boxes"), "detr-rf", 91),
        (91, "sigmoid", ("labels", "dets"), "detr-rf", 91),
        (7, "sigmoid", ("labels", "dets"), "detr-rf", 7),
        (80, "none", ("scores", "boxes"), "detr-rt", 80),
    ],
)
def test_the_kin_are_told_apart(columns, seen, names, family, classes):
    found = read(queries(columns, seen), names)
    assert (found.family.name, found.num_classes) == (family, classes)
    softmax = {"softmax": "softmax", "sigmoid": "sigmoid", "none": "none"}[seen]
    assert found.params["activation"] == softmax and not found.family.nms
    fed = {"detr-rt": (255.0, 255.0, 255.0)}.get(family, (58.395, 57.12, 57.375))
    assert found.input["std"] == fed and found.input["resize"] == "stretch"
    assert "cxcywh" in found.holds[1]


def test_the_names_of_classes_and_the_run_decide_where_columns_do_not():
    assert read(queries(21, "softmax"), metadata={"names": NAMES}).family.name == "detr"
    spare = read(queries(21, "sigmoid"), ("labels", "dets"), {"names": NAMES})
    assert (spare.family.name, spare.num_classes, spare.params["classes"]) == ("detr-rf", 20, 20)


def test_four_classes_are_no_boxes():
    logits, boxes = queries(4)
    found = read([boxes, logits], ("dets", "labels"), {"names": "['a', 'b', 'c', 'd']"})
    assert found.holds[0].startswith("boxes") and found.num_classes == 4


def two_classes(person):
    """A sigmoid's answers for [bus, person]: mostly the last column, and the person surely."""
    logits = np.full((1, 100, 2), -6, np.float32) - random(5, 1, 100, 2)
    logits[..., 1] += 2
    logits[0, 0, 1] = 3.0 if person else -3.0
    boxes = np.tile(np.array([0.3, 0.2, 0.05, 0.05], np.float32), (1, 100, 1)) + random(6, 1, 100, 4) * 0.02
    boxes[0, 0] = (711 + 1012) / 2 / 1280, (146 + 577) / 2 / 720, (1012 - 711) / 1280, (577 - 146) / 720
    return [logits, boxes.astype(np.float32)]


def test_a_last_column_that_is_denied_as_the_others_are_is_a_class_where_the_photograph_shows_it():
    found = read(two_classes(person=True))
    assert (found.num_classes, found.params["activation"]) == (2, "sigmoid")
    # How it is fed, the arrays cannot tell here: RF-DETR's own exports have other names.
    assert found.family.name == "detr-rt" and "detr-rt or detr-rf" in found.doubt


def test_whether_the_last_column_means_no_object_is_not_guessed():
    with pytest.raises(UnknownLayoutError, match=r"could be detr.* or detr") as refused:
        read(two_classes(person=False))
    assert {("detr", 1), ("detr-rt", 2)} <= set(refused.value.candidates)


@pytest.mark.parametrize("stated", [None, "detr-rt"])
def test_one_class_is_a_class(stated):
    """With one column the last is always the likeliest, whatever it says."""
    logits, boxes = two_classes(person=True)
    outputs = [logits[..., 1:], boxes]
    names = infos(outputs, ("logits", "pred_boxes"))
    found = identify([image()], names, {}, family=stated, trial=lambda _fed: outputs)
    assert found.family.name in (stated or "detr-rt, detr-rf") and found.num_classes == 1


@pytest.mark.parametrize("family", ["detr-rt", "detr"])
def test_a_stated_family_is_believed_in_what_the_last_column_is(family):
    outputs = two_classes(person=True)
    names = infos(outputs, ("logits", "pred_boxes"))
    found = identify([image()], names, {}, family=family, trial=lambda _fed: outputs)
    assert found.family.name == family


@pytest.mark.parametrize("stated", [None, "detr-rt"])
def test_boxes_that_are_corners_are_read_so(stated):
    logits, boxes = queries(80)
    half = boxes[..., 2:] / 2
    written = np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=2)
    names = infos([logits, written], ("logits", "pred_boxes"))
    found = identify([image()], names, {}, family=stated, trial=lambda _fed: [logits, written])
    assert found.params["boxes"] == "xyxy" and "xyxy in parts of the input" in found.holds[1]
    decoded = found.family.decode([logits, written], HW, 0.5, found.params)
    assert_same(decoded, list(sigmoid_by_loop(logits, boxes, 0.5, True)))
    assert "boxes" not in read([logits, boxes]).params


@pytest.mark.parametrize("names", [("dets", "labels"), ("pred_boxes", "logits"), ("one", "other")])
@pytest.mark.parametrize("exchanged", [False, True])
def test_four_columns_of_classes_are_decoded_as_they_were_recognised(names, exchanged):
    """RF-DETR gives its boxes first, and with three classes of one's own four columns of them."""
    logits, boxes = queries(4)
    outputs, names = ([logits, boxes], names[::-1]) if exchanged else ([boxes, logits], names)
    found = read(outputs, names, {"names": "['a', 'b', 'c', 'd']"})
    decoded = found.family.decode(outputs, HW, 0.5, found.params)
    expected = list(sigmoid_by_loop(logits, boxes, 0.5, True))
    assert len(expected) == 2 and found.holds[0].startswith("logits" if exchanged else "boxes")
    assert_same(decoded, expected)


def test_the_one_output_of_rt_detr_is_told_by_its_boxes():
    logits, boxes = queries(80, "none", 300)
    found = read([np.concatenate([boxes, logits], axis=-1)], ("output0",))
    assert (found.family.name, found.num_classes, found.params) == ("detr-rt", 80, {"activation": "none"})


def test_a_table_that_nothing_confirms_is_doubted():
    logits, boxes = queries(33, "none", 300)
    found = read([np.concatenate([boxes, logits], axis=-1)], ("output0",))
    assert "nothing confirms that it has 33 classes" in found.doubt


def one(count, columns, box):
    rows = random(6, 1, count, columns)
    rows[..., :4] *= box
    return [rows]


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        ([queries(80)[0], queries(80)[1] * 640], ("logits", "pred_boxes")),  # pixels
        ([queries(80)[0][:, :50], queries(80)[1]], ("logits", "pred_boxes")),
        ([queries(80)[0], np.full((1, 100, 4), np.nan, np.float32)], ("logits", "pred_boxes")),
        (one(300, 84, 640), ("output0",)),
        (one(2500, 84, 1), ("output0",)),
        (one(84, 84, 1), ("output0",)),  # a square map of something in 0..1
    ],
)
def test_what_only_has_the_shape_is_not_claimed(outputs, names):
    with pytest.raises(UnknownLayoutError):
        read(outputs, names)


@pytest.mark.parametrize("name", ["detr", "detr-rt", "detr-rf"])
def test_a_grid_is_not_taken_for_queries(name):
    from pipeline.decoders.family import View

    outputs = [random(1, 1, 84, 80) * 4 - 8, random(2, 1, 84, 4)]  # 64 × 64: 64 + 16 + 4 cells
    assert DECODERS[name].recognise(View(tuple(infos(outputs)), (64, 64), arrays=tuple(outputs))) is None
