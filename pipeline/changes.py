"""Streams of a running line, as Python and an edit of its config have them: looked at first, then changed.

What is asked for is understood, and held against the outputs, before anything is done; doing it is up to
:mod:`pipeline.streams`. One change after the other.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from pipeline.config import Config, StreamConfig, changed, make_stream
from pipeline.decide import filled_in, name_streams
from pipeline.errors import ConfigError
from pipeline.line import Line
from pipeline.sinks import Outputs, Sink, check_outputs
from pipeline.sources import SourceSpec, parse_source
from pipeline.streams import in_turn

log = logging.getLogger(__name__)

Sources = Mapping[str, tuple[SourceSpec, StreamConfig]]
"""Of each stream, by its name, what its source means, and how it is configured."""


class Changes:
    """Made with the line. Methods raise as those of :class:`pipeline.Pipeline` say which they serve."""

    def __init__(
        self,
        config: Config,
        line: Line,
        outputs: Outputs,
        sinks: Sequence[Sink],
        files_read: Callable[[Sources], list[str]],
    ) -> None:
        """``files_read`` are the files that must not be written over, with these streams."""
        self._config, self._outputs, self._sinks, self._files_read = config, outputs, sinks, files_read
        self._streams, self._flow = line.streams, line.flow
        self._admitted: set[str] = set()
        """Streams that the outputs are ready for, and that are not added yet."""
        self._lock = threading.Lock()

    def alone(self) -> AbstractContextManager[None]:
        """One change at a time."""
        return in_turn(self._lock, self._flow)

    def add(self, source: str | os.PathLike[str], options: Mapping[str, Any]) -> str:
        """Add a stream; its name."""
        stream = make_stream({"source": as_text(source), **options})
        with self.alone():
            named = name_streams([stream], self._streams.names, self._config.isolate_sources)
            ((name, (spec, stream)),) = named.items()
            with self.admitted(named):
                self._streams.add(name, spec, stream)
        log.info("stream %s: added", name)
        return name

    def remove(self, name: str) -> None:
        """Take a stream off the line, its frames emitted."""
        with self.alone():
            self._streams.remove(name)
            self._outputs.release(name)
        log.info("stream %s: removed", name)

    def pause(self, name: str) -> None:
        """Close a stream's source."""
        self._streams.pause(name)
        log.info("stream %s: paused", name)

    def resume(self, name: str) -> None:
        """Open the source of a paused stream again."""

        def found(stream: StreamConfig) -> SourceSpec:
            spec = parse_source(stream.source)
            self._check_outputs({name: (spec, stream)})
            return spec

        with self.alone():
            self._streams.resume(name, found)
        log.info("stream %s: resumed", name)

    def change(self, name: str, options: Mapping[str, Any]) -> None:
        """Change keys of a stream's config."""
        with self.alone():
            spec, stream = self.after(name, options)
            with self.admitted({name: (spec, stream)}):
                # Who pauses it at the same time is not undone by what leaves that open.
                paused = stream.paused if "paused" in options else None
                self._streams.change(name, spec, stream, paused=paused)
        if "paused" in options:
            log.info("stream %s: %s", name, "paused" if stream.paused else "resumed")
        if others := [key for key in options if key != "paused"]:
            log.info("stream %s: changed: %s", name, ", ".join(others))

    def after(self, name: str, options: Mapping[str, Any]) -> tuple[SourceSpec, StreamConfig]:
        """What :meth:`change` would have the stream go by. Raises as that does, but not for outputs."""
        if "name" in options:
            raise ConfigError(
                f"name: stream {name!r} keeps its name while it is there; remove it, and add it with another"
            )
        given = dict(options)
        if "source" in given:
            given["source"] = as_text(given["source"])
        running = self._streams.config(name)
        stream = make_stream(changed(running, given)).model_copy(update={"name": name})
        spec, _ = self._streams.sources[name]
        if "source" in given:
            spec = parse_source(stream.source, may_be_missing=True)
        stream = filled_in(stream, spec, len(self._streams.names), self._config.isolate_sources)
        # A share of the cores is of how many streams there were: not a reason to open it anew.
        if "decode_threads" not in given:
            stream = stream.model_copy(update={"decode_threads": running.decode_threads})
        if self._streams.opens(name, stream, stream.paused if "paused" in given else None):
            spec = parse_source(stream.source)
        return spec, stream

    @contextmanager
    def admitted(self, sources: Sources) -> Iterator[None]:
        """Have the outputs ready for further streams of these names, which are added within the block; of one
        that is not, they let go at its end.

        Raises SinkOpenError where an output cannot take one, or would write over a file that a stream of the
        line, with these sources, reads.
        """
        self._check_outputs(sources)
        names = sorted(sources.keys() - self._streams.sources.keys() - self._admitted)
        self._admitted.update(names)
        ready: list[tuple[Sink, str]] = []
        try:
            for name in names:
                for sink in self._sinks:
                    sink.admit(name)
                    ready.append((sink, name))
            yield
        finally:
            self._admitted.difference_update(names)
            for sink, name in ready:
                if name not in self._streams.sources:
                    sink.dismiss(name)

    def _check_outputs(self, sources: Sources) -> None:
        """Raise SinkOpenError where an output stands against these streams."""
        after = {**self._streams.sources, **sources}
        check_outputs(self._config, list(after), self._files_read(after))


def as_text(source: Any) -> Any:
    """A path as text; what is none is told of where the config is checked."""
    return os.fspath(source) if isinstance(source, os.PathLike) else source
