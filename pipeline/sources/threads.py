"""How many threads decode a video."""

from __future__ import annotations

from av.video.codeccontext import VideoCodecContext

_LIGHT = 1920 * 1088
"""Pixels of the largest picture whose decoding takes less than the rest of the line: as coded, 1080p."""


def threads_of_file(context: VideoCodecContext, cores: int) -> int:
    """Of a file that one decoder reads by itself; 0: as many as FFmpeg chooses, which is one more than cores.

    A picture costs more CPU with frame threads beside inference than with one: on two cores the default model
    has 2.7 % fewer frames/s with FFmpeg's three. Half of the cores are enough unless decoding takes more than
    all the rest of the line, which H.264 up to 1080p does not where the CPU runs the model (decode 2.6 ms,
    preprocess and a model more).
    """
    light = context.name == "h264" and 0 < context.width * context.height <= _LIGHT
    return -(-cores // 2) if light else 0
