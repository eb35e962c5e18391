"""What is made of the wanted pixels alone is what a resize of the whole picture gives, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import StreamConfig
from pipeline.frame import Decoded, Frame
from pipeline.sources import open_source, parse_source
from pipeline.sources.convert import Converter
from pipeline.stages.preprocess import BlobPool, Preprocess
from pipeline.vision.letterbox import InputSpec
from tests.clips import make_clip


def noise(width: int, height: int, kind: str, seed: int) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, kind)
    draw = np.random.default_rng(seed)
    for plane in frame.planes:
        plane.update(draw.integers(0, 256, plane.buffer_size, np.uint8).tobytes())
    return frame


@settings(max_examples=80, deadline=None)
@given(
    st.just(3),
    st.integers(1, 30).map(lambda half: 2 * half),
    st.integers(1, 20).map(lambda half: 2 * half),
    st.sampled_from(["yuv420p", "yuvj420p"]),
    st.sampled_from([1, 2, 5, 6, 9]),
    st.sampled_from([1, 2]),
    st.integers(0, 2**32),
)
def test_it_is_the_resized_picture(factor, width, height, kind, space, reach, seed):
    frame = noise(factor * width, factor * height, kind, seed)
    frame.colorspace, frame.color_range = space, reach
    converter = Converter("clip")
    whole = converter.to_bgr(frame)
    wanted = cv2.resize(whole, (width, height), interpolation=cv2.INTER_LINEAR)
    found = converter._reduced(frame, height, width)
    assert found is not None
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("size", "kind", "to"),
    [
        ((120, 90), "yuv420p", (60, 45)),  # an even factor: four pixels in one
        ((120, 90), "yuv420p", (50, 37)),
        ((126, 90), "yuv420p", (42, 45)),  # not the same in both directions
        ((120, 90), "yuv420p", (120, 90)),
        ((120, 105), "yuv420p", (40, 35)),  # an odd height is converted in another way
        ((120, 90), "yuv422p", (40, 30)),
        ((120, 90), "nv12", (40, 30)),
        ((150, 90), "yuv420p", (30, 18)),  # a fifth
    ],
)
def test_anything_else_is_converted_whole(size, kind, to):
    frame = noise(*size, kind, 1)
    assert Converter("clip")._reduced(frame, to[1], to[0]) is None


@pytest.mark.parametrize("rotation", [None, 90, 180])
def test_a_decoded_clip_gives_the_same_blobs(tmp_path: Path, rotation: int | None) -> None:
    """Through preprocess; a picture that is turned takes the long way."""
    clip = make_clip(tmp_path / "c.mp4", frames=8, size=(480, 288), rotation=rotation)
    stream = StreamConfig(source=str(clip))
    with open_source(parse_source(str(clip)), stream, threading.Event()) as source:
        pictures = list(source)
    spec = InputSpec(160, 160)
    short, long = (Preprocess(spec, BlobPool(spec.dtype), keep=keep) for keep in (False, True))
    for picture in pictures:
        frames = [Frame("s", 0, picture.pixels, None, None, 0.0, 0.0)] * 2
        (quick,), (slow,) = short(frames[:1]), long(frames[1:])
        np.testing.assert_array_equal(quick.blob, slow.blob)
        assert quick.letterbox == slow.letterbox
    assert sum(reducing(picture.pixels, 96, 160) for picture in pictures) == 0  # they are converted by now


def reducing(pixels: Decoded, height: int, width: int) -> bool:
    return pixels.reduced(height, width) is not None


def test_the_whole_picture_is_made_only_when_it_is_wanted() -> None:
    calls: list[str] = []
    image = np.zeros((96, 96, 3), np.uint8)

    def note(name: str, value: np.ndarray) -> Callable[..., np.ndarray]:
        return lambda *_: calls.append(name) or value

    spec = InputSpec(32, 32)
    decoded = Decoded((96, 96, 3), 1, note("whole", image), note("reduced", image[:32, :32].copy()))
    frame = Frame("s", 0, decoded, None, None, 0.0, 0.0)
    Preprocess(spec, BlobPool(spec.dtype))([frame])
    assert calls == ["reduced"]
    Preprocess(spec, BlobPool(spec.dtype), keep=True)([frame])
    assert calls == ["reduced", "whole"]
    Preprocess(spec, BlobPool(spec.dtype))([frame])  # it is there already
    assert calls == ["reduced", "whole"]
