"""Annotated video files.

A video grows as ``NAME.part`` and is renamed when it is whole, so a file under its final
name can always be played. It becomes whole when the sink is closed: at the end, at the first
Ctrl-C, and after a fault elsewhere in the line. When it cannot become whole (the disk is
full, the sink is aborted, the process is killed) what was written stays in the part file, which
can be played as it is: an MP4 or MOV up to its last fragment, of two seconds of video. The next run
that writes this video keeps that file as ``NAME.part.old``, the latest one of them.

A finished MP4 is no longer in fragments: it has one index, in front where the file is not large
(see :mod:`pipeline.sinks.index`), so that every player and browser seeks in it.
"""

from __future__ import annotations

import logging
import os
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from pipeline.classification import short
from pipeline.errors import SinkOpenError, SinkWriteError
from pipeline.frame import Image, Result
from pipeline.sinks.base import Sink
from pipeline.sinks.encoder import CONTAINERS, Container, Encoder
from pipeline.sinks.files import reason
from pipeline.sinks.index import cut_to_fragments, index_to_front
from pipeline.sinks.part import PartFile
from pipeline.sinks.timeline import Timeline
from pipeline.vision.draw import draw

_log = logging.getLogger(__name__)


class VideoFile(Sink):
    """Writes the frames of one stream, with what was detected drawn on them, to a video file.

    The extension decides: .mp4, .mov and .mkv hold H.264, .webm VP9 and .avi MPEG-4 Visual,
    all yuv420p. Frames keep their real times (see Timeline). A side of odd length is made even
    by repeating its last row or column; when the stream changes its size, later frames are
    letterboxed to the first one's. ``fps`` is the nominal rate: the fixed rate of an .avi, and
    how far frames without PTS are apart.

    Raises SinkOpenError for an extension that is none of these and for a file that cannot be
    made. An existing file is replaced when the new one is whole.
    """

    kind = "video"
    own_thread = True

    def __init__(self, path: str | os.PathLike[str], fps: float | Fraction | None = None) -> None:
        self.name = os.fspath(path)
        """As it was asked for."""
        self._container = container_of(self.name)
        self._fps = None if not fps else Fraction(fps).limit_denominator(1001)
        # A link's target is what gets replaced, not the link.
        self._part = PartFile(Path(os.path.realpath(self.name)), self.name)
        self._encoder: Encoder | None = None
        self._size = (0, 0)
        self._frames = 0

    def write(self, result: Result, dropped_before: int) -> None:
        """Draw, encode and write one frame. Raises SinkWriteError, after which nothing can be written."""
        if self._part.closed:
            raise SinkWriteError(f"video {self.name} is closed already")
        image = result.frame.image.copy()
        draw(image, result.detections, caption=caption_of(result))
        try:
            if self._encoder is None:
                height, width = image.shape[:2]
                self._size = (width + width % 2, height + height % 2)
                self._encoder = Encoder(self._part, self._container, self._size, self._fps)
                self._timeline = Timeline(self._encoder.tick, self._fps)
            self._encoder.encode(_fit(image, self._size), self._timeline.place(result.frame))
            self._part.check()
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error
        self._frames += 1

    def close(self) -> None:
        """Finish the file and give it its name; without a frame there is no file.

        Raises SinkWriteError when it cannot be finished.
        """
        if self._part.closed:
            return
        if self._encoder is None:
            self._part.remove()
            _log.warning("no frame arrived for video %s, so it was not written", self.name)
            return
        try:
            self._encoder.finish()
            self._part.check()
            self._part.commit()
        except (av.FFmpegError, OSError) as error:
            raise self._failure(error) from error
        with closing(self._part):
            if self._container.fragments:
                self._move_index()

    def abort(self) -> None:
        """Stop at once, without finishing the file."""
        if not self._part.closed:
            left = self._leave()
            if self._frames:
                _log.warning("video %s was given up after %d frames%s", self.name, self._frames, left)

    def _move_index(self) -> None:
        try:
            moved = index_to_front(self._part.target, self._part.path)
        except OSError as error:
            _log.warning(
                "video %s is whole, but its index stays at its end: %s; some players load all of it first",
                self.name,
                reason(error),
            )
        else:
            _log.debug("video %s has its index %s", self.name, "in front" if moved else "at its end")

    def _failure(self, error: Exception) -> SinkWriteError:
        error = self._part.error or error  # what FFmpeg stumbled over later is no cause
        why = reason(error) if isinstance(error, OSError) else str(error)
        return SinkWriteError(
            f"cannot write video {self.name}: {why}; failed after {self._frames} frames{self._leave()}"
        )

    def _leave(self) -> str:
        """Close the part file, keep it if it can be played, and say which."""
        self._part.stop()
        self._encoder = None
        try:
            # To the end with the name locked: it might be another run's else that is cut, or removed.
            with closing(self._part):
                if self._container.fragments:
                    cut_to_fragments(self._part.path)
                if _playable(self._part.path):
                    return f"; what was written is in {self._part.path} and can be played"
                self._part.remove()
        except OSError as error:
            return f"; {self._part.path} could not be removed: {reason(error)}"
        return "; no file was kept, as it could not be played"


def caption_of(result: Result) -> str | None:
    """What the whole frame was taken for, where that was asked."""
    found = result.classification
    return None if found is None or not len(found) else f"{short(found.labels[0])} {found.confidence[0]:.2f}"


def container_of(name: str) -> Container:
    """Tell the kind of video by the extension. Raises SinkOpenError for one that cannot be written."""
    if "\0" in name:
        raise SinkOpenError(f"cannot write video {name!r}: no file's name holds a null character")
    extension = os.path.splitext(name)[1].lower()
    if extension not in CONTAINERS:
        raise SinkOpenError(
            f"cannot write video {name}: unknown extension {extension!r}; valid: {', '.join(CONTAINERS)}"
        )
    container = CONTAINERS[extension]
    try:
        av.Codec(container.codec, "w")
    except ValueError as error:
        raise SinkOpenError(
            f"cannot write video {name}: this build of PyAV has no encoder {container.codec}; "
            "install PyAV's own wheel (pip install --force-reinstall --only-binary av av)"
        ) from error
    return container


def _fit(image: Image, size: tuple[int, int]) -> Image:
    """Bring ``image`` to ``size`` (width, height): evened out by a repeated edge, or letterboxed."""
    height, width = image.shape[:2]
    bottom, right = size[1] - height, size[0] - width
    if (right, bottom) == (0, 0):
        return image
    if (right, bottom) == (width % 2, height % 2):
        return np.asarray(
            cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE), dtype=np.uint8
        )
    scale = min(size[0] / width, size[1] / height)
    inner = max(round(width * scale), 1), max(round(height * scale), 1)
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    left, top = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    small = cv2.resize(image, inner, interpolation=cv2.INTER_AREA)
    canvas[top : top + inner[1], left : left + inner[0]] = small
    return canvas


def _playable(path: Path) -> bool:
    """Tell whether a frame can be decoded from the file."""
    try:
        with av.open(str(path)) as source:
            return next(source.decode(video=0), None) is not None
    except (av.FFmpegError, IndexError):
        return False
