"""What a clip is, and pictures encoded in its codec."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from pipeline.errors import ConfigError

TICKS = 90_000
"""A second, in the clock of RTP video and MPEG-TS."""
FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb", "mjpeg": "null"}
"""What makes of a codec's packets Annex B, or a JPEG."""
_START = re.compile(rb"\x00\x00\x01")
_ENCODERS = {"h264": "libx264", "hevc": "libx265", "mjpeg": "mjpeg"}
_OPTIONS = {
    "h264": {"preset": "ultrafast", "tune": "zerolatency"},
    "hevc": {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "log-level=none"},
    # What RTP can carry (RFC 2435): the standard's Huffman tables, two tables for quantisation.
    "mjpeg": {"huffman": "default", "force_duplicated_matrix": "1"},
}


@dataclass(frozen=True, slots=True)
class Clip:
    """A video file that can be played: what a server declares of it."""

    path: str
    codec: str
    """h264, hevc or mjpeg."""
    width: int
    height: int
    fps: Fraction
    """Declared pictures per second."""


def look_at(path: str | Path) -> Clip:
    """Find out what a clip is. Raises ConfigError where it cannot be played."""
    try:
        with av.open(str(path)) as container:
            streams = container.streams.video
            if not streams:
                raise ConfigError(f"clip {path}: expected video, it has none; choose another")
            video = streams[0]
            codec = video.codec_context.name
            rate = video.average_rate or video.base_rate or Fraction(25)
            clip = Clip(str(path), codec, video.width, video.height, rate)
            first = next(container.demux(video), None)
    except av.error.FFmpegError as error:
        raise ConfigError(f"clip {path} cannot be read: {error.strerror}") from None
    if clip.codec not in FILTERS:
        raise ConfigError(
            f"clip {path}: expected one of {', '.join(FILTERS)}, it is {clip.codec}; "
            "ffmpeg -i CLIP -c:v libx264 -bf 0 OUT.mp4 makes one of it"
        )
    if first is None or not first.size:
        raise ConfigError(f"clip {path}: expected pictures, it holds none; choose another")
    return clip


def encode_black(clip: Clip) -> bytes:
    """A black key frame of the clip's codec and size. Raises ConfigError where FFmpeg cannot encode that."""
    encoder = encoder_for(clip, clip.codec)
    frame = VideoFrame.from_ndarray(np.zeros((clip.height, clip.width, 3), np.uint8), "bgr24")
    frame.pts = 0
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def encoder_for(clip: Clip, codec: str) -> VideoCodecContext:
    """An encoder of pictures of a clip's size and rate. Raises ConfigError where FFmpeg has none."""
    try:
        encoder = av.CodecContext.create(_ENCODERS[codec], "w")
    except av.error.FFmpegError:
        raise ConfigError(
            f"black pictures in {codec} need the encoder {_ENCODERS[codec]}, this FFmpeg has none; "
            "use an MJPEG clip"
        ) from None
    assert isinstance(encoder, VideoCodecContext)
    encoder.width, encoder.height = clip.width, clip.height
    encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    encoder.framerate, encoder.time_base = clip.fps, 1 / clip.fps
    # Slices in threads would put restart markers into JPEGs, which FFmpeg leaves out of what it says in RTP.
    encoder.thread_count = 1
    encoder.options = _OPTIONS[codec]
    return encoder


def restarts(codec: str, data: bytes) -> bool:
    """Whether decoding can begin anew with a picture, at any place: an IDR picture, or a JPEG."""
    if codec == "mjpeg":
        return True
    heads = (data[match.end()] for match in _START.finditer(data[:-1]))
    if codec == "h264":
        return any(head & 0x1F == 5 for head in heads)
    return any(head >> 1 & 0x3F in (19, 20) for head in heads)
