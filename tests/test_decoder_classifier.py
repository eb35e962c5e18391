"""Classifiers against the definition of the softmax, from the textbook; no author's code is needed for it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.decoders import DECODERS, identify
from pipeline.decoders.classifier import best
from pipeline.decoders.family import View
from pipeline.errors import ModelError
from tests.decoding import HW, image, output

CLASSIFIER = DECODERS["classifier"]


def sound_outputs():
    return [np.array([[0.5, 0.45, 0.05]], np.float32)]


def softmax_by_loop(logits):
    weights = [math.exp(x) for x in logits]
    return [weight / sum(weights) for weight in weights]


@pytest.mark.parametrize("shape", [(1, 7), (7,), (1, 7, 1, 1)])
def test_logits_become_probabilities(shape):
    logits = np.random.default_rng(0).normal(0, 3, 7).astype(np.float32)
    found = CLASSIFIER.decode([logits.reshape(shape)], HW, 0.0, {"softmax": True})
    np.testing.assert_allclose(found.scores, softmax_by_loop(logits.tolist()), rtol=1e-5)
    assert found.class_id.tolist() == list(range(7))
    assert (found.xyxy == [0, 0, HW[1], HW[0]]).all()


def test_probabilities_stay_and_the_class_that_is_none_goes():
    scores = np.array([[0.6, 0.1, 0.3]], np.float32)
    assert CLASSIFIER.decode([scores], HW, 0.2, {}).class_id.tolist() == [0, 2]
    found = CLASSIFIER.decode([scores], HW, 0.2, {"background": True})
    assert (found.class_id.tolist(), found.scores.tolist()) == ([1], [pytest.approx(0.3)])


@pytest.mark.parametrize(
    "params", [{}, {"softmax": True}, {"background": True}, {"softmax": True, "background": True}]
)
def test_the_best_of_a_batch_is_the_best_of_each(params):
    outputs = np.random.default_rng(1).random((5, 9), np.float32)
    class_id, confidence = best(outputs, params)
    for row, index, score in zip(outputs, class_id, confidence, strict=True):
        found = CLASSIFIER.decode([row[None]], HW, 0.0, params)
        at = found.scores.argmax()
        assert (found.class_id[at], found.scores[at]) == (index, pytest.approx(score))


def test_an_answer_that_is_no_number_is_no_class():
    outputs = np.array([[0.1, np.nan, 0.2], [0.1, 0.7, 0.2], [np.inf, 0, 0]], np.float32)
    for params in ({}, {"softmax": True}):
        class_id, confidence = best(outputs, params)
        assert class_id.tolist() == [-1, 1, -1]
        assert (confidence[[0, 2]] == 0).all() and confidence[1] > 0.3


def seen(*arrays, num_classes=None, metadata=None):
    return View(
        tuple(output(*array.shape, name=f"o{i}") for i, array in enumerate(arrays)),
        HW, num_classes, metadata or {}, tuple(arrays),
    )  # fmt: skip


def test_logits_are_told_from_probabilities():
    logits = np.random.default_rng(0).normal(0, 3, (1, 1000)).astype(np.float32)
    match = CLASSIFIER.recognise(seen(logits))
    assert match.certain and match.params["softmax"] and "logits" in match.holds[0]
    probabilities = np.array([softmax_by_loop(logits[0].tolist())], np.float32)
    assert CLASSIFIER.recognise(seen(probabilities)).params["softmax"] is False
    independent = np.array([[0.9, 0.2, 0.7]], np.float32)
    match = CLASSIFIER.recognise(seen(independent, num_classes=3))
    assert match.params["softmax"] is False and "each by itself" in match.holds[0]


def test_what_is_no_score_of_classes_is_refused_or_doubted():
    direction = np.random.default_rng(0).normal(0, 1, (1, 512)).astype(np.float32)
    assert CLASSIFIER.recognise(seen(direction / np.linalg.norm(direction))) is None
    percentages = np.array([[70.0, 20.0, 10.0]], np.float32)
    assert CLASSIFIER.recognise(seen(percentages)) is None
    assert "embeddings and measurements look alike" in CLASSIFIER.recognise(seen(direction)).doubt
    assert CLASSIFIER.recognise(seen(direction, num_classes=512)).doubt is None


def test_a_thousand_and_one_classes_have_one_that_is_none():
    match = CLASSIFIER.recognise(seen(np.zeros((1, 1001), np.float32)))
    assert (match.num_classes, match.params["background"]) == (1000, True)
    assert (
        "background"
        not in CLASSIFIER.recognise(seen(np.zeros((1, 1001), np.float32), num_classes=1001)).params
    )


@pytest.mark.parametrize(("cat", "last"), [(281, True), (286, False), (5, None)])
@pytest.mark.parametrize("logits", [True, False])
def test_which_of_1001_classes_is_none_is_told_by_the_cat(cat, last, logits):
    """A tabby is 281 where the background comes last; an Egyptian cat is 286 behind one."""
    scores = np.zeros((1, 1001), np.float32)
    scores[0, cat] = 9 if logits else 1
    match = CLASSIFIER.recognise(seen(scores))
    assert match.num_classes == 1000 and match.params["softmax"] == logits
    assert (match.params.get("background_last", False), match.params["background"]) == (bool(last), not last)
    assert (match.doubt is not None) == (last is None)
    found = CLASSIFIER.decode([scores], HW, 0.5, match.params)
    assert found.class_id.tolist() == [cat if last else cat - 1]
    assert best(scores, match.params)[0].tolist() == found.class_id.tolist()


def test_other_layouts_are_not_claimed():
    assert CLASSIFIER.recognise(seen(np.zeros((1, 84, 8400), np.float32))) is None
    assert CLASSIFIER.recognise(seen(np.zeros((300, 6), np.float32))) is None
    assert CLASSIFIER.recognise(seen(np.zeros((1, 5), np.float32), np.zeros((1, 4), np.float32))) is None
    assert CLASSIFIER.recognise(seen(np.zeros((1, 5), np.float32), num_classes=4)) is None
    assert CLASSIFIER.recognise(seen(np.zeros((1, 5), np.float32))).certain is False


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 5), np.float32), np.zeros((1, 1), np.float32), np.zeros((1, 5), np.int64)]
)
def test_malformed(bad):
    with pytest.raises(ModelError, match=r"classifier: expected one output \[1, classes\]; got"):
        CLASSIFIER.decode([bad], HW, 0.0, {})


def test_a_parameter_of_a_family_without_any_is_said_to_be_one_too_many():
    with pytest.raises(ModelError, match=r"family nanodet: unknown parameter 'foo'; known: reg_max"):
        DECODERS["nanodet"].check_params({"foo": 1})
    bare = next(family for family in DECODERS.values() if not family.params)
    with pytest.raises(ModelError, match=r"unknown parameter 'foo'; it has none$"):
        bare.check_params({"foo": 1})


def test_a_classifier_that_takes_the_pixels_themselves_is_found_to():
    """As Keras' EfficientNet, whose graph scales them; fed otherwise all is dark, and it knows nothing."""

    def trial(fed):
        scores = np.full((1, 1000), 1e-3, np.float32)
        if tuple(fed["std"]) == (1, 1, 1):
            scores[0, 281] = 0.8
        return [scores / scores.sum()]

    found = identify([image((224, 224))], [output(1, 1000)], {}, trial=trial)
    assert found.family.name == "classifier-pixels" and found.doubt is None
    assert found.input["mean"] == (0, 0, 0)
