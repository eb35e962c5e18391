"""Makers of small real clips whose pictures carry their numbers (see ``pipeline.sources.synthetic``)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from pipeline.sources.synthetic import encode_number

FAST = {
    "libx264": {"preset": "ultrafast", "tune": "zerolatency"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
}
# SVT-AV1 writes its settings to standard error unless told not to.
os.environ.setdefault("SVT_LOG", "0")


def need_encoder(codec: str) -> str:
    """Skip the test, with the reason, where this build of FFmpeg cannot encode ``codec``."""
    try:
        av.codec.Codec(codec, "w")
    except av.error.FFmpegError:
        pytest.skip(f"this build of PyAV has no encoder {codec}")
    return codec


def make_clip(
    path: Path,
    *,
    frames: int = 25,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    fps: int | Fraction = 25,
    gop: int = 10,
    pts: Sequence[int] | None = None,
    rotation: int | None = None,
    hflip: bool = False,
    pix_fmt: str | None = None,
    images: Iterable[np.ndarray] | None = None,
    audio: bool = False,
    audio_first: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    format: str | None = None,  # noqa: A002
) -> Path:
    """Write a clip of ``frames`` numbered pictures (or of ``images``, BGR) of ``size`` (width, height).

    ``pts`` gives each frame's time in units of 1/``fps``; ``rotation`` is the display
    rotation in degrees counter-clockwise; ``audio`` adds a silent track as long as the video,
    as stream 0 with ``audio_first``.
    """
    width, height = size
    pictures = images if images is not None else (encode_number(n, height, width) for n in range(frames))
    with av.open(str(path), "w", format=format, options=container_options or {}) as out:
        sound = out.add_stream("aac", rate=48_000, layout="mono") if audio_first else None
        stream = out.add_stream(codec, rate=fps, options=FAST.get(codec, {}) | (options or {}))
        stream.width, stream.height = width, height
        stream.pix_fmt = pix_fmt or ("yuvj420p" if codec == "mjpeg" else "yuv420p")
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = 1 / Fraction(fps)
        if rotation is not None or hflip:
            stream.set_display_rotation(rotation or 0, hflip=hflip)
        if audio and sound is None:
            sound = out.add_stream("aac", rate=48_000, layout="mono")
        count = 0
        for n, image in enumerate(pictures):
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), "bgr24")
            frame.pts = pts[n] if pts is not None else n
            frame.time_base = stream.codec_context.time_base
            out.mux(stream.encode(frame))
            count = n + 1
        out.mux(stream.encode())
        if sound is not None:
            _silence(out, sound, float(count / Fraction(fps)))
    return path


def make_sound(path: Path, seconds: float = 0.5, codec: str = "aac") -> Path:
    """Write a file with a sound track and no picture."""
    with av.open(str(path), "w") as out:
        _silence(out, out.add_stream(codec, rate=48_000, layout="mono"), seconds)
    return path


def _silence(out: av.container.OutputContainer, sound: av.AudioStream, seconds: float) -> None:
    for n in range(int(seconds * 48_000 / 1024)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, n * 1024, Fraction(1, 48_000)
        out.mux(sound.encode(frame))
    out.mux(sound.encode())
