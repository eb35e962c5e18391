"""What changes in mid-stream: size, codec, presentation times; and pictures marked as damaged."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from pipeline import Pipeline
from pipeline.config import StreamConfig, make_config
from pipeline.errors import SourceReadError
from pipeline.sinks import JsonLines
from pipeline.sources import open_source, parse_source, read_number
from pipeline.sources.synthetic import encode_number
from tests.clips import make_clip


def ts(path: Path, **clip) -> bytes:
    return make_clip(path, frames=30, format="mpegts", **clip).read_bytes()


def read(path: Path) -> list:
    stream = StreamConfig(source=str(path))
    with open_source(parse_source(str(path)), stream, threading.Event()) as source:
        return list(source)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("ts")
    return {
        "small": ts(folder / "s.ts", size=(128, 96)),
        "large": ts(folder / "l.ts", size=(256, 192)),
        "mpeg2": ts(folder / "m.ts", size=(128, 96), codec="mpeg2video"),
        "hevc": ts(folder / "h.ts", size=(128, 96), codec="libx265"),
    }


def test_another_size_is_followed(cheap_model: str, parts: dict[str, bytes], tmp_path: Path) -> None:
    """And its times, which begin again, go on; boxes are those of each picture's own size."""
    path = tmp_path / "sizes.ts"
    path.write_bytes(parts["small"] + parts["large"] + parts["small"])
    config = make_config({"streams": [{"source": str(path), "name": "s"}], "model": cheap_model})
    with Pipeline(config) as line:
        results = list(line)
    sizes = [result.frame.width for result in results]
    assert [b for a, b in pairwise([0, *sizes]) if a != b] == [128, 256, 128]
    assert len(results) > 80
    for result in results:  # the cheap model's box is in the middle of any picture
        x1, _, x2, _ = result.detections.xyxy[0]
        assert (x1 + x2) / 2 == pytest.approx(result.frame.width / 2, abs=1)
    times = [result.frame.pts_seconds for result in results]
    assert all(0 < b - a < 0.2 for a, b in pairwise(times))
    account = line.accounts.streams["s"]
    assert account.pts_repaired["jump"] == 2
    assert account.counts().captured == len(results)


