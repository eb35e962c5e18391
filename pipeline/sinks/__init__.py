"""Where results go: JSON Lines, an annotated video, a window, or nowhere.

A sink is a context manager that one thread writes to. Its outputs are opened, or shown to
be openable, at construction: a wrong path ends the run before the first frame, not after.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

from pipeline.config import Config
from pipeline.sinks.base import Sink
from pipeline.sinks.display import Display
from pipeline.sinks.jsonl import JsonLines
from pipeline.sinks.null import Null
from pipeline.sinks.video import VideoFile
from pipeline.sinks.videos import VideoFiles

__all__ = ["SINKS", "Display", "JsonLines", "Null", "Sink", "VideoFile", "VideoFiles", "open_sinks"]

Quit = Callable[[], None]

SINKS: Mapping[str, Callable[[Any, Sequence[str], Quit], Sink]] = MappingProxyType(
    {
        "display": lambda _, _streams, on_quit: Display(on_quit),
        "video": lambda template, streams, _: VideoFiles(template, streams),
        # After those that only check: opening it replaces a file.
        "jsonl": lambda path, _streams, _: JsonLines(path),
        "null": lambda _, _streams, _on_quit: Null(),
    }
)
"""Sinks by their key in Config, made from its value, the streams' names and what to call for quitting."""


def open_sinks(config: Config, streams: Sequence[str], on_quit: Quit) -> list[Sink]:
    """Open every sink that ``config`` asks for; the null sink where it asks for none.

    Raises SinkOpenError, with those that were already open closed again.
    """
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
