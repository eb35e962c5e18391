"""Where pictures come from: files, cameras, RTSP, HTTP, still images, and made-up ones.

``parse_source`` tells what a text means without touching the network; ``open_source`` opens it
and blocks while it does. A source is iterated once, in one thread, and closes itself when its
pictures end. This room alone imports ``av`` for input and ``cv2.VideoCapture``.

A source that is lost stays so: opening it again is up to its receiver (:mod:`pipeline.stages.capture`), which
hands in what was ``Remembered``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pipeline.config import StreamConfig
from pipeline.sources.address import local_files, parse_source
from pipeline.sources.base import Missed, Picture, Remembered, Source, SourceSpec, Unreadable
from pipeline.sources.camera import open_camera
from pipeline.sources.fflog import route_ffmpeg_log
from pipeline.sources.media import open_media
from pipeline.sources.pictures import open_pictures
from pipeline.sources.synthetic import encode_number, open_synthetic, read_number
from pipeline.sources.timestamps import Timestamps

Opener = Callable[[SourceSpec, StreamConfig, threading.Event, Remembered], Source]

OPENERS: dict[str, Opener] = {
    "file": open_media,
    "rtsp": open_media,
    "http": open_media,
    "stream": open_media,
    "camera": open_camera,
    "pictures": open_pictures,
    "synthetic": open_synthetic,
}


def open_source(
    spec: SourceSpec, stream: StreamConfig, stop: threading.Event, remembered: Remembered | None = None
) -> Source:
    """Open ``spec`` as ``stream`` says; its iteration ends at the next picture once ``stop`` is set.

    ``remembered`` is what opening it before taught, and learns from this. Blocks while it opens. Raises
    SourceOpenError, whose ``cause`` says why in a word. Where the
    stream asks for it, this is done in a process of its own.
    """
    if stream.isolate:
        # Not by those who have no use for it, such as the child itself.
        from pipeline.sources.isolated import open_isolated

        return open_isolated(spec, stream, stop, remembered or Remembered())
    return OPENERS[spec.kind](spec, stream, stop, remembered or Remembered())


__all__ = [
    "OPENERS",
    "Missed",
    "Picture",
    "Remembered",
    "Source",
    "SourceSpec",
    "Timestamps",
    "Unreadable",
    "encode_number",
    "local_files",
    "open_source",
    "parse_source",
    "read_number",
    "route_ffmpeg_log",
]
