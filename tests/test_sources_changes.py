"""What a stream says of itself is followed in mid-stream: its size, and its rate."""

from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from pipeline.accounts import StreamAccount, told
from pipeline.config import StreamConfig
from pipeline.frame import Frame
from pipeline.sources import parse_source
from pipeline.sources.framenumbers import FrameNumbers
from pipeline.stages.capture import Capture
from tests.clips import make_clip, need_encoder
from tests.test_sources_tracks import parts, sent

RATES = [Fraction(25), Fraction(10), Fraction(30_000, 1001), Fraction(1, 2)]
SHAPES = [
    {},
    {"profile": "high444", "pix_fmt": "yuv444p"},
    {
        "aspect": "255:254",
        "colorspace": "bt709",
        "color_range": "tv",
        "x264-params": "overscan=show:videoformat=pal",
    },
    {"x264-params": "interlaced=1:chromaloc=1"},
    {"x264-params": "crop-rect=2,2,2,2:sar=255/254"},
]


@pytest.mark.parametrize("options", SHAPES)
@pytest.mark.parametrize("fps", RATES)
def test_the_rate_in_a_parameter_set_is_ffmpegs(
    tmp_path: Path, fps: Fraction, options: dict[str, str]
) -> None:
    options = dict(options)
    path = make_clip(
        tmp_path / "clip.h264", frames=4, fps=fps, pix_fmt=options.pop("pix_fmt", None), options=options
    )
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        numbers = FrameNumbers(bytes(context.extradata or b""))
        for packet in container.demux(video=0):
            if packet.size:
                numbers.gap_before(memoryview(packet))
        assert numbers.rate == 2 * fps == 2 * context.framerate


def clip(path: Path, fps: int, size: tuple[int, int], codec: str) -> bytes:
    options = {"bf": "0"} if codec == "libx264" else {}
    return make_clip(
        path, frames=2 * fps, fps=fps, size=size, codec=codec, gop=fps, options=options
    ).read_bytes()


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize(
    ("codec", "size"),
    [("libx264", (64, 48)), ("libx264", (96, 48)), ("libx265", (64, 48)), ("mpeg2video", (96, 48))],
)
def test_a_live_stream_that_changes(
    tmp_path: Path, codec: str, size: tuple[int, int], isolate: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    need_encoder(codec)
    before = clip(tmp_path / "before.ts", 25, (64, 48), codec)
    after = clip(tmp_path / "after.ts", 50, size, codec)
    with sent([*parts(before), *parts(after), *parts(after)], 0.005) as url:
        stream = StreamConfig(source=url, stall_timeout=1, reconnect=False, isolate=isolate)
        account = StreamAccount("cam")
        frames = [each for each in Capture(parse_source(url), stream, account)() if isinstance(each, Frame)]
    now = told(account)
    assert account.health.declared_fps == now["declared_fps"] == 50
    assert (frames[0].width, frames[0].height) == (64, 48)
    assert (frames[-1].width, frames[-1].height) == size
    assert f"{size[0]}x{size[1]}, 50 fps" in now["source"]
    told_changes = [record.message for record in caplog.records if "stream cam: now " in record.message]
    assert len(told_changes) == 1 and "50 fps" in told_changes[0]


def test_what_is_refused_behind_the_last_picture_is_counted(tmp_path: Path) -> None:
    """Where another codec comes, the decoder refuses each packet, and the source is given up."""
    before = make_clip(tmp_path / "before.ts", frames=50, options={"bf": "0"})
    noise = np.random.default_rng(0).integers(0, 255, (75, 48, 64, 3), dtype=np.uint8)
    after = make_clip(tmp_path / "after.ts", images=noise, codec="mpeg2video")
    path = tmp_path / "both.ts"
    path.write_bytes(before.read_bytes() + after.read_bytes() + before.read_bytes())
    account = StreamAccount("cam")
    frames = list(Capture(parse_source(str(path)), StreamConfig(source=str(path)), account)())
    assert len(frames) >= 40 and account.ending == "changed"
    assert account.corrupt_packets >= 50


def counted(url: str) -> tuple[int, int]:
    """Packets that are counted as corrupt, and pictures that are damaged."""
    account = StreamAccount("cam")
    stream = StreamConfig(source=url, stall_timeout=1, reconnect=False)
    for _ in Capture(parse_source(url), stream, account)():
        pass
    return account.corrupt_packets, account.damaged


def test_a_lost_packet_that_pictures_tell_of_is_counted_once(tmp_path: Path) -> None:
    whole, path = (
        make_clip(tmp_path / "whole.ts", frames=50, gop=10, options={"bf": "0"}),
        tmp_path / "lost.ts",
    )
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        track = out.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number not in (13, 34):
                packet.stream = track
                out.mux(packet)
    for clip, lost in ((whole, 0), (path, 2)):
        with sent(parts(clip.read_bytes()), 0.005) as url:
            packets, pictures = counted(url)
        assert packets == lost
        assert (pictures > 0) == (lost > 0)


def test_a_jpeg_that_is_cut_off_is_a_packet_that_lacks_data(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (12, 48, 64, 3), dtype=np.uint8)
    jpegs = [cv2.imencode(".jpg", image)[1].tobytes() for image in noise]
    path = tmp_path / "cut.mjpeg"
    path.write_bytes(
        b"".join(jpeg[: len(jpeg) // 2] if n in (4, 5, 9) else jpeg for n, jpeg in enumerate(jpegs))
    )
    assert counted(str(path)) == (3, 3)
