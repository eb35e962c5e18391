"""BGR pictures to a video file's bytes: the containers, the codecs and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType

import av
import cv2
import numpy as np
from av.video.frame import PictureType
from av.video.stream import VideoStream

from pipeline.frame import Image
from pipeline.sinks.part import PartFile

# ITU-T H.273 numbers of what cv2.COLOR_BGR2YUV_I420 makes: BT.601 matrix, studio range.
# Untagged, players take a picture of HD size for BT.709 and shift its colours.
_BT709_PRIMARIES, _BT709_TRANSFER, _BT601_MATRIX, _STUDIO_RANGE = 1, 1, 6, 1

# 1280x720 street clip, one thread, colour conversion and muxing included (2-core x86-64,
# ms of CPU and kB a frame at CRF 23): ultrafast 3.9 and 19.5, superfast 6.3 and 11.4,
# veryfast 8.2 and 5.9. Inference wants the cores (a frame costs the whole line about 45 ms),
# and ultrafast leaves out the deblocking that keeps labels legible: superfast. A second encoder
# thread won nothing (6.4 and 6.5 ms of wall time), so the encoder has one and stays in its stage.
_X264 = {"preset": "superfast", "crf": "23", "g": "120"}
# 6.7 ms and 9 kB a frame on the same clip.
_VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "33", "b": "0", "lag-in-frames": "0", "g": "120"}

# 2.7 ms and 12 kB a frame on the same clip.
_MPEG4 = {"qmin": "4", "qmax": "4", "g": "120"}


@dataclass(frozen=True)
class Container:
    """A kind of video file: FFmpeg's names for it, and the codec that its players expect."""

    format: str
    codec: str
    codec_options: Mapping[str, str]
    muxer_options: Mapping[str, str] = field(default_factory=dict)
    tick: Fraction | None = None
    """Seconds to which the file keeps times; None: one frame of its fixed rate."""
    fragments: Fraction | None = None
    """Seconds of a fragment, where the file consists of them until it is finished, and its index is last."""


_FRAGMENT = Fraction(2)
_MP4_TICK, _MATROSKA_TICK = Fraction(1, 90_000), Fraction(1, 1000)
# Fragments while it grows, one file with one index once it is finished: what is written when the process is
# killed can be played up to the last fragment, and finishing writes the index and one number before it,
# however large the file is (FFmpeg's faststart reads and writes all of it, with no playable file meanwhile:
# of a day's recording for longer than a service manager waits). 0.2 % more bytes on the same clip, no more
# CPU. A fragment begins with a keyframe: with others FFmpeg (8.0) ends the edit list early, and players leave
# out the last frames. delay_moov: the first fragment's times are known when the head is written, else the
# file would begin two frames late. The edit list counts in the frames' own ticks: in FFmpeg's milliseconds it
# ends early, too.
_MP4 = {
    "movflags": "+hybrid_fragmented+frag_keyframe+delay_moov",
    "flush_packets": "1",
    "movie_timescale": str(_MP4_TICK.denominator),
}
# A killed process loses the cluster at work, five seconds if nobody asks for less.
_CLUSTERS = {"cluster_time_limit": "1000"}

CONTAINERS: Mapping[str, Container] = MappingProxyType(
    {
        ".mp4": Container("mp4", "libx264", _X264, _MP4, _MP4_TICK, _FRAGMENT),
        ".mov": Container("mov", "libx264", _X264, _MP4, _MP4_TICK, _FRAGMENT),
        ".mkv": Container("matroska", "libx264", _X264, _CLUSTERS, _MATROSKA_TICK),
        ".webm": Container("webm", "libvpx-vp9", _VP9, _CLUSTERS, _MATROSKA_TICK),
        # AVI has no timestamps, only a rate to which times are rounded, and H.264 in it gets
        # them wrong by a frame.
        ".avi": Container("avi", "mpeg4", _MPEG4),
    }
)
"""Kinds of video file by the extension of their name."""

DEFAULT_FPS = Fraction(30)


class Encoder:
    """Encodes pictures of one size into a PartFile.

    ``size`` is (width, height) in pixels, both even. Raises av.FFmpegError (which may be an
    OSError) from every call, and nothing for a full disk: look at the file's ``error``.
    """

    def __init__(
        self, file: PartFile, container: Container, size: tuple[int, int], fps: Fraction | None
    ) -> None:
        rate = fps or DEFAULT_FPS
        self.tick = container.tick or 1 / rate
        self._output = av.open(file, "w", format=container.format, options=dict(container.muxer_options))
        stream = self._output.add_stream(
            container.codec, rate=rate, time_base=self.tick, options=dict(container.codec_options)
        )
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.color_primaries, context.color_trc = _BT709_PRIMARIES, _BT709_TRANSFER
        context.colorspace, context.color_range = _BT601_MATRIX, _STUDIO_RANGE
        self._stream = stream
        self._latest, self._step = 0, max(1, round(1 / (rate * self.tick)))
        self._fragment = None if container.fragments is None else round(container.fragments / self.tick)
        self._next_fragment = 0

    def encode(self, image: Image, tick: int) -> None:
        """Encode ``image`` (uint8 [height, width, 3], BGR, of the size given) to be shown at ``tick``."""
        # Not from_numpy_buffer: it takes a height of 190 for 188 and rescales (PyAV 18.1).
        yuv = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), dtype=np.uint8)
        picture = av.VideoFrame.from_ndarray(yuv, "yuv420p")
        picture.pts, picture.time_base = tick, self.tick
        if self._fragment is not None and tick >= self._next_fragment:
            picture.pict_type = PictureType.I
            self._next_fragment = tick + self._fragment
        self._step, self._latest = tick - self._latest if tick else self._step, tick
        self._output.mux(self._stream.encode(picture))

    def finish(self) -> None:
        """Write the frames that the encoder still holds, and the file's index."""
        packets = self._stream.encode()
        for packet in packets:
            # The last frame is shown for as long as the one before it; without this, not at all.
            packet.duration = self._step
        self._output.mux(packets)
        self._output.close()
