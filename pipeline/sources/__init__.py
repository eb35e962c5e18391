"""Where pictures come from: files, cameras, RTSP, HTTP, still images, and made-up ones.

``parse_source`` tells what a text means without touching the network; ``open_source`` opens it
and blocks while it does. A source is iterated once, in one thread, and closes itself when its
pictures end. This room alone imports ``av`` for input and ``cv2.VideoCapture``.

A source that is lost stays so: opening it again is up to its receiver (:mod:`pipeline.stages.capture`), which
hands in what was ``Remembered``.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.sources.base import Missed, Picture, Remembered, Source, SourceSpec, Unreadable
from pipeline.sources.timestamps import Timestamps

if TYPE_CHECKING:
    from pipeline.config import StreamConfig
    from pipeline.sources.address import local_files, names_recording, parse_source
    from pipeline.sources.fflog import route_ffmpeg_log
    from pipeline.sources.synthetic import encode_number, read_number

# Imported when first used: the process of an isolated source has no use for most of it, and is ready in
# half the time, with half the memory.
_HOMES = {
    "encode_number": "synthetic",
    "local_files": "address",
    "names_recording": "address",
    "parse_source": "address",
    "read_number": "synthetic",
    "route_ffmpeg_log": "fflog",
}
OPENERS = {
    "file": ("media", "open_media"),
    "rtsp": ("media", "open_media"),
    "http": ("media", "open_media"),
    "stream": ("media", "open_media"),
    "camera": ("camera", "open_camera"),
    "pictures": ("pictures", "open_pictures"),
    "synthetic": ("synthetic", "open_synthetic"),
}
"""Module and function that open a kind of source."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def open_source(
    spec: SourceSpec, stream: StreamConfig, stop: threading.Event, remembered: Remembered | None = None
) -> Source:
    """Open ``spec`` as ``stream`` says; its iteration ends at the next picture once ``stop`` is set.

    ``remembered`` is what opening it before taught, and learns from this. Blocks while it opens. Raises
    SourceOpenError, whose ``cause`` says why in a word. Where the
    stream asks for it, this is done in a process of its own.
    """
    module, function = ("isolated.parent", "open_isolated") if stream.isolate else OPENERS[spec.kind]
    opener = getattr(import_module(f"{__name__}.{module}"), function)
    source: Source = opener(spec, stream, stop, remembered or Remembered())
    return source


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
    "names_recording",
    "open_source",
    "parse_source",
    "read_number",
    "route_ffmpeg_log",
]
