"""Clips as coded pictures, one after the other, with the faults of what they show and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from pipeline.chaos.faults import Fault
from pipeline.chaos.script import Victim
from pipeline.errors import ConfigError

TICKS = 90_000
"""A second, in the clock of RTP video and MPEG-TS."""
_FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb", "mjpeg": "null"}
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


@dataclass(frozen=True, slots=True)
class Shot:
    """One coded picture to be sent; times in ticks of 1/90000 s."""

    data: bytes
    """Annex B with parameter sets before each key frame, or a JPEG."""
    pts: int
    dts: int
    lasts: float
    """Seconds until the next one is to be sent."""
    key: bool
    clip: Clip


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
    if clip.codec not in _FILTERS:
        raise ConfigError(
            f"clip {path}: expected one of {', '.join(_FILTERS)}, it is {clip.codec}; "
            "ffmpeg -i CLIP -c:v libx264 -bf 0 OUT.mp4 makes one of it"
        )
    if first is None or not first.size:
        raise ConfigError(f"clip {path}: expected pictures, it holds none; choose another")
    return clip


class Reel:
    """The pictures for one connection: from a clip's start, over and over or to its end."""

    def __init__(self, clips: Sequence[Clip], victim: Victim, loop: bool) -> None:
        self._clips, self._victim, self._loop = clips, victim, loop
        faults = victim.script.faults
        self._index = sum(fault.kind == "switch" and victim.missed(fault) for fault in faults)
        self._black: dict[Clip, bytes] = {}
        self._key = b""
        self._cover: tuple[bytes, Fault] | None = None

    @property
    def clip(self) -> Clip:
        """The one that is played now."""
        return self._clips[self._index % len(self._clips)]

    def shots(self) -> Iterator[Shot]:
        """Pictures, each with the faults of the moment at which it is asked for: when its turn has come."""
        victim = self._victim
        dts = shift = pts = key_late = 0
        coded = self._coded()
        empty = False
        while True:
            if victim.once_hit("switch"):
                self._index += 1
                coded = self._coded()
            if victim.once_hit("rewind"):
                coded, dts, shift = self._coded(), 0, 0
            if fault := victim.once_hit("jump"):
                shift += round(fault["by"] * TICKS)
            one = next(coded, None)
            if one is None:
                if not self._loop or empty:
                    return
                coded, empty = self._coded(), True
                continue
            empty = False
            data, late, step, is_key = one
            if is_key:
                self._key, key_late = data, late
            if fault := victim.lasting("rate"):
                victim.hit(fault)
                slow = round(TICKS / fault["fps"])
                late, step = late * slow // step, slow
            cover = self._covered(is_key)
            if cover is not None:
                # A key frame waits for no other: between reordered ones it has the place of the first.
                data, late, is_key = cover, key_late, True
            if fault := victim.lasting("repeat"):
                victim.hit(fault)
            else:
                pts = dts + late + shift
            yield Shot(data, pts, min(dts + shift, pts), step / TICKS, is_key, self.clip)
            dts += step

    def _covered(self, is_key: bool) -> bytes | None:
        """What is shown in the place of the clip's picture, if anything is."""
        if fault := self._victim.lasting("black"):
            self._cover = self._black_picture(), fault
        elif fault := self._victim.lasting("freeze"):
            self._cover = self._cover or (self._key, fault)
        elif is_key:
            # Until then it goes on: a picture that refers to others which were not sent would be damage.
            self._cover = None
        if self._cover is None:
            return None
        data, fault = self._cover
        self._victim.hit(fault)
        return data

    def _coded(self) -> Iterator[tuple[bytes, int, int, bool]]:
        """Of each picture: its data, PTS - DTS, the ticks to the next one, whether it is a key frame."""
        with av.open(self.clip.path) as container:
            video = container.streams.video[0]
            period = round(TICKS / self.clip.fps)
            bitstream = BitStreamFilterContext(_FILTERS[self.clip.codec], video)
            for packet in container.demux(video):
                for part in bitstream.filter(packet if packet.size else None):
                    base = part.time_base or video.time_base
                    assert base is not None
                    late = 0
                    if part.pts is not None and part.dts is not None:
                        late = max(0, round((part.pts - part.dts) * base * TICKS))
                    yield bytes(part), late, period, part.is_keyframe

    def _black_picture(self) -> bytes:
        if self.clip not in self._black:
            self._black[self.clip] = encode_black(self.clip)
        return self._black[self.clip]


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
