"""Still pictures: one file, a folder, or a glob, in natural order (img2 before img10).

Bytes are read by Python and decoded by OpenCV, so any file name works. A bad picture among many
is yielded as Unreadable; a single one that is bad is an error at opening.
"""

from __future__ import annotations

import glob
import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.config import StreamConfig
from pipeline.errors import SourceOpenError
from pipeline.redact import redact
from pipeline.sources.base import Picture, Remembered, Source, SourceSpec, Unreadable
from pipeline.sources.imagefile import decode_picture, is_animation
from pipeline.sources.opened import Once

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MOST_BYTES = 512 * 2**20
"""Of a picture's file: more is no picture, or one that memory has no room for."""
_NUMBER = re.compile(r"(\d+)")


class _BadPictureError(Exception):
    """Why a picture cannot be read, in a phrase, and the cause word."""

    def __init__(self, phrase: str, cause: str = "format") -> None:
        super().__init__(phrase)
        self.cause = cause


def natural_key(path: Path) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """A sort key by which numbers in names count as numbers, part of the path by part."""
    text = str(path)
    parts = _NUMBER.split(text.casefold())
    # A number sorts before text; the text itself settles ties such as a1 and a01.
    return tuple((0, int(p), "") if n % 2 else (1, 0, p) for n, p in enumerate(parts)), text


def pictures_in(folder: Path) -> list[Path]:
    """The pictures directly in ``folder``, in natural order. Raises SourceOpenError."""
    try:
        return _only_pictures(folder.iterdir())
    except OSError as error:
        cause = "permission" if isinstance(error, PermissionError) else "error"
        raise SourceOpenError(f"{folder}: {error.strerror}", cause=cause) from None


class PicturesSource(Once):
    """The pictures of some files, one after the other."""

    live = False

    def __init__(self, paths: list[Path], stop: threading.Event, max_picture: int) -> None:
        super().__init__()
        self._paths, self._stop, self._max_picture = paths, stop, max_picture
        # Several may have one name, in several folders of a glob: what they have in common is left out.
        self._folder = os.path.commonpath([path.parent for path in paths])
        self._first: Picture | None = None
        self.frame_count = len(paths)
        self.description = f"{len(paths)} pictures"
        if len(paths) == 1:
            try:
                self._first = self._read(paths[0])
            except _BadPictureError as error:
                raise SourceOpenError(f"cannot open {paths[0]}: {error}", cause=error.cause) from None
            height, width = self._first.image.shape[:2]
            self.description = f"one picture, {width}x{height}"

    def _pictures(self) -> Iterator[Picture | Unreadable]:
        if self._first is not None:
            picture, self._first = self._first, None
            yield picture
            return
        for path in self._paths:
            if self._stop.is_set():
                return
            try:
                item: Picture | Unreadable = self._read(path)
            except _BadPictureError as error:
                item = Unreadable(redact(f"{path}: {error}"))
            yield item

    def _read(self, path: Path) -> Picture:
        return replace(_read(path, self._max_picture), name=path.relative_to(self._folder).as_posix())


def open_pictures(
    spec: SourceSpec, stream: StreamConfig, stop: threading.Event, _: Remembered | None = None
) -> Source:
    """Open a picture, a folder or a glob. Raises SourceOpenError."""
    paths = pictures_of(spec)
    if not paths:
        raise SourceOpenError(f"{spec.address}: no picture is there (any more)", cause="not_found")
    return PicturesSource(paths, stop, stream.max_picture)


def pictures_of(spec: SourceSpec) -> list[Path]:
    """The files of a picture, a folder or a glob, in natural order."""
    path = Path(spec.address)
    if path.is_dir():
        return pictures_in(path)
    if path.exists():
        return [path]
    found = glob.glob(os.path.expanduser(spec.address), recursive=True)
    return _only_pictures(Path(name) for name in found)


def _only_pictures(paths: Iterable[Path]) -> list[Path]:
    return sorted((p for p in paths if p.suffix.lower() in SUFFIXES and p.is_file()), key=natural_key)


def _read(path: Path, max_picture: int) -> Picture:
    try:
        if path.exists() and not path.is_file():
            # A pipe might keep us waiting, a device might never end.
            raise _BadPictureError("expected an ordinary file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        cause = {FileNotFoundError: "not_found", PermissionError: "permission"}.get(type(error), "error")
        raise _BadPictureError(error.strerror or type(error).__name__, cause) from None
    if len(data) > MOST_BYTES:
        raise _BadPictureError(f"it has more than {MOST_BYTES >> 20} MiB; expected a picture")
    begun = time.perf_counter()
    try:
        image = decode_picture(data, max_picture)
    except ValueError as error:
        raise _BadPictureError(" ".join(str(error).split())) from None
    if is_animation(data):
        log.warning("%s is an animation; its first picture is taken: convert it to a video for all", path)
    return Picture(image, None, None, time.perf_counter() - begun)
