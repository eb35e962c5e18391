"""A decoded frame's planes in a slot, and the same frame made of them in another process.

Whether the other one converts to the same picture, bit for bit, is not left to belief: swscale heeds what
PyAV does not let us set on a frame (field order, where chroma lies). So for each kind of frame that occurs
the child holds its own conversion against that of the frame made anew, on noise; a kind that fails, or that
cannot be made anew, is sent as the finished picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import av.error
import numpy as np
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipeline.frame import Decoded, Image
from pipeline.memory import give_back
from pipeline.sources.base import Picture
from pipeline.sources.orient import Orientation

Memory = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Layout:
    """How one picture lies in its slot: plane after plane, lines padded as the decoder left them.

    ``format`` is FFmpeg's name of the pixel format, or "" for a finished picture, uint8 [height, width, 3]
    BGR; ``planes`` are (bytes of a line, lines) each; ``turned`` is the Orientation to apply after
    conversion; ``colorspace`` and ``color_range`` are FFmpeg's numbers.
    """

    format: str
    width: int
    height: int
    planes: tuple[tuple[int, int], ...]
    colorspace: int = 0
    color_range: int = 0
    turned: tuple[bool, bool, bool] = (False, False, False)

    @property
    def nbytes(self) -> int:
        """Of all planes."""
        return sum(line * lines for line, lines in self.planes)

    def told(self) -> list[Any]:
        """For JSON."""
        return [
            self.format, self.width, self.height, self.planes, self.colorspace, self.color_range, self.turned,
        ]  # fmt: skip

    @classmethod
    def of(cls, told: list[Any]) -> Layout:
        """From JSON. Raises ValueError for what no Layout is."""
        name, width, height, planes, colorspace, color_range, turned = told
        sizes = tuple((int(line), int(lines)) for line, lines in planes)
        transpose, flip_x, flip_y = (bool(each) for each in turned)
        layout = cls(
            str(name), int(width), int(height), sizes, int(colorspace), int(color_range),
            (transpose, flip_x, flip_y),
        )  # fmt: skip
        finished = layout.format or sizes == ((3 * layout.width, layout.height),)
        if min(layout.width, layout.height, *(side for size in sizes for side in size)) < 1 or not finished:
            raise ValueError(f"expected a picture's layout, got {told}")
        return layout


def of_image(image: Image) -> Layout:
    """The layout of a finished picture."""
    height, width = image.shape[:2]
    return Layout("", width, height, ((3 * width, height),))


def of_frame(frame: VideoFrame, orientation: Orientation) -> Layout | None:
    """The layout of a frame's planes; None for one stored bottom up."""
    planes = tuple((plane.line_size, plane.height) for plane in frame.planes)
    if any(
        line * lines != plane.buffer_size for (line, lines), plane in zip(planes, frame.planes, strict=True)
    ):
        return None
    return Layout(
        frame.format.name, frame.width, frame.height, planes, int(frame.colorspace), int(frame.color_range),
        tuple(orientation),  # type: ignore[arg-type]
    )  # fmt: skip


def write(frame: VideoFrame, memory: Memory) -> None:
    """Copy a frame's planes into ``memory``, uint8 [layout.nbytes]."""
    at = 0
    for plane in frame.planes:
        memory[at : at + plane.buffer_size] = _bytes(plane)
        at += plane.buffer_size


def made_of(memory: Memory, layout: Layout) -> VideoFrame:
    """The frame that ``memory``, uint8 [layout.nbytes], holds: in place where PyAV can, else a copy.

    Raises ValueError or FFmpegError for a pixel format of which no frame can be made.
    """
    if _in_place(layout):
        lines = memory.reshape(-1, layout.planes[0][0])
        frame = VideoFrame.from_numpy_buffer(lines, layout.format, layout.width)
    else:
        frame = VideoFrame(layout.width, layout.height, layout.format)
        _copy(_lines(memory, layout), [_bytes(plane).reshape(-1, plane.line_size) for plane in frame.planes])
    frame.colorspace, frame.color_range = layout.colorspace, layout.color_range
    return frame


