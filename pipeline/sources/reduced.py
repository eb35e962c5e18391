"""A picture at a third of its size, of which only the pixels that are in it are converted.

At a third a bilinear resize takes one pixel of nine, the middle one, as it is: of 1920x1080 to 640x360 it
reads a ninth of what was converted. Taking those out of the decoded planes first gives the same picture, bit
for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from pipeline.frame import Image

# swscale reads these and their halves by the same code: a chroma sample for each two pixels of a line.
_HALVED = {"yuv420p": "yuv422p", "yuvj420p": "yuvj422p"}

Plane = NDArray[np.uint8]
Convert = Callable[[VideoFrame], Image]


class Reducer:
    """Keeps the memory that it gathers pixels in: for one thread at a time."""

    def __init__(self) -> None:
        self._gathered: VideoFrame | None = None
        self._planes: list[Plane] = []

    def __call__(self, frame: VideoFrame, height: int, width: int, convert: Convert) -> Image | None:
        """What ``cv2.resize`` (linear) makes of the converted frame, uint8 [height, width, 3], BGR; a view.

        None where that is no third, or the frame no planar 4:2:0 with even sides. ``convert`` makes a BGR
        picture of any frame.
        """
        kind = _HALVED.get(frame.format.name)
        # Of an odd height swscale converts in another way, with other rounding.
        third = (frame.height, frame.width) == (3 * height, 3 * width) and height % 2 == width % 2 == 0
        whole = _planes(frame) if kind is not None and third else None
        if kind is None or whole is None:
            return None
        gathered = self._memory(kind, height, width)
        gathered.colorspace, gathered.color_range = frame.colorspace, frame.color_range
        luma, *chroma = whole
        to_luma, *to_chroma = self._planes
        # Of each two pixels of a line the first is wanted, so that the chroma sample of the two is its own.
        to_luma[:, ::2] = luma[1::3, 1::3]
        for source, target in zip(chroma, to_chroma, strict=True):
            for row in (0, 1):  # pixels 1, 4, 7, 10 … have the samples 0, 2, 3, 5 …
                for column in (0, 1):
                    target[row::2, column::2] = source[2 * row :: 3, 2 * column :: 3]
        return convert(gathered)[:, ::2]

    def _memory(self, kind: str, height: int, width: int) -> VideoFrame:
        known = self._gathered
        if known is None or (known.format.name, known.height, known.width) != (kind, height, 2 * width):
            self._gathered = known = VideoFrame(2 * width, height, kind)
            planes = _planes(known)
            assert planes is not None  # our own frame's lines follow each other
            self._planes = planes
            planes[0].fill(0)
        return known


def _planes(frame: VideoFrame) -> list[Plane] | None:
    """The three planes' samples; None where lines do not lie one after the other."""
    planes = []
    for plane, component in zip(frame.planes, frame.format.components, strict=True):
        stride, height, width = plane.line_size, component.height, component.width
        samples = np.frombuffer(memoryview(plane), np.uint8)
        if stride < width or samples.size < stride * height:
            return None
        planes.append(samples[: stride * height].reshape(height, stride)[:, :width])
    return planes
