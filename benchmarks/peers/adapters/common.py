"""What all adapters share: arguments, the clock, and the plain way to detect objects with ONNX.

Adapters are run by path in environments that have no framerail: only NumPy and OpenCV here.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

PAD = 114


def arguments() -> argparse.Namespace:
    """What ``benchmarks.peers`` asks of an adapter."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--clip", required=True)
    parser.add_argument("--frames", type=int, required=True, help="frames that are timed")
    parser.add_argument("--warm-up", type=int, required=True, help="frames before them")
    parser.add_argument("--conf", type=float, required=True)
    parser.add_argument("--iou", type=float, required=True)
    parser.add_argument("--max-detections", type=int, required=True)
    parser.add_argument("--size", type=int, required=True, help="side of the model's square input")
    parser.add_argument("--detections", required=True, help="npz file to write them to")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON, for framerail")
    return parser.parse_args()


def cpu_seconds() -> float:
    """CPU time of this process, all threads, and of its children that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _version(package: str) -> tuple[str, str]:
    """A distribution and its version; of OpenCV's, the one that is installed."""
    try:
        return package, version(package)
    except PackageNotFoundError:
        return f"{package}-headless", version(f"{package}-headless")


class Recorder:
    """Counts deliveries, times those after the warm-up, and keeps what was detected."""

    def __init__(self, asked: argparse.Namespace, *packages: str) -> None:
        """``packages``: the distributions whose versions matter."""
        self._asked = asked
        self._versions = dict(_version(package) for package in packages)
        self._delivered = 0
        self._edges: list[tuple[float, float]] = []
        self._kept: dict[int, tuple[Any, Any, Any]] = {}

    @property
    def done(self) -> bool:
        """Whether all frames that were asked for are delivered."""
        return self._delivered >= self._asked.warm_up + self._asked.frames

    def tick(self) -> None:
        """Another frame is delivered."""
        self._delivered += 1
        if self._delivered in (self._asked.warm_up, self._asked.warm_up + self._asked.frames):
            self._edges.append((time.perf_counter(), cpu_seconds()))

    def keep(self, frame: int, xyxy: Any, scores: Any, classes: Any) -> None:
        """What was detected in a frame: boxes [N, 4] in its pixels, scores [N], class numbers [N]."""
        self._kept[frame] = (xyxy, scores, classes)

    def deliver(self, xyxy: Any, scores: Any, classes: Any) -> bool:
        """Keep the next frame's detections and count it; whether that was the last."""
        self.keep(self._delivered, xyxy, scores, classes)
        self.tick()
        return self.done

    def finish(self, **more: Any) -> None:
        """Write the detections, print the line of JSON. Raises SystemExit where the clip was too short."""
        wanted = self._asked.warm_up + self._asked.frames
        if not self.done:
            raise SystemExit(f"the clip ended after {self._delivered} of {wanted} frames")
        missing = [frame for frame in range(wanted) if frame not in self._kept]
        if missing:
            raise SystemExit(f"{len(missing)} frames were never delivered, the first is {missing[0]}")
        kept = [self._kept[frame] for frame in range(wanted)]
        counts = [len(scores) for _, scores, _ in kept]
        np.savez_compressed(
            self._asked.detections,
            frames=np.array(wanted),
            frame=np.repeat(np.arange(wanted), counts),
            xyxy=np.concatenate([np.asarray(xyxy, np.float32).reshape(-1, 4) for xyxy, _, _ in kept]),
            score=np.concatenate([np.asarray(scores, np.float32).reshape(-1) for _, scores, _ in kept]),
            class_id=np.concatenate([np.asarray(ids).astype(np.int32).reshape(-1) for _, _, ids in kept]),
        )
        (begun, cpu_begun), (ended, cpu_ended) = self._edges
        said = {
            "frames": self._asked.frames,
            "seconds": ended - begun,
            "cpu_seconds": cpu_ended - cpu_begun,
            "versions": self._versions,
            **more,
        }
        print("\n" + json.dumps(said), flush=True)


