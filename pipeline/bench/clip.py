"""A clip such as a camera of some size and rate would send, made of any video: what ``plan`` plays."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from pipeline.config import StreamConfig
from pipeline.errors import ConfigError
from pipeline.frame import Image
from pipeline.sinks.encoder import CONTAINERS, Encoder
from pipeline.sinks.part import PartFile
from pipeline.sources import open_source, parse_source
from pipeline.sources.base import Picture

NAMED = {
    "480p": (854, 480),
    "720p": (1280, 720),
    "1080p": (1920, 1080),
    "1440p": (2560, 1440),
    "4k": (3840, 2160),
}
"""Width and height."""
SECONDS = 8


def resolution(text: str) -> tuple[int, int]:
    """``1080p`` or ``1920x1080`` to (width, height), both even as H.264 wants them. Raises ConfigError."""
    if text.lower() in NAMED:
        return NAMED[text.lower()]
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdecimal() for side in sides):
        raise ConfigError(f"--resolution: expected {', '.join(NAMED)} or WxH such as 1920x1080; got {text!r}")
    width, height = (int(side) for side in sides)
    if not all(16 <= side <= 8192 and side % 2 == 0 for side in (width, height)):
        raise ConfigError(f"--resolution: expected even sides within 16..8192; got {text!r}")
    return width, height


def make_clip(path: Path, source: str, size: tuple[int, int], fps: float) -> Path:
    """Write ``SECONDS`` of ``source`` as H.264 of this size (width, height) and rate; returns ``path``.

    Frames are taken as they come, begun again at the end, and stretched to the size: what decoding and
    detecting cost does not depend on how fast things move. Raises SourceError, ConfigError for a source
    without pictures.
    """
    part = PartFile(path, str(path))
    encoder = Encoder(part, CONTAINERS[".mp4"], size, Fraction(fps).limit_denominator(1001))
    ticks = 1 / (Fraction(fps).limit_denominator(1001) * encoder.tick)
    for number, image in enumerate(itertools.islice(_pictures(source), round(SECONDS * fps) or 1)):
        interpolation = cv2.INTER_AREA if image.shape[1] > size[0] else cv2.INTER_LINEAR
        scaled = np.asarray(cv2.resize(image, size, interpolation=interpolation), np.uint8)
        encoder.encode(scaled, round(number * ticks))
    encoder.finish()
    part.check()
    part.commit()
    part.close()
    return path


def _pictures(source: str) -> Iterator[Image]:
    spec, stop = parse_source(source), threading.Event()
    while True:
        found = False
        with open_source(spec, StreamConfig(source=source), stop) as opened:
            for picture in opened:
                if isinstance(picture, Picture):
                    found = True
                    yield picture.image
        if not found:
            raise ConfigError(f"{source}: no picture in it can be read")
