"""Annotated pictures: a file for each frame."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import cv2

from pipeline.errors import SinkOpenError, SinkWriteError
from pipeline.frame import Result
from pipeline.redact import MASK
from pipeline.sinks.base import Sink
from pipeline.sinks.files import check_folder, reason
from pipeline.sinks.video import caption_of
from pipeline.sinks.videos import safe_name
from pipeline.vision.draw import draw

_QUALITY = 92
_LONGEST_NAME = 120
"""Of a picture's file, in bytes: with a stream's name before it, file systems take it still."""


class PictureFiles(Sink):
    """Writes each frame, with what was detected drawn on it, to FOLDER/STREAM-NUMBER.jpg.

    NUMBER is the frame's own, from 0, six digits or more. A frame that was a picture's file keeps that
    file's name, with ``.jpg`` behind it where it is no JPEG's, and the stream's before it unless that is
    the only one of ``streams``, the names at the start. No stream writes over another's: what would have
    its name gets a number. The folder is made; a file of an earlier run is
    replaced when the new one is whole. Raises SinkOpenError for a folder that cannot be written to.
    """

    kind = "pictures"
    own_thread = True

    def __init__(self, folder: str | os.PathLike[str], streams: Sequence[str] = ()) -> None:
        self._folder = Path(folder)
        self._streams = list(streams)
        self._written: dict[str, str] = {}
        """Whose the files are that have names of their own."""
        self._names: dict[str, str] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            why = "it is a file, not a folder" if isinstance(error, FileExistsError) else why
            raise SinkOpenError(f"cannot write pictures to {folder}: {why}") from error
        check_folder(self._folder / "x", f"pictures to {folder}")

    def write(self, result: Result, dropped_before: int) -> None:
        """Draw and write one frame. Raises SinkWriteError."""
        image = result.frame.image.copy()
        draw(image, result.detections, caption=caption_of(result))
        path = self._folder / self._file(result)
        part = path.with_name(f"{path.name}.part")
        # Encoded in memory: cv2.imwrite says neither why it fails nor that the disk is full.
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not done:
            height, width = image.shape[:2]
            raise SinkWriteError(f"cannot write picture {path}: JPEG has no pictures of {width}x{height}")
        try:
            part.write_bytes(data)
            part.replace(path)
        except OSError as error:
            with suppress(OSError):  # its folder may be none any more, or may not be written to
                part.unlink()
            raise SinkWriteError(f"cannot write picture {path}: {reason(error)}") from error

    def close(self) -> None:
        """Nothing is left to finish."""

    def abort(self) -> None:
        """Nothing is left to give up."""

    def _file(self, result: Result) -> str:
        stream, number, source = self._name(result.stream), f"{result.frame.seq:06d}", result.frame.source
        if source is None or len(os.fsencode(source)) > _LONGEST_NAME:
            return self._unlike_others(f"{stream}-{number}.jpg", result.stream)
        # Of a glob: a/1.jpg and a_1.jpg are two; and so may be what is one only where secrets are masked.
        name = source.replace("/", "_").replace(MASK, "_")
        name = f"{number}-{name}" if "/" in source or MASK in source else name
        name = name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg"
        name = name if self._streams in ([], [result.stream]) else f"{stream}-{name}"
        name = self._unlike_others(name, result.stream)
        self._written[name.casefold()] = result.stream
        return name

    def _unlike_others(self, name: str, stream: str) -> str:
        (stem, suffix), number, free = os.path.splitext(name), 2, name
        while self._is_of_another(free, stream):
            free, number = f"{stem}-{number}{suffix}", number + 1
        return free

    def _is_of_another(self, name: str, stream: str) -> bool:
        if self._written.get(name.casefold(), stream) != stream:
            return True
        numbered = re.fullmatch(r"(.*)-\d{6,}\.jpg", name)
        return numbered is not None and any(
            numbered[1].casefold() == named.casefold() for of, named in self._names.items() if of != stream
        )

    def _name(self, stream: str) -> str:
        """The stream's name, fit for a file's, and no other stream's on disks that confuse Cam and cam."""
        if stream not in self._names:
            taken = {name.casefold() for name in self._names.values()}
            safe, number = safe_name(stream), 2
            name = safe
            while name.casefold() in taken:
                name, number = f"{safe}-{number}", number + 1
            self._names[stream] = name
        return self._names[stream]


def check_apart(folder: str, inputs: Iterable[str]) -> None:
    """Raise SinkOpenError where a file that is read lies in ``folder``: it could be written over."""
    where = os.path.realpath(folder)
    for path in inputs:
        if os.path.dirname(os.path.realpath(path)) == where:
            raise SinkOpenError(
                f"cannot write pictures to {folder}: the source {path} lies there; choose another folder"
            )
