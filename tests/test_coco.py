"""Whether unnamed classes are COCO's, by what lies on the person and the cat of the photograph."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoders import identify
from pipeline.decoders.scene import objects_in
from pipeline.runtime.labels import default_labels
from tests.decoding import image, infos

PERSON, CAT = objects_in((640, 640), "letterbox", "center")


def answer(person: int, cat: int, score: float) -> list[np.ndarray]:
    """What an end-to-end detector gives: rows of box, score, class."""
    rows = np.zeros((1, 300, 6), np.float32)
    rows[0, 0], rows[0, 1] = (*PERSON, score, person), (*CAT, score, cat)
    rows[0, 2] = *PERSON, score - 0.1, 0  # another box, less sure
    return [rows]


@pytest.mark.parametrize(
    ("person", "cat", "score", "against"),
    [
        (0, 15, 0.8, None),
        (0, 16, 0.8, None),  # a cat taken for a dog
        (0, 3, 0.8, "the cat under number 3"),
        (1, 16, 0.8, "the person under number 1"),
        (0, 0, 0.8, "the cat under number 0"),
    ],
)
def test_what_lies_on_the_person_and_the_cat(person, cat, score, against):
    outputs = answer(person, cat, score)
    metadata = {"author": "Ultralytics"}
    found = identify([image()], infos(outputs), metadata, trial=lambda _fed: outputs)
    assert found.family.name == "end2end"
    if against is None:
        assert found.unlike_coco is None and found.num_classes == 80
    else:
        assert against in found.unlike_coco and not found.counted and found.num_classes == 1000
    names = {**metadata, "names": repr([f"thing {i}" for i in range(20)])}
    assert identify([image()], infos(outputs), names, trial=lambda _fed: outputs).unlike_coco is None


@pytest.mark.parametrize("classes", [80, 91])
def test_a_classifier_of_as_many_classes_has_no_name_of_cocos(classes):
    scores = np.full((1, classes), 0.5 / classes, np.float32)
    scores[0, 3] += 0.5
    found = identify([image()], infos([scores]), {"task": "classify"}, trial=lambda _fed: [scores])
    labels, warning = default_labels(found, dict(found.reasons))
    assert labels[:2] == ("class 0", "class 1") and len(labels) == classes
    assert f"nothing names its {classes} classes" in warning


def test_a_model_fed_wrongly_keeps_its_names_where_it_is_right_when_fed_better():
    """As CenterNet is with its colours exchanged in the graph: then it takes the cat for something else."""
    right, wrong = answer(0, 15, 0.8), answer(0, 3, 0.5)

    def trial(fed):
        return right if fed["color"] == "BGR" else wrong

    found = identify([image()], infos(right), {"author": "Ultralytics"}, trial=trial)
    assert found.unlike_coco is None and 'color = "BGR"' in found.doubt
