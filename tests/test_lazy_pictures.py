"""The full-size picture of a video frame is made when somebody asks for it, and then once."""

from __future__ import annotations

import copy
import pickle
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import av
import numpy as np
import pytest

from pipeline import Config, Detector, Pipeline
from pipeline.config import StreamConfig
from pipeline.decide import shows_pictures
from pipeline.frame import Decoded, Frame
from pipeline.sources import open_source, parse_source
from pipeline.stages.preprocess import BlobPool, Preprocess
from pipeline.vision.letterbox import InputSpec
from tests.clips import make_clip

SPEC = InputSpec(32, 32)


class Counted:
    """A conversion that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)

    def __call__(self):
        self.calls += 1
        return self.image.copy()


def frame_of(pixels) -> Frame:
    return Frame("a", 0, pixels, None, None, 0.0, 0.0)


def pictures(path, **stream):
    config = StreamConfig(source=str(path), **stream)
    with open_source(parse_source(str(path)), config, threading.Event()) as source:
        return list(source)


def test_a_picture_is_made_once_whoever_asks_first():
    made = Counted()
    frame = frame_of(Decoded((48, 64, 3), 4608, made))
    assert (frame.height, frame.width, made.calls) == (48, 64, 0)
    with ThreadPoolExecutor(8) as threads:
        images = list(threads.map(lambda _: frame.image, range(32)))
    assert made.calls == 1
    assert all(image is images[0] for image in images)


@pytest.mark.parametrize(("keep", "calls"), [(False, 2), (True, 1)])
def test_preprocessing_keeps_the_picture_only_where_somebody_wants_it_too(keep, calls):
    made = Counted()
    frame = frame_of(Decoded((48, 64, 3), 4608, made))
    (prepared,) = Preprocess(SPEC, BlobPool(SPEC.dtype), keep=keep)([frame])
    (plain,) = Preprocess(SPEC, BlobPool(SPEC.dtype))([frame_of(made.image)])
    np.testing.assert_array_equal(prepared.blob, plain.blob)
    np.testing.assert_array_equal(frame.image, made.image)
    assert made.calls == calls


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"jsonl": "x"}, False),
        ({"video": "x.mp4"}, True),
        ({"pictures": "x"}, True),
        ({"display": True}, True),
        ({"classify": "m.onnx"}, True),
    ],
)
def test_who_looks_at_pictures(options, shown):
    assert shows_pictures(Config(streams=[{"source": "sample:"}], **options)) is shown


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p", "gray"])
def test_a_decoded_picture_takes_what_its_planes_take(tmp_path, pix_fmt):
    found = pictures(
        make_clip(tmp_path / "clip.mkv", codec="ffv1", pix_fmt=pix_fmt, frames=3, size=(512, 64))
    )
    share = {"yuv420p": 1.5, "yuv422p": 2, "gray": 1}[pix_fmt]
    for picture in found:
        assert isinstance(picture.pixels, Decoded)
        # Planes may be padded, by some lines and columns.
        assert 512 * 64 * share <= picture.pixels.nbytes < 1.3 * 512 * 64 * share


def test_deep_colour_takes_less_as_a_picture(tmp_path):
    found = pictures(make_clip(tmp_path / "clip.mkv", codec="ffv1", pix_fmt="yuv444p16le", frames=2))
    assert [type(picture.pixels) for picture in found] == [np.ndarray] * 2


def test_pictures_outlive_their_source(tmp_path):
    """What a frame is converted from stays, unchanged, when the decoder has gone on and was closed."""
    path = make_clip(tmp_path / "clip.mp4", frames=30)
    with av.open(str(path)) as container:
        at_once = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    for picture, image in zip(pictures(path), at_once, strict=True):
        np.testing.assert_array_equal(picture.image, image)


def test_pictures_of_two_threads_are_converted_one_after_the_other(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", frames=30)
    expected = [picture.image for picture in pictures(path)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda picture: picture.image, pictures(path)))
    for image, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(image, other)


def test_the_picture_stands_in_the_place_of_what_it_was_made_from():
    made = Counted()
    alive = weakref.ref(made)
    pixels = Decoded((48, 64, 3), 4608, made)
    del made
    pixels.bgr(keep=False)
    assert alive() is not None
    pixels.bgr()
    assert alive() is None


@pytest.mark.parametrize("copied", [lambda frame: pickle.loads(pickle.dumps(frame)), copy.deepcopy])
def test_frames_go_to_other_processes_as_pictures(tmp_path, copied):
    found = pictures(make_clip(tmp_path / "clip.mp4", frames=3))
    for picture in found:
        frame = frame_of(picture.pixels)
        other = copied(frame)
        np.testing.assert_array_equal(other.image, frame.image)
        assert other.image is not frame.image


def test_colours_that_cannot_be_read_end_their_own_stream_whenever_they_begin(tmp_path, cheap_model):
    """Pictures are converted behind the place where a source may fail, so the first of a kind is not."""
    plain = make_clip(tmp_path / "plain.ts", frames=10)
    other = make_clip(
        tmp_path / "other.ts", frames=10, options={"x264-params": "colormatrix=YCgCo:annexb=1:aud=1"}
    )
    late = tmp_path / "late.ts"
    late.write_bytes(plain.read_bytes() + other.read_bytes())
    good = make_clip(tmp_path / "good.mp4", frames=40)
    streams = [{"source": str(late), "name": "late"}, {"source": str(good), "name": "good"}]
    with Pipeline(Config(streams=streams, model=cheap_model)) as line:
        counts = Counter(result.stream for result in line)
    assert counts["good"] == 40
    assert 0 < counts["late"] <= 10


def test_each_of_several_streams_detects_what_the_detector_does_in_the_full_picture():
    detect = partial(Detector().detect, conf=0.3)
    streams = [{"source": "sample:", "name": name, "max_frames": 8} for name in "abc"]
    seen: dict[str, list[int]] = {}
    with Pipeline(Config(streams=streams, conf_threshold=0.3)) as line:
        for result in line:
            seen.setdefault(result.stream, []).append(result.frame.seq)
            alone = detect(result.frame.image)
            np.testing.assert_array_equal(result.detections.xyxy, alone.xyxy)
            np.testing.assert_array_equal(result.detections.confidence, alone.confidence)
            np.testing.assert_array_equal(result.detections.class_id, alone.class_id)
    assert seen == {name: list(range(8)) for name in "abc"}
