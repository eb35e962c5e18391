"""The clip that the project ships."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnxruntime
import pytest

from pipeline.sample import SAMPLE, make_sample

MODELS = Path(__file__).resolve().parent.parent / "models"
CARD = tomllib.loads((MODELS / "nanodet-g.toml").read_text(encoding="utf-8"))


def boxes_of(data: bytes) -> Iterator[str]:
    """Types of an MP4's top-level boxes, in order (ISO/IEC 14496-12)."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        assert 8 <= size <= len(data) - at
        yield data[at + 4 : at + 8].decode("ascii")
        at += size


def blob(image: Any) -> np.ndarray[Any, Any]:
    """An image as NanoDet-g takes it: letterboxed in black, normalised, [1, 3, 416, 416]."""
    ratio = 416 / max(image.shape[:2])
    small = cv2.resize(image, None, fx=ratio, fy=ratio)
    top, left = (416 - small.shape[0]) // 2, (416 - small.shape[1]) // 2
    canvas = np.zeros((416, 416, 3), np.float32)
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    canvas = (canvas - CARD["input"]["mean"]) / CARD["input"]["std"]
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)[None], np.float32)


def test_the_clip_plays_in_a_browser() -> None:
    data = SAMPLE.read_bytes()
    assert len(data) < 1e6
    boxes = list(boxes_of(data))
    assert boxes.index("moov") < boxes.index("mdat")
    with av.open(str(SAMPLE)) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (1280, 720, 25)
        assert 8 <= float(stream.duration * stream.time_base) <= 12
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
    keys = sorted(packet.pts * packet.time_base for packet in packets if packet.is_keyframe)
    assert keys[0] == 0
    assert max(late - early for early, late in itertools.pairwise(keys)) <= 2
    assert len(packets) == make_sample.FPS * make_sample.SECONDS


def test_the_default_model_sees_what_the_clip_shows() -> None:
    labels = (MODELS / "labels" / "coco80.txt").read_text(encoding="utf-8").split("\n")
    seen: dict[int, set[str]] = {}
    model = onnxruntime.InferenceSession(str(MODELS / CARD["file"]), providers=["CPUExecutionProvider"])
    with av.open(str(SAMPLE)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in (0, 70, 130, 160, 215, 249):
                outputs = model.run(None, {"images": blob(frame.to_ndarray(format="bgr24"))})
                scores = np.concatenate([output[0] for output in outputs if output.shape[2] == 80])
                found = np.flatnonzero(scores.max(0) > CARD["conf_threshold"])
                seen[index] = {labels[class_id] for class_id in found}
    assert seen[0] == seen[249] == set()
    assert "person" in seen[70] and "cat" not in seen[70]
    assert {"person", "cat"} <= seen[130]
    assert {"person", "cat"} <= seen[160]
    assert "person" in seen[215] and "cat" not in seen[215]


def test_every_card_of_the_clip_comes_moves_and_goes() -> None:
    last = make_sample.SECONDS - 1 / make_sample.FPS
    for card in make_sample.CARDS:
        times = np.arange(card.keys[0].seconds, card.keys[-1].seconds, 0.04)
        poses = [make_sample.pose(card, float(time)) for time in times]
        assert all(pose is not None for pose in poses)
        assert make_sample.pose(card, 0) is None and make_sample.pose(card, last) is None
        path = np.array([(pose.x, pose.y, pose.height) for pose in poses if pose is not None])
        # Smooth: the step from frame to frame never changes by more than a few pixels.
        assert np.abs(np.diff(path, 2, axis=0)).max() < 4
        for key in card.keys[:-1]:
            pose = make_sample.pose(card, key.seconds)
            assert pose is not None
            assert (pose.x, pose.y, pose.height, pose.tilt) == pytest.approx(
                (key.x, key.y, key.height, key.tilt)
            )


def test_a_picture_that_is_another_one_is_refused(tmp_path: Path) -> None:
    card = make_sample.CARDS[0]
    (tmp_path / card.file).write_bytes(b"not this one")
    with pytest.raises(ValueError, match=f"sha256 is [0-9a-f]{{64}}, expected {card.sha256}"):
        make_sample.load(tmp_path, card)


def test_notice_names_every_picture() -> None:
    notice = SAMPLE.with_name("NOTICE.md").read_text(encoding="utf-8")
    for card in make_sample.CARDS:
        row = next(line for line in notice.splitlines() if f"`{card.file}`" in line)
        assert card.sha256 in row
        assert "CC0" in row or "public domain" in row
