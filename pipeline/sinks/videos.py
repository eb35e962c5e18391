"""Annotated video files of several streams."""

from __future__ import annotations

import os
import re
import threading
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from pipeline.errors import SinkError, SinkOpenError, SinkWriteError
from pipeline.frame import Result
from pipeline.sinks.base import Sink
from pipeline.sinks.files import check_folder
from pipeline.sinks.video import VideoFile, container_of

_PLACEHOLDER = "{stream}"


def path_for(template: str, stream: str) -> str:
    """``template`` with the stream's name, made fit for a file's, in place of ``{stream}``."""
    return template.replace(_PLACEHOLDER, safe_name(stream))


def safe_name(stream: str) -> str:
    """``stream`` made fit for a part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", stream).lstrip(".")[:100] or "_"


def _is_there(path: str) -> bool:
    return os.path.lexists(path) or os.path.lexists(f"{path}.part")


class VideoFiles(Sink):
    """One VideoFile a stream, opened before its first frame, finished when the stream is removed.

    ``{stream}`` in the name is replaced by the stream's name, in which every character that
    does not suit a file's name becomes ``_``. ``streams`` are the names of all streams where
    they are known; ``fps`` holds their nominal rates.

    Raises SinkOpenError for a wrong extension, for a file of ``streams`` that cannot be made, and
    for several streams that would go to one file.
    """

    kind = "video"
    own_thread = True

    def __init__(
        self,
        template: str,
        streams: Sequence[str] = (),
        fps: Mapping[str, float | Fraction] | None = None,
    ) -> None:
        self._template = os.fspath(template)
        self._fps = fps or {}
        self._files: dict[str, VideoFile] = {}
        # Opened, and without a frame. Of one name there may be two: a stream was removed, which the thread
        # that writes has yet to hear, and is there once more.
        self._waiting: defaultdict[str, deque[VideoFile]] = defaultdict(deque)
        self._taken: set[str] = set()
        self._ended = False
        self._lock = threading.Lock()
        folder, name = os.path.split(self._template)
        container_of(name)
        if _PLACEHOLDER in folder:
            raise SinkOpenError(
                f"cannot write video {template}: {_PLACEHOLDER} stands for a part of the file's name, "
                "not of its folder's"
            )
        if unknown := re.search(r"\{[^{}]*\}", name.replace(_PLACEHOLDER, "")):
            raise SinkOpenError(
                f"cannot write video {template}: unknown placeholder {unknown[0]}; valid: {_PLACEHOLDER}"
            )
        if len(streams) > 1 and _PLACEHOLDER not in name:
            raise self._one_file_for_many()
        self._only: VideoFile | None = None
        if _PLACEHOLDER not in name:
            self._only = VideoFile(self._template, next(iter(self._fps.values()), None))
        elif not streams:
            check_folder(Path(os.path.realpath(self._template)), self._template)
        try:
            for stream in streams if self._only is None else ():
                self.admit(stream)
        except SinkOpenError:
            self.abort()
            raise

    def admit(self, stream: str) -> None:
        """Open its file, in any thread. Raises SinkOpenError; so it does where there is one file for one
        stream."""
        with self._lock:
            if self._ended:
                return
            if self._only is None:
                self._waiting[stream].append(self._opened(stream))
            elif stream not in self._files:
                raise self._one_file_for_many()

    def dismiss(self, stream: str) -> None:
        """Remove the file that ``admit`` opened, in any thread."""
        with self._lock:
            if self._waiting[stream]:
                self._let_go(self._waiting[stream].pop()).abort()

    def write(self, result: Result, dropped_before: int) -> None:
        """Write a frame to its stream's file. Raises SinkWriteError."""
        file = self._files.get(result.stream)
        if file is None:
            try:
                file = self._files[result.stream] = self._next(result.stream)
            except SinkOpenError as error:  # the line runs: it is no wrong option any more
                raise SinkWriteError(str(error)) from error
        file.write(result, dropped_before)

    def release(self, stream: str) -> None:
        """Finish the file of a stream that was removed; one that is added once more gets another. Raises
        SinkWriteError. Where one file was asked for, it stays open: there is no other name."""
        if self._only is not None:
            return
        file = self._files.pop(stream, None)
        if file is not None:
            file.close()
            return
        with self._lock:
            if self._waiting[stream]:
                self._let_go(self._waiting[stream].popleft()).close()

    def close(self) -> None:
        """Finish every file, also when one cannot be finished. Raises SinkWriteError."""
        failures = []
        for file in self._all():
            try:
                file.close()
            except SinkError as error:
                failures.append(error)
        if failures:
            raise SinkWriteError("; ".join(map(str, failures))) from failures[0]

    def abort(self) -> None:
        """Give up every file."""
        for file in self._all():
            file.abort()

    def _all(self) -> list[VideoFile]:
        """All that are open; there will be no more."""
        with self._lock:
            self._ended = True
            waiting = [file for files in self._waiting.values() for file in files]
        return [*self._files.values(), *waiting] if self._only is None else [self._only]

    def _next(self, stream: str) -> VideoFile:
        if self._only is not None:
            if self._files:
                raise self._one_file_for_many()
            return self._only
        with self._lock:
            return self._waiting[stream].popleft() if self._waiting[stream] else self._opened(stream)

    def _opened(self, stream: str) -> VideoFile:
        path = self._path(stream)
        file = VideoFile(path, self._fps.get(stream))
        self._taken.add(path.casefold())
        return file

    def _let_go(self, file: VideoFile) -> VideoFile:
        """The name of one without a frame may be another stream's."""
        self._taken.discard(file.name.casefold())
        return file

    def _path(self, stream: str) -> str:
        path = path_for(self._template, stream)
        safe = safe_name(stream)
        number = 2
        # "cam 1" and "cam/1" are two streams; so are "Cam" and "cam", which some disks confuse.
        # Under a number nothing is written over: nobody was told of that name, and it may be read.
        while path.casefold() in self._taken or (number > 2 and _is_there(path)):
            path = self._template.replace(_PLACEHOLDER, f"{safe}-{number}")
            number += 1
        return path

    def _one_file_for_many(self) -> SinkOpenError:
        root, extension = os.path.splitext(self._template)
        return SinkOpenError(
            f"cannot write several streams to one video {self._template}; "
            f"put {_PLACEHOLDER} into its name, such as {root}-{_PLACEHOLDER}{extension}"
        )