def _bytes(plane: VideoPlane) -> Memory:
    """A plane's memory, uint8 [lines × bytes of a line]."""
    return np.frombuffer(plane, np.uint8)  # type: ignore[call-overload,no-any-return]


def _lines(memory: Memory, layout: Layout) -> list[Memory]:
    """The planes in ``memory``, uint8 [lines, bytes of a line] each."""
    ends = np.cumsum([line * lines for line, lines in layout.planes])[:-1]
    return [
        plane.reshape(lines, line)
        for plane, (line, lines) in zip(np.split(memory, ends), layout.planes, strict=True)
    ]


def _copy(planes: list[Memory], targets: list[Memory]) -> None:
    """Copy planes whose lines may be padded otherwise."""
    for plane, target in zip(planes, targets, strict=True):
        both = min(plane.shape[1], target.shape[1])
        target[:, :both] = plane[:, :both]


def _in_place(layout: Layout) -> bool:
    """Whether PyAV takes this memory as it is; it derives height and chroma planes by itself."""
    (line, lines), *chroma = layout.planes
    if lines != layout.height or layout.height % 4 or layout.width % 2 or line % 2:
        return False
    if layout.format in ("yuv420p", "yuvj420p"):
        return chroma == [(line // 2, lines // 2)] * 2
    return layout.format == "nv12" and chroma == [(line, lines // 2)]


def _noise() -> Memory:
    """Bytes that look random (Knuth's multiplicative hash): numpy.random would take 3 MB."""
    return (np.arange(65521, dtype=np.uint32) * np.uint32(2654435761) >> np.uint32(16)).astype(np.uint8)


class Proof:
    """Which kinds of frames come out the same when they are made anew; each is tried once."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._kinds: dict[tuple[Layout, bool], bool] = {}

    def content(self, picture: Picture) -> tuple[VideoFrame | Memory, Layout]:
        """What goes into the slot: the decoder's planes where they come out the same, else the picture."""
        pixels = picture.pixels
        if isinstance(pixels, Decoded) and isinstance(pixels.raw, tuple):
            frame, orientation = pixels.raw
            assert isinstance(frame, VideoFrame) and isinstance(orientation, Orientation)
            layout = of_frame(frame, orientation)
            if layout is not None:
                kind = layout, frame.interlaced_frame
                if kind not in self._kinds:
                    return self._first(pixels, frame, layout)
                if self._kinds[kind]:
                    return frame, layout
        image = np.ascontiguousarray(picture.image)
        return image, of_image(image)

    def _first(self, pixels: Decoded, frame: VideoFrame, layout: Layout) -> tuple[Memory, Layout]:
        """Of the first frame of its kind, which holds another picture afterwards."""
        kind = layout, frame.interlaced_frame
        finished, stored = pixels.bgr(keep=False), np.empty(layout.nbytes, np.uint8)
        write(frame, stored)
        try:
            self._kinds[kind] = self._try(frame, layout)
        except (ValueError, av.error.FFmpegError):
            self._kinds[kind] = False  # such as a format of which PyAV makes no frame
        give_back()  # what the trial took is not needed again
        return (stored, layout) if self._kinds[kind] else (finished, of_image(finished))

    def _try(self, frame: VideoFrame, layout: Layout) -> bool:
        # Its memory is its own from here on, and its lines may be padded otherwise. What PyAV knows of its
        # side data is void then: so the orientation, which is none of swscale's business, is left out.
        frame.make_writable()
        own = of_frame(frame, Orientation(*layout.turned))
        if own is None:
            return False
        # Deeper formats are tried as they are: what exceeds their range may make swscale read elsewhere.
        if all(component.bits == 8 for component in frame.format.components):
            for plane in frame.planes:
                _bytes(plane)[:] = np.resize(_noise(), plane.buffer_size)
        filled, sent = np.empty(own.nbytes, np.uint8), np.zeros(layout.nbytes, np.uint8)
        write(frame, filled)
        _copy(_lines(filled, own), _lines(sent, layout))
        return np.array_equal(self._converted(frame), self._converted(made_of(sent, layout)))

    def _converted(self, frame: VideoFrame) -> Image:
        return np.asarray(self._reformatter.reformat(frame, format="bgr24", threads=1).to_ndarray(), np.uint8)
