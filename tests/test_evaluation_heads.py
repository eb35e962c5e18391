"""AP of masks, keypoints and rotated boxes: against pycocotools, and that a broken head is found out."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.commands.eval import NotAcceptedError
from pipeline.config import Config, make_config
from pipeline.detections import Detections
from pipeline.detector import Detector
from pipeline.errors import ConfigError
from pipeline.evaluation import against_labels, against_reference
from pipeline.evaluation.annotations import read_annotations
from pipeline.evaluation.metrics import average_precision
from pipeline.evaluation.objects import BODY_OF_BOX, Objects, believed, detected
from pipeline.vision.letterbox import InputSpec, Letterbox
from pipeline.vision.masks import PrototypeMasks
from tests.head_models import HW, NAMES, write_posing, write_segmenting, write_turning
from tests.test_eval_command import run
from tests.test_evaluation import quietly

pytest.importorskip("faster_coco_eval", reason="needs the extra eval")
# pycocotools' own arrays are behind NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

CLIP = "synthetic:96x64@25?frames=3"
CATEGORIES = {0: "a", 1: "b"}
BOXES = ((4, 6, 44, 54), (50, 10, 90, 60), (30, 20, 70, 44))
SCORES, CLASSES = (0.9, 0.8, 0.7), (0, 1, 0)


def pycocotools_stats(
    kind: str, truth: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]], images: int
) -> list[float]:
    """COCO's own summary of annotations and of results, as ``loadRes`` reads them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        true.dataset = {
            "images": [{"id": index, "height": HW[0], "width": HW[1]} for index in range(images)],
            "categories": [{"id": index} for index in CATEGORIES],
            "annotations": [{"iscrowd": 0, **each, "id": 1 + index} for index, each in enumerate(truth)],
        }
        true.createIndex()
        evaluation = COCOeval(true, true.loadRes([dict(each) for each in found]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats: list[float] = evaluation.stats.tolist()
    return stats


def assert_same_stats(metrics: dict[str, Any], stats: Sequence[float], keys: Sequence[str]) -> None:
    ours = [-1 if metrics[key] is None else metrics[key] for key in keys]
    assert ours == pytest.approx(list(stats), abs=1e-6)


MASK_KEYS = [
    *(f"mask_{name}" for name in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")),
    *(f"mask_{name}" for name in ("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")),
]
KEYPOINT_KEYS = [f"keypoints_{name}" for name in ("AP", "AP50", "AP75", "AP_medium", "AP_large", "AR20")]


# The metrics ------------------------------------------------------------------------------------


def test_pycocotools_has_the_same_figures_of_masks_from_its_own_run_lengths() -> None:
    """Against the reference implementation: blobs, the same moved and cut, some of many; areas of masks."""
    from pycocotools import mask as coco

    random = np.random.default_rng(3)
    truth, found = [], []
    for picture in range(8):
        for _ in range(5):
            blob = np.zeros(HW, np.uint8)
            middle, axes = random.integers(10, 60, 2), random.integers(3, 30, 2)
            cv2.ellipse(blob, middle.tolist(), axes.tolist(), float(random.uniform(0, 180)), 0, 360, 1, -1)
            truth.append((picture, int(random.integers(2)), blob, bool(random.random() < 0.15), 1.0))
            for _ in range(2):
                moved = np.roll(blob, random.integers(-3, 4, 2), (0, 1))
                moved[:, : random.integers(0, 40)] = 0
                found.append((picture, int(random.integers(2)), moved, False, float(random.random())))

    def objects(rows: list[Any], picture: int) -> Objects:
        mine = [row for row in rows if row[0] == picture]
        areas = np.array([row[2].sum() for row in mine], float)
        shapes = [coco.encode(np.asfortranarray(row[2])) for row in mine]
        parts = (np.array([row[column] for row in mine]) for column in (1, 4, 3))
        category, score, crowd = parts
        return Objects(np.zeros((len(mine), 4)), category, areas, score.astype(float), crowd, shapes)

    ours = average_precision(
        *[[objects(r, p) for p in range(8)] for r in (truth, found)], CATEGORIES, 100, "segm"
    )
    rows = [
        [
            {
                "image_id": picture,
                "category_id": category,
                "segmentation": coco.encode(np.asfortranarray(blob)),
                "iscrowd": int(crowd),
                "area": float(blob.sum()),
                "score": score,
            }
            for picture, category, blob, crowd, score in part
        ]
        for part in (truth, found)
    ]
    assert 0.05 < ours[0]["mask_AP"] < 0.9
    assert_same_stats(ours[0], pycocotools_stats("segm", *rows, 8), MASK_KEYS)
    assert set(ours[1]["a"]) == {"mask_AP", "mask_AP50", "mask_AP75", "mask_AR100"}


def test_pycocotools_has_the_same_figures_of_keypoints() -> None:
    """Against the reference implementation: points that are not labelled, people without any, a crowd."""
    random = np.random.default_rng(4)
    truth, found, rows = [], [], ([], [])
    for picture in range(10):
        count = 4
        corners, sides = random.uniform(0, 150, (count, 2)), random.uniform(20, 160, (count, 2))
        points = np.empty((count, 17, 3), np.float32)
        points[..., :2] = corners[:, None] + sides[:, None] * random.random((count, 17, 2))
        points[..., 2] = random.integers(0, 3, (count, 17))
        points[random.random(count) < 0.2] = 0
        area, crowd = sides.prod(axis=1) * 0.6, random.random(count) < 0.1
        boxes = np.hstack([corners, sides])
        category = np.zeros(count, int)
        shapes = list(points.reshape(count, 51))
        truth.append(Objects(boxes, category, area, np.ones(count), crowd, shapes))
        seen = points + random.normal(0, 1, (count, 1, 1)) * random.normal(0, 6, points.shape)
        seen = np.concatenate([seen, random.uniform(0, 200, (2, 17, 3))]).astype(np.float32)
        score = random.permutation(1000)[: len(seen)] / 1000
        extent = np.ptp(seen[..., :2].astype(float), axis=1).prod(axis=1)
        empty = np.zeros((len(seen), 4))
        shapes = list(seen.reshape(-1, 51))
        found.append(
            Objects(empty, np.zeros(len(seen), int), extent, score, np.zeros(len(seen), bool), shapes)
        )
        for n in range(count):
            rows[0].append(
                {
                    "image_id": picture,
                    "category_id": 0,
                    "keypoints": points[n].ravel().tolist(),
                    "num_keypoints": int((points[n, :, 2] > 0).sum()),
                    "area": area[n],
                    "bbox": boxes[n].tolist(),
                    "iscrowd": int(crowd[n]),
                }
            )
        rows[1].extend(
            {"image_id": picture, "category_id": 0, "keypoints": each.ravel().tolist(), "score": float(s)}
            for each, s in zip(seen, score, strict=True)
        )
    metrics, classes = average_precision(truth, found, CATEGORIES, 20, "keypoints")
    assert 0.05 < metrics["keypoints_AP"] < 0.9
    stats = pycocotools_stats("keypoints", *rows, 10)
    assert_same_stats(metrics, stats[:6], KEYPOINT_KEYS)
    assert_same_stats(metrics, stats[8:], ["keypoints_AR_medium", "keypoints_AR_large"])
    assert set(metrics) == {*KEYPOINT_KEYS, "keypoints_AR_medium", "keypoints_AR_large"}
    assert classes["a"]["keypoints_AP"] == metrics["keypoints_AP"] and classes["b"]["keypoints_AP"] is None


def test_rotated_boxes_agree_as_far_as_prob_iou_says() -> None:
    """By hand: of two objects one is met exactly, the other's angle has the wrong sign."""
    exact, askew = (40.0, 40, 60, 10, 0.5), (140.0, 40, 60, 10, 0.5)

    def objects(*rotated: tuple[float, ...]) -> Objects:
        count = len(rotated)
        shapes = list(np.array(rotated, np.float32))
        score = np.linspace(0.9, 0.5, count)
        area = np.full(count, 600.0)
        return Objects(np.zeros((count, 4)), np.zeros(count, int), area, score, np.zeros(count, bool), shapes)

    truth = [objects(exact, askew), objects()]
    same, _ = average_precision(truth, truth, CATEGORIES, 100, "rotated")
    assert same["rotated_AP"] == same["rotated_AR100"] == 1.0
    # Not by falling score: the order of the evaluator's rows is that of the scores.
    flipped = objects((*exact[:4], -0.5), askew)
    flipped = replace(flipped, score=np.array([0.5, 0.9]))
    metrics, classes = average_precision(truth, [flipped, objects()], CATEGORIES, 100, "rotated")
    assert metrics["rotated_AP"] == classes["a"]["rotated_AP"] == pytest.approx(51 / 101, abs=1e-6)


# What a model answers ---------------------------------------------------------------------------


def posed(count: int, seed: int = 1) -> Detections:
    random = np.random.default_rng(seed)
    boxes = np.array([(n, 0, n + 10, 20) for n in range(count)], np.float32)
    points = random.random((count, 17, 3)).astype(np.float32) * [10, 20, 1]
    return Detections(
        boxes,
        np.full(count, 0.9, np.float32),
        np.zeros(count, np.int32),
        keypoints=points.astype(np.float32),
    )


def test_points_that_the_reference_hardly_sees_are_not_the_truth() -> None:
    found = posed(2)
    objects = detected(found, np.array([0]), ("bbox", "keypoints"))["keypoints"]
    truth = believed("keypoints", objects, 0.6)
    visible = np.array(truth.shapes).reshape(2, 17, 3)[..., 2]
    assert visible.tolist() == (2 * (found.keypoints[..., 2] > 0.6)).tolist()
    assert 0 < (visible > 0).sum() < visible.size
    assert truth.area.tolist() == pytest.approx([BODY_OF_BOX * 200] * 2)
    extent = np.ptp(found.keypoints[..., :2], axis=1).prod(axis=1)
    np.testing.assert_allclose(objects.area, extent, rtol=1e-5)
    none = believed("keypoints", objects.where(np.zeros(2, bool)), 0.6)
    assert len(none) == 0 == len(none.shapes)


def test_masks_are_kept_as_run_lengths() -> None:
    """Twelve masks of a frame of 3840 × 2160 would be 100 MB."""
    frame = (2160, 3840)
    boxes = np.array([(0, 0, *frame[::-1])] * 12, np.float32)
    planes = np.random.default_rng(1).standard_normal((4, 16, 24)).astype(np.float32)
    masks = PrototypeMasks(
        np.ones((12, 4), np.float32), planes, Letterbox.of(*frame, InputSpec(64, 96)), boxes
    )
    found = Detections(boxes, np.ones(12, np.float32), np.zeros(12, np.int32), masks=masks)
    tracemalloc.start()
    objects = detected(found, np.array([0]), ("bbox", "segm"))["segm"]
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000
    assert objects.area.tolist() == [float(masks[0].sum())] * 12


# Labelled pictures ------------------------------------------------------------------------------


def config_of(model: str, *sources: object, **options: Any) -> Config:
    streams = [{"source": str(source)} for source in sources or ("unused",)]
    return make_config(
        {"streams": streams, "model": model, "provider": "cpu", "conf_threshold": 0.01, **options}
    )


def planes(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 16, 24)).astype(np.float32)


@pytest.fixture
def segmenting(tmp_path: Path) -> str:
    return write_segmenting(tmp_path / "masks.onnx", BOXES, planes(), SCORES, CLASSES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), np.zeros((*HW, 3), np.uint8))
    return folder


def masks_of(model: str) -> list[np.ndarray]:
    found = Detector(model).detect(np.zeros((*HW, 3), np.uint8), conf=0.01)
    assert found.masks is not None and found.class_id.tolist() == list(CLASSES)
    return [found.masks[index] for index in range(len(found))]


def polygons_of(mask: np.ndarray) -> list[list[float]]:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [outline.ravel().astype(float).tolist() for outline in outlines if len(outline) > 2]


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths by a plain loop over the columns."""
    counts, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(HW), "counts": counts}


def write_labels(path: Path, segmentations: Sequence[Any], **changes: Any) -> str:
    """Two pictures with three objects each, the model's boxes."""
    annotations = [
        {
            "id": 1 + 3 * picture + n,
            "image_id": picture,
            "category_id": CLASSES[n],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "iscrowd": 0,
            "segmentation": segmentations[3 * picture + n],
            **changes,
        }
        for picture in (0, 1)
        for n, box in enumerate(BOXES)
    ]
    images = [{"id": n, "file_name": f"{name}.png", "height": 64, "width": 96} for n, name in enumerate("ab")]
    categories = [{"id": n, "name": name} for n, name in enumerate(NAMES[:2])]
    path.write_text(json.dumps({"images": images, "categories": categories, "annotations": annotations}))
    return str(path)


def labels(tmp_path: Path, model: str) -> str:
    """Polygons, and run lengths of both kinds by pycocotools and by a loop, of masks moved a little."""
    from pycocotools import mask as coco

    rows: list[Any] = []
    for shift in (0, 2):
        polygon, runs, text = (np.roll(mask, shift, axis=1) for mask in masks_of(model))
        rle = coco.encode(np.asfortranarray(text.astype(np.uint8)))
        rows += [polygons_of(polygon), uncompressed(runs), rle | {"counts": rle["counts"].decode()}]
    # No mask has that area, and none is of that size: it is the file's that counts.
    return write_labels(tmp_path / "masks.json", rows, area=2000)


def test_a_file_of_masks_gives_pycocotools_figures(tmp_path: Path, folder: Path, segmenting: str) -> None:
    """pycocotools reads the same file; its results are the detector's bitmaps, encoded by itself."""
    from pycocotools import mask as coco

    path = labels(tmp_path, segmenting)
    report = against_labels(config_of(segmenting), str(folder), path, None, quietly).report
    results = [
        {
            "image_id": picture,
            "category_id": CLASSES[n],
            "score": SCORES[n],
            "segmentation": coco.encode(np.asfortranarray(mask.astype(np.uint8))),
        }
        for picture in (0, 1)
        for n, mask in enumerate(masks_of(segmenting))
    ]
    stats = pycocotools_stats("segm", json.loads(Path(path).read_text())["annotations"], results, 2)
    assert 0.3 < report["mask_AP"] < 1 == report["AP"]
    assert_same_stats(report, stats, MASK_KEYS)
    assert report["iou_types"] == ["bbox", "segm"] and report["not_measured"] == {}
    assert list(report).index("mask_AP") < list(report).index("classes")
    assert report["classes"]["person"]["mask_AP"] < 1


def test_a_file_without_masks_is_said_in_one_line(
    tmp_path: Path, folder: Path, segmenting: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_labels(tmp_path / "boxes.json", [[], [[]], None, [], [], []])
    with caplog.at_level(logging.WARNING, "pipeline.evaluation.measure"):
        report = against_labels(config_of(segmenting), str(folder), path, None, quietly).report
    assert report["AP"] == 1.0 and "mask_AP" not in report
    assert report["not_measured"] == {"mask_AP": f"{path} has no segmentation"}
    assert [record.getMessage() for record in caplog.records if "mask_AP" in record.getMessage()] == [
        f"mask_AP is not measured: {path} has no segmentation"
    ]


def test_an_object_without_a_mask_is_neither_found_nor_missed(
    tmp_path: Path, folder: Path, segmenting: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = [uncompressed(mask) for mask in masks_of(segmenting)]
    path = write_labels(tmp_path / "some.json", [*good, None, *good[1:]])
    with caplog.at_level(logging.WARNING):
        report = against_labels(config_of(segmenting), str(folder), path, None, quietly).report
    assert report["mask_AP"] == report["mask_AR100"] == 1.0
    assert "1 objects of" in caplog.text and "have no segmentation" in caplog.text


def test_an_area_that_the_file_does_not_state_is_that_of_the_mask(
    tmp_path: Path, folder: Path, segmenting: str
) -> None:
    """32² is between the mask and the box of the first object."""
    good = [uncompressed(mask) for mask in masks_of(segmenting)]
    assert masks_of(segmenting)[0].sum() < 32**2 < 40 * 48
    path = write_labels(tmp_path / "some.json", good * 2)
    report = against_labels(config_of(segmenting, classes="person"), str(folder), path, None, quietly).report
    assert report["AP_medium"] == 1.0 and report["mask_AP_medium"] is None and report["mask_AP_small"] == 1.0


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ([[1, 2, 3, 4]], "three points or more; got 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "got 7 numbers"),
        ([[1, 2, 3, 4, 5, 1e9]], "expected polygons"),
        ([[], []], "got empty ones"),
        ("mask.png", "expected polygons"),
        ({"size": [64, 96], "counts": [1, 2]}, "run lengths of 64 × 96 pixels; got 3"),
        ({"size": [64, 96], "counts": [6145, -1]}, "expected polygons"),
        ({"size": [64, 96], "counts": "12"}, "run lengths of 64 × 96 pixels; got 3"),
        ({"size": [64, 96], "counts": "%"}, "expected compressed run lengths"),
        ({"size": [0, 96], "counts": ""}, "expected polygons"),
    ],
)
def test_segmentations_that_cannot_be_meant(
    tmp_path: Path, folder: Path, segmenting: str, cheap_model: str, entry: Any, says: str
) -> None:
    path = write_labels(tmp_path / "bad.json", [entry] * 6)
    with pytest.raises(ConfigError, match=says) as caught:
        against_labels(config_of(segmenting), str(folder), path, None, quietly)
    assert "segmentation of an object of a.png" in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_without_masks_does_not_look_at_them(tmp_path: Path, folder: Path) -> None:
    points = np.ones((3, 5, 3), np.float32)
    model = write_posing(tmp_path / "pose.onnx", BOXES, points, SCORES, CLASSES)
    path = write_labels(tmp_path / "bad.json", ["nonsense"] * 6)
    report = against_labels(config_of(model), str(folder), path, None, quietly).report
    assert report["AP"] == 1.0 and report["iou_types"] == ["bbox"]
    assert "has 5 keypoints; OKS needs the sigmas of COCO's 17" in report["not_measured"]["keypoints_AP"]


def test_masks_of_another_size_are_named(tmp_path: Path, folder: Path, segmenting: str) -> None:
    small = {"size": [10, 10], "counts": [20, 80]}
    path = write_labels(tmp_path / "small.json", [small] * 6)
    report = against_labels(config_of(segmenting), str(folder), path, None, quietly).report
    assert report["pictures"]["other_size"] == ["a.png", "b.png"] and report["mask_AP"] == 0


def pose() -> np.ndarray:
    random = np.random.default_rng(5)
    points = random.random((3, 17, 3)).astype(np.float32)
    for each, (left, top, right, bottom) in zip(points, BOXES, strict=True):
        each[:, :2] = [left, top] + each[:, :2] * [right - left, bottom - top]
    return points


def test_a_file_of_keypoints_gives_pycocotools_figures(tmp_path: Path, folder: Path) -> None:
    points = pose()
    model = write_posing(tmp_path / "pose.onnx", BOXES, points, SCORES, CLASSES)
    path = Path(write_labels(tmp_path / "pose.json", [None] * 6, area=900))
    data = json.loads(path.read_text())
    for number, annotation in enumerate(data["annotations"]):
        labelled = points[number % 3] + [number, 0, 0]
        labelled[:, 2] = np.arange(17) % 3
        annotation |= {"keypoints": labelled.ravel().tolist(), "num_keypoints": 11}
    del data["annotations"][5]["keypoints"]
    path.write_text(json.dumps(data))
    report = against_labels(config_of(model), str(folder), str(path), None, quietly).report
    data["annotations"][5] |= {"keypoints": [0] * 51, "num_keypoints": 0}
    found = Detector(model).detect(np.zeros((*HW, 3), np.uint8), conf=0.01)
    results = [
        {
            "image_id": picture,
            "category_id": CLASSES[n],
            "score": SCORES[n],
            "keypoints": found.keypoints[n].ravel().tolist(),
        }
        for picture in (0, 1)
        for n in range(3)
    ]
    stats = pycocotools_stats("keypoints", data["annotations"], results, 2)
    assert 0.1 < report["keypoints_AP"] < 1
    assert_same_stats(report, stats[:6], KEYPOINT_KEYS)
    labelled = read_annotations(str(path)).pictures[0]
    assert labelled.checked(["keypoints"]).judged("keypoints", *HW).area.tolist() == [900] * 3
    for annotation in data["annotations"]:
        del annotation["area"]
    path.write_text(json.dumps(data))
    labelled = read_annotations(str(path)).pictures[0]
    unstated = labelled.checked(["keypoints"]).judged("keypoints", *HW)
    assert unstated.area.tolist() == pytest.approx([BODY_OF_BOX * w * h for w, h in unstated.xywh[:, 2:]])
    for entry in ([1, 2, 0], "x"):
        data["annotations"][0]["keypoints"] = entry
        path.write_text(json.dumps(data))
        with pytest.raises(ConfigError, match=r"keypoints of an object of a\.png: expected .* of 17 points"):
            against_labels(config_of(model), str(folder), str(path), None, quietly)
    for annotation in data["annotations"]:
        annotation.pop("keypoints", None)
    path.write_text(json.dumps(data))
    report = against_labels(config_of(model), str(folder), str(path), None, quietly).report
    assert report["not_measured"] == {"keypoints_AP": f"{path} has no keypoints"}


# Against a reference ----------------------------------------------------------------------------


def compared(model: str, reference: str) -> dict[str, Any]:
    truth = config_of(reference, CLIP, conf_threshold=0.25)
    return against_reference(config_of(model, CLIP), truth, None, quietly).report


def test_a_broken_mask_head_is_not_accepted_for_its_boxes(
    tmp_path: Path, segmenting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = write_segmenting(tmp_path / "broken.onnx", BOXES, -planes(), SCORES, CLASSES)
    assert compared(segmenting, segmenting)["mask_AP"] == 1.0
    asked = {"sources": [CLIP], "reference": segmenting, "min_ap": 0.9}
    run(**asked, run={"model": segmenting})
    assert json.loads(capsys.readouterr().out)["accepted"] is True
    with pytest.raises(NotAcceptedError, match=r"^mask_AP 0\.0\d+ is below the least asked for, 0\.9$"):
        run(**asked, run={"model": broken})
    report = json.loads(capsys.readouterr().out)
    assert (report["AP"], report["accepted"]) == (1.0, False)
    assert report["classes"]["person"]["mask_AP"] < 0.1
    shown = run(sources=[CLIP], reference=segmenting, run={"model": broken}, as_json=False)
    for text in ("boxes", "masks", "mask_AP"):
        assert text in shown


def test_a_build_that_has_lost_its_masks_is_not_accepted(
    tmp_path: Path, segmenting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    posing = write_posing(tmp_path / "pose.onnx", BOXES, pose(), SCORES, CLASSES)
    with pytest.raises(NotAcceptedError, match=r"^mask_AP \(not measured\) is below the least asked for"):
        run(sources=[CLIP], reference=segmenting, min_ap=0.5, run={"model": posing})
    report = json.loads(capsys.readouterr().out)
    assert (report["AP"], report["lost"], report["accepted"]) == (1.0, ["mask_AP"], False)


def test_a_broken_keypoint_head_is_not_accepted_for_its_boxes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_posing(tmp_path / "good.onnx", BOXES, pose(), SCORES, CLASSES)
    wrong = pose()
    wrong[:, :, :2] = wrong[:, ::-1, :2]
    bad = write_posing(tmp_path / "bad.onnx", BOXES, wrong, SCORES, CLASSES)
    assert compared(good, good)["keypoints_AP"] == 1.0
    with pytest.raises(NotAcceptedError, match=r"^keypoints_AP 0\.\d+ is below"):
        run(sources=[CLIP], reference=good, min_ap=0.9, run={"model": bad})
    report = json.loads(capsys.readouterr().out)
    assert (report["AP"], report["classes"]["person"]["AP"]) == (1.0, 1.0)
    assert "keypoints" in run(sources=[CLIP], reference=good, run={"model": bad}, as_json=False)


def test_an_angle_of_the_wrong_sign_is_not_accepted_for_its_upright_box(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes, angles = ((10, 20, 70, 30), (20, 45, 80, 53)), np.array([0.3, 0.4])
    good, bad = (
        write_turning(tmp_path / f"{name}.onnx", boxes, sign * angles, (0.9, 0.8), (0, 1))
        for name, sign in (("good", 1), ("bad", -1))
    )
    assert compared(good, good)["rotated_AP"] == 1.0
    with pytest.raises(NotAcceptedError, match=r"^rotated_AP 0\.\d+ is below"):
        run(sources=[CLIP], reference=good, min_ap=0.9, run={"model": bad})
    assert json.loads(capsys.readouterr().out)["AP"] == 1.0
    path = write_labels(tmp_path / "boxes.json", [None] * 6)
    report = against_labels(config_of(good), str(folder), path, None, quietly).report
    assert report["not_measured"]["rotated_AP"].startswith("AP is that of the upright boxes")


def test_all_of_a_crowd_count_where_a_model_is_compared(tmp_path: Path) -> None:
    """COCO's keypoint metric looks at 20 people; the same model would not agree with itself on 30."""
    boxes = [(3 * n, 2 * (n % 5), 3 * n + 2, 50) for n in range(30)]
    points = np.random.default_rng(1).random((30, 17, 3)).astype(np.float32) * [90, 60, 0] + [0, 0, 0.9]
    scores = np.linspace(0.9, 0.5, 30).tolist()
    model = write_posing(tmp_path / "crowd.onnx", boxes, points, scores, [0] * 30)
    report = compared(model, model)
    assert report["objects"] == 90 and report["keypoints_AP"] == report["AP"] == 1.0


def test_heads_that_only_one_model_has_are_named(tmp_path: Path, segmenting: str) -> None:
    posing = write_posing(tmp_path / "pose.onnx", BOXES, pose(), SCORES, CLASSES)
    turning = write_turning(tmp_path / "turned.onnx", BOXES, [0, 0, 0], SCORES, CLASSES)
    report = compared(segmenting, posing)
    assert report["AP"] == 1.0 and report["iou_types"] == ["bbox"]
    assert report["not_measured"] == {
        "mask_AP": "model 'pose' has no masks",
        "keypoints_AP": "model 'masks' has no keypoints",
    }
    assert "model 'pose' has no rotated boxes" in compared(turning, posing)["not_measured"]["rotated_AP"]


def test_points_that_nobody_sees_are_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = pose()
    points[:, :, 2] = 0.1
    model = write_posing(tmp_path / "pose.onnx", BOXES, points, SCORES, CLASSES)
    run(sources=[CLIP], reference=model, min_ap=0.9, run={"model": model})
    report = json.loads(capsys.readouterr().out)
    assert report["accepted"] is True and report["keypoints_AP"] is None
    assert report["not_measured"] == {"keypoints_AP": "there is nothing to find"}


def test_masks_are_made_ready_off_the_clock(segmenting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = PrototypeMasks.rle

    def slowly(self: PrototypeMasks, index: int) -> Any:
        time.sleep(0.05)
        return encode(self, index)

    monkeypatch.setattr(PrototypeMasks, "rle", slowly)
    report = compared(segmenting, segmenting)
    for side in ("model", "reference"):
        assert report[side]["postprocess_ms"] < 50 and report[side]["pictures_per_second"] > 10


@pytest.mark.assets
def test_masks_of_a_real_model_give_pycocotools_figures(assets: Path, tmp_path: Path) -> None:
    """The reference's masks and those of weights with noise, as bitmaps that pycocotools encodes itself."""
    import onnx
    from onnx import numpy_helper
    from pycocotools import mask as coco
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    good = assets / "models" / "yolov8n-seg_320_deq.onnx"
    noisy = onnx.load(good)
    random = np.random.default_rng(0)
    for tensor in noisy.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.ndim == 4 and weights.dtype.kind == "f":
            spoilt = weights + random.normal(0, 0.02 * weights.std(), weights.shape)
            tensor.CopyFrom(numpy_helper.from_array(spoilt.astype(weights.dtype), tensor.name))
    onnx.save(noisy, tmp_path / "noisy.onnx")
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = sorted((assets / "coco-val128" / "images").iterdir())[:10]
    for path in paths:
        (folder / path.name).symlink_to(path)
    report = against_reference(
        config_of(str(tmp_path / "noisy.onnx"), folder),
        config_of(str(good), folder, conf_threshold=0.25),
        None,
        quietly,
    ).report
    rows: dict[str, list[Any]] = {"truth": [], "found": []}
    for side, model, conf in (("truth", str(good), 0.25), ("found", str(tmp_path / "noisy.onnx"), 0.01)):
        detector = Detector(model, provider="cpu")
        for image_id, path in enumerate(paths):
            found = detector.detect(cv2.imread(str(path)), conf=conf)
            assert found.masks is not None
            for mask, score, class_id in zip(found.masks, found.confidence, found.class_id, strict=True):
                rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
                row = {"image_id": image_id, "category_id": int(class_id), "segmentation": rle}
                rows[side].append(row | {"score": float(score), "area": float(mask.sum()), "iscrowd": 0})
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        true.dataset = {
            "images": [
                {"id": n, "height": shape[0], "width": shape[1]}
                for n, shape in enumerate(cv2.imread(str(path)).shape for path in paths)
            ],
            "categories": [{"id": n} for n in range(80)],
            "annotations": [row | {"id": 1 + n} for n, row in enumerate(rows["truth"])],
        }
        true.createIndex()
        evaluation = COCOeval(true, true.loadRes(rows["found"]), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert 0.3 < report["mask_AP"] < 0.99
    assert_same_stats(report, evaluation.stats.tolist(), MASK_KEYS)
