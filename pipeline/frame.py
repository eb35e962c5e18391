"""What walks down the line: a frame, and what each stage adds to it.

``Frame`` → ``Prepared`` → ``Raw`` → ``Result``. Values are frozen; arrays inside them belong
to the item that carries them and are not written to after the hand-over, except that a
``Prepared.blob`` goes back to its pool once inference has read it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipeline.classification import Classification
    from pipeline.detections import Detections

Image = NDArray[np.uint8]


GRID = (16, 24)
"""Rows and columns of points at which a picture is looked at."""


@lru_cache(maxsize=64)
def _points(height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The middles of the grid's cells: [rows, 1] and [columns]."""
    rows, columns = (
        (2 * np.arange(n) + 1) * side // (2 * n) for n, side in zip(GRID, (height, width), strict=True)
    )
    return rows[:, None], columns


def at_grid(plane: NDArray[Any]) -> NDArray[Any]:
    """``plane`` [height, width, …] at the grid's points: [16, 24, …]."""
    rows, columns = _points(*plane.shape[:2])
    return plane[rows, columns]


def luma_grid(pixels: Image | Decoded) -> NDArray[np.uint8]:
    """How bright a picture is at the grid's points: uint8 [16, 24], 0 black to 255 white.

    Of a picture in BGR its green. Raises what converting it does, where its luma cannot be had without.
    """
    return pixels.luma_grid() if isinstance(pixels, Decoded) else at_grid(pixels)[..., 1]


class Decoded:
    """A picture as the video decoder left it, which is half of what it takes as BGR.

    ``shape`` is (height, width, 3) of the picture upright, ``nbytes`` what it takes as it was decoded. A
    copy of it, as one that goes to another process, is the picture.
    """

    __slots__ = ("_content", "_lock", "_luma", "_reduce", "nbytes", "raw", "shape")

    def __init__(
        self,
        shape: tuple[int, int, int],
        nbytes: int,
        convert: Callable[[], Image],
        reduce: Callable[[int, int], Image | None] | None = None,
        raw: object = None,
        luma: Callable[[], NDArray[np.uint8]] | None = None,
    ) -> None:
        """``convert`` makes the picture, uint8 of ``shape``, BGR; ``reduce`` what :meth:`reduced` gives,
        ``luma`` its :func:`luma_grid`, where that can be had for less. They may be called from any thread.
        ``raw`` is what they make it from, for who hands that on; None once it is let go."""
        self.shape, self.nbytes, self.raw = shape, nbytes, raw
        self._reduce, self._luma = reduce, luma
        self._lock = threading.Lock()
        self._content: Image | Callable[[], Image] = convert

    def bgr(self, *, keep: bool = True) -> Image:
        """The picture, uint8 [height, width, 3], BGR; where ``keep``, it is made once, for all who ask.

        It then stands in the place of what it was made from, which is let go. Raises what ``convert`` does.
        """
        with self._lock:
            content = self._content
            if isinstance(content, np.ndarray):
                return content
            if keep:
                self._content = image = content()
                self.raw = self._reduce = self._luma = None
                return image
        return content()

    def reduced(self, height: int, width: int) -> Image | None:
        """What a bilinear resize makes of the picture, uint8 [height, width, 3], BGR, without making that.

        It may be a view.
        None where there is no such way, or the picture is there already.
        """
        reduce = self._reduce
        return None if reduce is None else reduce(height, width)

    def luma_grid(self) -> NDArray[np.uint8]:
        """See :func:`luma_grid`."""
        luma = self._luma
        return luma() if luma is not None else luma_grid(self.bgr(keep=False))

    def __reduce__(self) -> tuple[Callable[[Image], Image], tuple[Image]]:
        return np.asarray, (self.bgr(keep=False),)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded picture and its timing.

    ``pixels`` is the picture, uint8 [height, width, 3], BGR, or what it is made of when somebody asks for
    ``image``. ``seq`` counts the captured frames of the stream from 0. ``pts`` is in units of
    ``time_base`` seconds, None where the source has no clock. ``captured_at`` is monotonic seconds,
    ``wall_time`` Unix seconds (for people only). ``timings`` maps a stage's name to the seconds it took
    over this frame; the line's observer writes it, stages don't. ``source`` is the name of the file that
    this picture alone is in, within the folder or glob that was given; None where there is none, as in a
    video. ``damaged``: lost or damaged data has spoilt it (unless the stream says ``damaged: keep``).
    """

    stream: str
    seq: int
    pixels: Image | Decoded
    pts: int | None
    time_base: Fraction | None
    captured_at: float
    wall_time: float
    timings: dict[str, float] = field(default_factory=dict)
    source: str | None = None
    damaged: bool = False

    @property
    def frame(self) -> Frame:
        """Itself, so that whatever is on the line has a ``.frame``."""
        return self

    @property
    def image(self) -> Image:
        """The picture, uint8 [height, width, 3], BGR; that of a video is made when first asked for."""
        return self.pixels.bgr() if isinstance(self.pixels, Decoded) else self.pixels

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.pixels.shape[1])

    @property
    def pts_seconds(self) -> float | None:
        """Presentation time in seconds of the source's own clock, None where it has none."""
        if self.pts is None or self.time_base is None:
            return None
        return float(self.pts * self.time_base)

    def __repr__(self) -> str:
        return f"Frame({self.stream!r}, {self.seq}, {self.width}x{self.height})"


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A frame and its blob: [1, 3, H, W] (NCHW), in the dtype that the model takes."""

    frame: Frame
    blob: NDArray[Any]
    letterbox: Any
    serving: Any = None
    """What of :mod:`pipeline.serving` it was prepared for."""

    def __repr__(self) -> str:
        return f"Prepared({self.frame!r}, blob {self.blob.shape} {self.blob.dtype})"


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """A frame and the model's raw outputs for it, each with a leading batch axis of 1."""

    frame: Frame
    letterbox: Any
    outputs: Sequence[NDArray[Any]]
    serving: Any = None

    def __repr__(self) -> str:
        return f"Raw({self.frame!r}, outputs {[o.shape for o in self.outputs]})"


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A frame and what was detected in it, or what it was taken for as a whole."""

    frame: Frame
    detections: Detections
    classification: Classification | None = None

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self.frame.stream

    def __repr__(self) -> str:
        return f"Result({self.frame!r}, {len(self.detections)} detections)"
