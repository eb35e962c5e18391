"""What lost data spoils is marked, whoever made it: the decoder says little, and throws away much."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline import chaos
from pipeline.sources import Picture
from tests.chaos_clients import opened as camera
from tests.clips import make_clip, need_encoder
from tests.test_sources_media import opened

FRAMES, GOP = 150, 25
SEEN = 4.0
"""Mean difference of grey values from which a picture can be seen to be another."""


def scene(n: int) -> np.ndarray:
    """A patterned field that moves, so that every picture is coded as a difference from others."""
    rows, columns = np.mgrid[0:144, 0:192]
    grey = 128 + 60 * np.sin((columns + 3 * n) / 9) + 50 * np.cos((rows - 2 * n) / 7)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module", params=["libx264", "libx264 -bf 2", "libx265"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    codec, *b_frames = request.param.split(" ", 1)
    need_encoder(codec)
    options = {"bf": "2", "preset": "medium", "tune": "film"} if b_frames else {}
    path = tmp_path_factory.mktemp("damage") / f"{codec}.ts"
    images = (scene(n) for n in range(FRAMES))
    return make_clip(
        path, codec=codec, images=images, size=(192, 144), gop=GOP, options=options, format="mpegts"
    )


def with_losses(clip: Path, path: Path, seed: int) -> Path:
    """The same without some pieces of 300 bytes of its packets, past the first GOP."""
    draw = random.Random(seed)
    with av.open(str(clip)) as given, av.open(str(path), "w", format="mpegts") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(given.streams.video[0])):
            data = bytes(packet)
            pieces = [data[at : at + 300] for at in range(0, len(data), 300)]
            kept = [piece for piece in pieces if number < GOP or packet.is_keyframe or draw.random() > 0.03]
            if kept:
                part = av.Packet(b"".join(kept))
                part.pts, part.dts, part.time_base = packet.pts, packet.dts, packet.time_base
                part.stream = stream
                out.mux(part)
    return path


def packets(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def grey(picture: Picture) -> np.ndarray:
    return picture.image[..., 0].astype(int)


def test_what_is_spoilt_is_marked_and_comes_all_the_same(clip: Path, tmp_path: Path) -> None:
    whole = {picture.pts: grey(picture) for picture in opened(clip)}
    wrecked = marked = sound = 0
    for seed in range(3):
        path = with_losses(clip, tmp_path / f"{seed}.ts", seed)
        with opened(path) as source:
            pictures = list(source)
            left = packets(path) - source.corrupt_packets
        assert 0.9 * left <= len(pictures) <= left
        assert not any(picture.damaged for picture in pictures[: GOP - 4])
        for picture in pictures:
            seen = np.abs(grey(picture) - whole[picture.pts]).mean() > SEEN
            wrecked += seen
            marked += seen and picture.damaged
            sound += not seen and not picture.damaged
    # HEVC's decoder marks what is made of missing pictures, and little of what it patches up in one.
    assert wrecked > 20 and marked >= (0.5 if clip.stem == "libx265" else 0.95) * wrecked
    assert sound > 100


def test_a_camera_that_loses_packets(tmp_path: Path) -> None:
    """Whole pictures are missing, or parts of them, over RTSP; marked is all that is made of them."""
    clip = make_clip(tmp_path / "c.mp4", images=(scene(n) for n in range(FRAMES)), size=(192, 144), gop=10)
    with chaos.serve(clip, ["drop@0.5:rate=0.05"], seed=1) as kit, camera(kit.rtsp) as source:
        pictures = list(islice(source, 75))
    assert kit.injected["drop"] > 0
    assert 10 < sum(picture.damaged for picture in pictures) < 70