@pytest.mark.parametrize("degrees", [90, -90])
def test_another_rotation_is_followed(tmp_path: Path, degrees: int) -> None:
    """A camera that is turned says so beside its next key picture, for those that follow too."""
    upright = make_clip(tmp_path / "upright.ts", frames=30, size=(128, 96), format="mpegts")
    stored = (np.rot90(encode_number(n, 96, 128), -degrees // 90) for n in range(30))
    clip = make_clip(tmp_path / "stored.ts", images=stored, size=(96, 128), gop=30, format="mpegts")
    both = tmp_path / "both.ts"
    both.write_bytes(b"".join(path.read_bytes() for path in (upright, turned(clip, degrees), upright)))
    pictures = [picture for picture in read(both) if not picture.damaged]
    assert {picture.image.shape for picture in pictures} == {(96, 128, 3)}
    numbers = [read_number(picture.image) for picture in pictures]
    assert [n for a, n in pairwise(numbers) if n < a] == [0, 0] and len(numbers) >= 3 * 28


def test_a_slanted_rotation_is_said_with_the_source(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = turned(make_clip(tmp_path / "a.ts", frames=10, size=(128, 96), format="mpegts"), 45)
    assert len(read(clip)) == 10
    assert f"{clip}: rotation by 45° is no multiple of 90°: pictures stay as stored" in caplog.text


def turned(clip: Path, degrees: int) -> Path:
    """The clip with a message beside its first picture that it is to be turned by so much."""
    path = clip.with_name(f"turned{degrees}.ts")
    with av.open(str(clip)) as given, av.open(str(path), "w", format="mpegts") as out:
        video = given.streams.video[0]
        copy = out.add_stream_from_template(video)
        say = BitStreamFilterContext(
            f"h264_metadata=display_orientation=insert:rotate={degrees}", video, copy
        )
        for packet in given.demux(video):
            for told in say.filter(packet if packet.dts is not None else None):
                told.stream = copy
                out.mux(told)
    return path


def test_another_frame_rate_is_followed(cheap_model: str, tmp_path: Path) -> None:
    path = tmp_path / "rates.ts"
    rates = (25, 10, 50)
    path.write_bytes(b"".join(ts(tmp_path / f"{fps}.ts", size=(128, 96), fps=fps) for fps in rates))
    config = make_config({"streams": [{"source": str(path), "name": "s"}], "model": cheap_model})
    with Pipeline(config) as line:
        times = [result.frame.pts_seconds for result in line]
    steps = Counter(round(b - a, 2) for a, b in pairwise(times))
    # At a seam of the files there may be another one.
    assert {step for step, count in steps.items() if count >= 26} == {1 / fps for fps in rates}


def test_another_codec_is_said(parts: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "codecs.ts"
    path.write_bytes(parts["small"] + parts["hevc"])
    with pytest.raises(SourceReadError, match="packets in a row are no h264") as caught:
        read(path)
    assert caught.value.cause == "changed"


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize(("length", "threads"), [(1, 1), (3, 1), (3, None)])
def test_pictures_before_another_codec_come_also_those_that_were_held_back(
    parts: dict[str, bytes], tmp_path: Path, codec: str, length: int, threads: int | None
) -> None:
    """Also where there are few packets of the other one; that at the seam is of both."""
    options = {"preset": "medium", "bf": "4"} if codec == "libx264" else {"preset": "medium"}
    first = make_clip(
        tmp_path / "first.ts", codec=codec, frames=50, size=(128, 96), options=options, format="mpegts"
    )
    path = tmp_path / "codecs.ts"
    path.write_bytes(first.read_bytes() + length * parts["mpeg2"])
    stream, numbers = StreamConfig(source=str(path), decode_threads=threads), []
    with (
        open_source(parse_source(str(path)), stream, threading.Event()) as source,
        pytest.raises(SourceReadError, match="packets in a row are no") as caught,
    ):
        for picture in source:
            numbers.append(read_number(picture.image))
    assert caught.value.cause == "changed"
    assert len(set(numbers) & set(range(50))) >= 49


@pytest.mark.parametrize(("first", "second"), [("small", "mpeg2"), ("hevc", "mpeg2"), ("hevc", "small")])
def test_no_picture_is_made_of_another_codec(
    parts: dict[str, bytes], tmp_path: Path, first: str, second: str
) -> None:
    """A decoder would: of what follows, no picture, and the first codec again is read on."""
    path = tmp_path / "codecs.ts"
    path.write_bytes(parts[first] + parts[second] + parts[first])
    alone = tmp_path / "alone.ts"
    alone.write_bytes(parts[first] + parts[first])
    assert len(read(path)) <= len(read(alone)) + 1


@pytest.mark.parametrize("damaged", ["flag", "drop", "keep"])
def test_pictures_that_the_decoder_marks(cheap_model: str, tmp_path: Path, damaged: str) -> None:
    clip = make_clip(tmp_path / "c.ts", frames=100, size=(320, 240), gop=50, format="mpegts")
    data = bytearray(clip.read_bytes())
    draw = random.Random(3)
    for _ in range(40):  # within the packets' payload, past the head of the file
        at = draw.randrange(len(data) // 5, len(data))
        data[at] ^= draw.randrange(1, 256) if at % 188 > 20 else 0
    clip.write_bytes(data)
    out = tmp_path / "o.jsonl"
    config = make_config(
        {"streams": [{"source": str(clip), "name": "s", "damaged": damaged}], "model": cheap_model}
    )
    with Pipeline(config, sinks=[JsonLines(str(out))]) as line:
        flags = [result.frame.damaged for result in line]
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    account = line.accounts.streams["s"]
    marked, counts = account.damaged, account.counts()
    assert marked > 0
    assert counts.captured == counts.emitted + counts.dropped_total
    if damaged == "drop":
        assert counts.dropped == {("capture", "damaged"): marked}
        assert not any(flags)
    else:
        assert not counts.dropped
        assert sum(flags) == sum("damaged" in each for each in lines) == (marked if damaged == "flag" else 0)
