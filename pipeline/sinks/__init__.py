"""Where results go: JSON Lines, an annotated video or pictures, a window, or nowhere.

A sink is a context manager that one thread writes to: its own where it may have to wait
(:mod:`pipeline.sinks.handoff`), else the one that emits. Its outputs are opened, or shown to be
openable, at construction: a wrong path ends the run before the first frame, not after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

from pipeline.config import Config
from pipeline.sinks.base import Sink, completed
from pipeline.sinks.display import Display
from pipeline.sinks.files import check_distinct
from pipeline.sinks.jsonl import JsonLines
from pipeline.sinks.null import Null
from pipeline.sinks.output import Output
from pipeline.sinks.outputs import Outputs, told
from pipeline.sinks.pictures import PictureFiles, check_apart
from pipeline.sinks.video import VideoFile
from pipeline.sinks.videos import VideoFiles, path_for

__all__ = [
    "SINKS",
    "Display",
    "JsonLines",
    "Null",
    "Output",
    "Outputs",
    "PictureFiles",
    "Sink",
    "VideoFile",
    "VideoFiles",
    "completed",
    "files_of",
    "open_sinks",
    "told",
]

Quit = Callable[[], None]

SINKS: Mapping[str, Callable[[Any, Sequence[str], Quit], Sink]] = MappingProxyType(
    {
        "display": lambda _, _streams, on_quit: Display(on_quit),
        "video": lambda template, streams, _: VideoFiles(template, streams),
        "pictures": lambda folder, streams, _: PictureFiles(folder, streams),
        # After those that only check: opening it replaces a file.
        "jsonl": lambda path, _streams, _: JsonLines(path),
        "null": lambda _, _streams, _on_quit: Null(),
    }
)
"""Sinks by their key in Config, made from its value, the streams' names and what to call for quitting."""


def open_sinks(
    config: Config, streams: Sequence[str], on_quit: Quit, inputs: Iterable[str] = ()
) -> list[Sink]:
    """Open every sink that ``config`` asks for; the null sink where it asks for none.

    ``inputs`` are files that are read and so must not be written. Raises SinkOpenError, with
    those that were already open closed again.
    """
    check_outputs(config, streams, inputs)
    asked = {name: getattr(config, name, None) for name in SINKS}
    if not any(asked.values()):
        asked["null"] = True
    with ExitStack() as opened:
        sinks = []
        for name, value in asked.items():
            if value:
                sink = SINKS[name](value, streams, on_quit)
                opened.callback(sink.abort)
                sinks.append(sink)
        opened.pop_all()
    return sinks


def check_outputs(config: Config, streams: Sequence[str], inputs: Iterable[str]) -> None:
    """Raise SinkOpenError where a file that is read, one of ``inputs``, would be written over."""
    inputs = list(inputs)
    check_distinct(inputs, files_of(config, streams))
    if config.pictures is not None:
        check_apart(config.pictures, inputs)


def files_of(config: Config, streams: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every file that a run would write, with the option that asks for it."""
    if config.jsonl not in (None, "-"):
        yield "--jsonl", str(config.jsonl)
    if config.video is not None:
        for path in dict.fromkeys(path_for(config.video, stream) for stream in streams):
            yield "--video", path
    if config.summary is not None:
        yield "--summary", config.summary
