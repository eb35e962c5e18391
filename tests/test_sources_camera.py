"""The camera source over a real cv2.VideoCapture: on a file, because no camera is to be had here."""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

import cv2
import pytest

from pipeline.config import CameraConfig, StreamConfig
from pipeline.errors import SourceOpenError, SourceReadError
from pipeline.sources import open_source, parse_source, read_number
from pipeline.sources.camera import CameraSource
from tests.clips import make_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "camera.avi", codec="mjpeg", frames=8, size=(128, 96))


def camera(clip: Path, stop: threading.Event | None = None, **wanted) -> CameraSource:
    config = StreamConfig(source="camera:0", camera=CameraConfig(**wanted))
    spec = parse_source("camera:0")
    return CameraSource(spec, config, stop or threading.Event(), lambda _: cv2.VideoCapture(str(clip)))


def test_pictures_until_it_gives_no_more(clip):
    pictures = []
    with camera(clip) as source:
        assert source.live
        with pytest.raises(SourceReadError, match=r"gives no more pictures .unplugged.., after 8") as caught:
            pictures.extend(source)
    assert caught.value.cause == "ended"
    assert [read_number(p.image) for p in pictures] == list(range(8))
    assert all(p.image.flags.c_contiguous and p.pts is None for p in pictures)


def test_pictures_are_the_receivers_own(clip):
    stop = threading.Event()
    pictures = []
    for picture in camera(clip, stop):
        pictures.append(picture)
        if len(pictures) == 5:
            stop.set()
    assert [read_number(p.image) for p in pictures] == list(range(5))


def test_what_it_gives_instead_is_said(clip, caplog):
    caplog.set_level(logging.INFO)
    with camera(clip, width=640, height=96, fps=30, pixel_format="YUYV") as source:
        assert source.description.startswith("MJPG, 128x96, 25 fps")
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "width 128 instead of 640" in warning and "fps 25 instead of 30" in warning
    assert "pixel format MJPG instead of YUYV" in warning and "height" not in warning


def test_no_warning_when_it_gives_what_was_asked(clip, caplog):
    camera(clip, width=128, height=96).close()
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_it_is_released(clip):
    with camera(clip) as source:
        assert source._capture.isOpened()
    assert not source._capture.isOpened()
    source.close()


@pytest.mark.skipif(sys.platform != "linux", reason="asks for a device of Linux")
@pytest.mark.parametrize("text", ["camera:97", "camera:/dev/video97", "/dev/video97"])
def test_a_camera_that_is_not_there(text, capfd):
    with pytest.raises(SourceOpenError, match=r"cannot open camera .*97: there is none") as caught:
        open_source(parse_source(text), StreamConfig(source=text), threading.Event())
    assert caught.value.cause == "not_found"
    assert capfd.readouterr().err == ""
