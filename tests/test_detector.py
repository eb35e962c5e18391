"""Right answers: the published AP of real models, and the plain API for one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline import Detections, Detector
from pipeline.errors import ConfigError
from pipeline.runtime.catalog import models_dir
from pipeline.sample import SAMPLE
from pipeline.stages.postprocess import class_ids_of
from tests.ap import coco_ap
from tests.test_stages_classify import write_colour_classifier


@pytest.mark.assets
@pytest.mark.timeout(120)
def test_ap_is_what_the_model_is_known_for(assets: Path) -> None:
    """That of the assets' README: score .01, top 100, NMS at .65. Through pycocotools, as an independent
    check; test_eval_command.py measures all models."""
    detector = Detector(str(assets / "models" / "yolox_nano.onnx"))

    def detect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = detector.detect(image, conf=0.01, iou=0.65, max_detections=100)
        return found.xyxy, found.confidence, found.class_id

    measured = coco_ap(detect, assets)
    assert measured["AP"] == pytest.approx(0.335, abs=0.005)
    # Boxes are cut to the picture here, those of the README are not.
    assert measured["AP50"] == pytest.approx(0.487, abs=0.01)


def test_the_bundled_model_has_the_ap_of_its_card(assets: Path) -> None:
    """Fed with as little padding as its strides allow, it loses nothing against squares (.289)."""
    detector = Detector()

    def detect(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = detector.detect(image, conf=0.01, max_detections=100)
        return found.xyxy, found.confidence, found.class_id

    measured = coco_ap(detect, assets)
    assert measured["AP"] == pytest.approx(0.291, abs=0.005)
    assert measured["AP50"] == pytest.approx(0.433, abs=0.01)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def sample_frame(number: int) -> np.ndarray:
    capture = cv2.VideoCapture(str(SAMPLE))
    try:
        for _ in range(number):
            capture.grab()
        good, image = capture.read()
    finally:
        capture.release()
    assert good
    return image


def test_the_persons_of_the_clip_are_found(detector: Detector) -> None:
    found = detector.detect(sample_frame(100))
    assert "person" in found.labels
    assert np.all(np.diff(found.confidence) <= 0)
    assert found.xyxy.dtype == found.confidence.dtype == np.float32
    height, width = 720, 1280
    assert np.all(found.xyxy >= 0)
    assert np.all(found.xyxy[:, 0::2] <= width)
    assert np.all(found.xyxy[:, 1::2] <= height)
    assert np.all(found.xyxy[:, 2:] > found.xyxy[:, :2])


def test_the_picture_is_not_touched(detector: Detector) -> None:
    image = sample_frame(100)
    before = image.copy()
    detector.detect(image)
    np.testing.assert_array_equal(image, before)


def test_thresholds_classes_and_limit(detector: Detector) -> None:
    image = sample_frame(100)
    many = detector.detect(image, conf=0.05)
    assert len(many) > len(detector.detect(image, conf=0.5))
    assert set(detector.detect(image, conf=0.05, classes=["Person"]).labels) == {"person"}
    assert len(detector.detect(image, conf=0.05, max_detections=1)) == 1
    with pytest.raises(ConfigError, match="no class 'unicorn'"):
        detector.detect(image, classes=["unicorn"])


@pytest.mark.parametrize("options", [{"device": -1}, {"device": "x"}, {"threads": 0}, {"threads": 10**6}])
def test_devices_and_threads_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))}: expected a whole number"):
        Detector(**options)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (300, 1, 3), (7, 5, 3)])
def test_tiny_pictures_are_pictures(detector: Detector, shape: tuple[int, int, int]) -> None:
    found = detector.detect(np.zeros(shape, np.uint8), conf=0.0)
    assert isinstance(found, Detections)
    assert np.all(found.xyxy[:, 2] <= shape[1])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
)
def test_what_is_no_bgr_picture_is_refused(detector: Detector, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected a BGR picture"):
        detector.detect(image)


def test_a_picture_that_could_not_be_read_and_numbers_out_of_range(detector: Detector) -> None:
    with pytest.raises(ValueError, match=r"got NoneType \(cv2.imread returns None"):
        detector.detect(cv2.imread("no-such-picture.jpg"))
    image = sample_frame(100)
    wrong: list[dict[str, float]] = [{"conf": 5}, {"iou": -1}, {"max_detections": 0}]
    for options in wrong:
        with pytest.raises(ConfigError, match=next(iter(options))):
            detector.detect(image, **options)  # type: ignore[arg-type]
    assert set(detector.detect(image, conf=0.05, classes="person, cat").labels) <= {"person", "cat"}


def test_a_label_with_commas_is_chosen_by_any_of_its_words() -> None:
    """As ImageNet's are: what separates labels on the command line stands in half of them."""
    labels = ["goldfish, Carassius auratus", "Cardigan, Welsh corgi", "cardigan", "crane", "crane", "bolt"]
    for wanted, chosen in (
        (["Goldfish"], (0,)),
        (["carassius auratus", "bolt"], (0, 5)),
        (["cardigan"], (2,)),
        (["welsh corgi"], (1,)),
        (["crane"], (3, 4)),
        (["goldfish, Carassius auratus"], (0,)),
    ):
        assert class_ids_of(labels, wanted) == chosen
    imagenet = (models_dir() / "labels" / "imagenet1k.txt").read_text(encoding="utf-8").splitlines()
    sayable = [{word.strip() for word in label.split(",")} for label in imagenet]
    for index, words in enumerate(sayable):
        assert index in (class_ids_of(imagenet, sorted(words)) or ()), imagenet[index]


def test_the_class_that_is_advised_can_be_asked_for(tmp_path: Path) -> None:
    model = write_colour_classifier(tmp_path / "c.onnx")
    card = (tmp_path / "c.toml").read_text().replace('"green"', '"green, Viridis"')
    (tmp_path / "c.toml").write_text(card)
    detector, picture = Detector(str(model)), np.full((40, 90, 3), (0, 255, 0), np.uint8)
    with pytest.raises(ConfigError, match=r"did you mean 'green'\? It has: .*green, ") as caught:
        detector.classify(picture, classes="gren")
    assert "Viridis" not in str(caught.value)
    assert detector.classify(picture, classes="green").labels == ["green, Viridis"]