def pictures(clip: str) -> Iterator[Any]:
    """Frames of a video file as most programs read them: uint8 [height, width, 3], BGR."""
    capture = cv2.VideoCapture(clip)
    if not capture.isOpened():
        raise SystemExit(f"cannot open {Path(clip).name}")
    try:
        while True:
            read, image = capture.read()
            if not read:
                return
            yield image
    finally:
        capture.release()


def letterbox(image: Any, size: int) -> tuple[Any, float, int, int]:
    """The picture within a grey square, and the scale, left and top that it has there."""
    height, width = image.shape[:2]
    scale = min(size / height, size / width)
    inner_width, inner_height = round(width * scale), round(height * scale)
    left, top = (size - inner_width) // 2, (size - inner_height) // 2
    resized = cv2.resize(image, (inner_width, inner_height), interpolation=cv2.INTER_LINEAR)
    right, bottom = size - inner_width - left, size - inner_height - top
    edges = (top, bottom, left, right, cv2.BORDER_CONSTANT)
    return cv2.copyMakeBorder(resized, *edges, value=(PAD,) * 3), scale, left, top


def blob_of(image: Any, size: int) -> tuple[Any, tuple[float, int, int]]:
    """float32 [1, 3, size, size], RGB in 0..1, and the place of the picture in it."""
    boxed, *place = letterbox(image, size)
    return cv2.dnn.blobFromImage(boxed, 1 / 255, swapRB=True), (place[0], place[1], place[2])


def candidates(output: Any, place: tuple[float, int, int], hw: tuple[int, int], conf: float) -> Any:
    """Boxes [N, 4] xyxy in the frame's pixels, scores, classes of a [1, 4 + classes, boxes] over ``conf``."""
    table = output[0]
    scores = table[4:].max(axis=0)
    chosen = scores > conf
    table, scores = table[:, chosen], scores[chosen]
    classes = table[4:].argmax(axis=0) if len(scores) else np.empty(0, np.int64)
    scale, left, top = place
    center_x, center_y, width, height = table[:4]
    xyxy = np.stack(
        [center_x - width / 2, center_y - height / 2, center_x + width / 2, center_y + height / 2], axis=1
    )
    xyxy = (xyxy - np.float32([left, top] * 2)) / np.float32(scale)
    return np.clip(xyxy, 0, np.float32([hw[1], hw[0]] * 2)), scores, classes


def suppress(
    xyxy: Any, scores: Any, classes: Any, conf: float, iou: float, limit: int
) -> tuple[Any, Any, Any]:
    """Class-aware NMS, OpenCV's; at most ``limit`` boxes by falling score."""
    if not len(scores):
        return xyxy, scores, classes
    xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)
    kept = cv2.dnn.NMSBoxesBatched(xywh.tolist(), scores.tolist(), classes.tolist(), conf, iou)
    kept = np.asarray(kept, np.int64).reshape(-1)
    kept = kept[np.argsort(-scores[kept], kind="stable")][:limit]
    return xyxy[kept], scores[kept], classes[kept]


def postprocess(output: Any, place: Any, image: Any, asked: argparse.Namespace) -> tuple[Any, Any, Any]:
    """A raw output to boxes, scores and classes, all of the plain way."""
    found = candidates(output, place, image.shape[:2], asked.conf)
    return suppress(*found, asked.conf, asked.iou, asked.max_detections)


class PlainDetector:
    """ONNX Runtime as its documentation shows it: a session with its defaults, one run a frame."""

    def __init__(self, asked: argparse.Namespace) -> None:
        import onnxruntime

        self._asked = asked
        self._session = onnxruntime.InferenceSession(asked.model, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def raw(self, image: Any) -> tuple[Any, tuple[float, int, int]]:
        """The model's output, and the picture's place in its input."""
        blob, place = blob_of(image, self._asked.size)
        return self._session.run(None, {self._input: blob})[0], place

    def __call__(self, image: Any) -> tuple[Any, Any, Any]:
        """Boxes [N, 4] xyxy in the picture's pixels, scores [N], classes [N]."""
        output, place = self.raw(image)
        return postprocess(output, place, image, self._asked)
