"""A config that is edited while the line runs: what differs is changed, or the edit is refused whole.

What can be known beforehand refuses it. Where a step then fails all the same (an output holds up a stream's
frames), the others are done, the log says which was not, and the next look at the file tries that again.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from operator import attrgetter
from types import MappingProxyType, TracebackType
from typing import Any, Self

from pipeline.app import Pipeline
from pipeline.config import SERVING_KEYS, Config, StreamConfig
from pipeline.decide import name_streams
from pipeline.errors import ConfigError, PipelineError
from pipeline.runtime.catalog import locate
from pipeline.smallfile import stamp
from pipeline.sources import SourceSpec, parse_source

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often the file is looked at; an edit counts once it has been still for as long."""


def named(config: Config) -> dict[str, StreamConfig]:
    """The streams as they are configured, by the names that they get."""
    return dict(zip(name_streams(config.streams, may_be_missing=True), config.streams, strict=True))


def with_names(line: Pipeline, old: Config, new: Config) -> Config:
    """``new`` with a name for each stream: one without keeps that which its source has in ``old``, lest it
    be taken for another one when those before it come or go; else it gets one that is free."""
    was = named(old)
    left = {name: was[name] for name in was.keys() - {stream.name for stream in new.streams}}
    streams = list(new.streams)
    # First those that are wholly the same: of one source there may be two.
    for same in (_said, attrgetter("source")):
        for number, stream in enumerate(streams):
            keeps = (name for name in was if name in left and same(left[name]) == same(stream))
            if stream.name is None and (name := next(keeps, None)) is not None:
                streams[number] = stream.model_copy(update={"name": name})
                del left[name]
    names = name_streams(streams, line.sources.keys() - was.keys(), may_be_missing=True)
    streams = [stream.model_copy(update={"name": name}) for name, stream in zip(names, streams, strict=True)]
    return new.model_copy(update={"streams": streams})


Again = Mapping[str, frozenset[str]]
"""Streams of which a change failed, and the keys of it: how those are is not known."""


class HalfDoneError(PipelineError):
    """Of an edit that can be meant some steps failed. ``done`` are the others, in words; ``now`` is the
    config that the line goes by, but for the streams in ``again``, with the keys whose change failed."""

    def __init__(self, done: list[str], failed: list[str], now: Config, again: Again) -> None:
        super().__init__("; ".join(failed))
        self.done, self.now, self.again = done, now, again


def apply(line: Pipeline, old: Config, new: Config, again: Again = MappingProxyType({})) -> list[str]:
    """Change the running ``line``, which goes by ``old``, to ``new``; what was done, in words. What ``again``
    names is changed in any case.

    Raises PipelineError (ConfigError, ModelError, …) with the reasons why that cannot be, the line unchanged;
    HalfDoneError where it turned out only while streams were changed.
    """
    return _go_over(line, old, new, again)[0]


def _go_over(line: Pipeline, old: Config, new: Config, again: Again) -> tuple[list[str], Config]:
    """As :func:`apply`; and the config that the line goes by now, with the names that its streams have."""
    changes = line.changes
    assert changes is not None, "the line runs"
    before, after = old.model_dump(), new.model_dump()
    differs = [key for key in after if key != "streams" and before[key] != after[key]]
    problems = _problems_of(new, differs)
    try:
        new = with_names(line, old, new)
    except ConfigError:  # which is one of them
        _refuse(problems)
        raise
    there = line.sources.keys()  # Python may have changed it meanwhile
    lost = again.keys() - there  # and may have taken off what could not be changed
    was, will = named(old), named(new)
    tried = {name: keys for name, keys in again.items() if name in there}
    was = {name: stream for name, stream in was.items() if name not in lost}
    added, removed = will.keys() - was.keys(), was.keys() - will.keys()
    both = will.keys() & was.keys()
    changed = {name for name in both if name in tried or _said(was[name]) != _said(will[name])}
    if gone := sorted((changed | removed) - there):
        told = f"{', '.join(gone)}: no longer a stream of the line, removed by other means"
        problems.append(ConfigError(told))
    if taken := sorted(added & there):
        told = f"{', '.join(taken)}: there is a stream of that name already, added by other means"
        problems.append(ConfigError(told))
    options = {name: _options(_said(was[name]), _said(will[name]), tried.get(name)) for name in changed}
    sources: dict[str, tuple[SourceSpec, StreamConfig]] = {}
    for name in sorted((changed & there) | (added - there)):
        try:
            if name in changed:
                sources[name] = changes.after(name, options[name])
            else:
                stream = will[name]
                sources[name] = parse_source(stream.source, may_be_missing=stream.paused), stream
        except PipelineError as error:
            problems.append(error)
    _refuse(problems)
    done, failed = [f"{key} changed" for key in differs], list[str]()

    def step(name: str, what: str, act: Callable[[], Any]) -> bool:
        try:
            act()
        except Exception as error:  # such as no thread to be had: of this stream, too
            said = str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
            failed.append(said if repr(name) in said else f"stream {name}: {said}")
            return False
        done.append(f"stream {name} {what}")
        return True

    now = dict(was)
    with changes.admitted(sources):
        if differs:
            line.reload_model(**{key: after[key] for key in differs})
        for name in sorted(changed):
            tried.pop(name, None)
            word = "changed"
            if options[name].keys() == {"paused"}:
                word = "paused" if will[name].paused else "resumed"
            if step(name, word, partial(line.change_stream, name, **options[name])):
                now[name] = will[name]
            else:
                tried[name] = frozenset(options[name])
        for name in sorted(added):
            if step(name, "added", partial(line.add_stream, **{**_said(will[name]), "name": name})):
                now[name] = will[name]
    for name in sorted(removed):  # last, so that the line has a stream at all times
        if added - now.keys():
            failed.append(f"stream {name} is not removed, since another could not be added")
            continue
        step(name, "removed", partial(line.remove_stream, name))
        if name not in line.sources:
            del now[name]
    if failed:
        streams = [stream.model_copy(update={"name": name}) for name, stream in now.items()]
        left = {name: keys for name, keys in tried.items() if name in now}
        raise HalfDoneError(done, failed, new.model_copy(update={"streams": streams}), left)
    return done, new


def _options(before: dict[str, Any], after: dict[str, Any], tried: Collection[str] | None) -> dict[str, Any]:
    """What differs, and what was tried in vain."""
    return {key: value for key, value in after.items() if value != before[key] or key in (tried or ())}


def _problems_of(new: Config, differs: list[str]) -> list[PipelineError]:
    """What can be told of a config by itself, all of it; a source may be gone that is not asked for."""
    problems: list[PipelineError] = []
    if fixed := [key for key in differs if key not in SERVING_KEYS]:
        told = f"{', '.join(fixed)}: cannot be changed in a running line; start it anew for that"
        problems.append(ConfigError(told))
    looks: list[Callable[[], object]] = [
        partial(parse_source, stream.source, may_be_missing=True) for stream in new.streams
    ]
    if "model" in differs:
        looks.append(partial(locate, new.model))
    for look in looks:
        try:
            look()
        except PipelineError as error:
            problems.append(error)
    return problems


def _refuse(problems: list[PipelineError]) -> None:
    if len(problems) > 1:
        raise PipelineError("; ".join(dict.fromkeys(map(str, problems))))
    if problems:
        raise problems[0]


def _said(stream: StreamConfig) -> dict[str, Any]:
    return stream.model_dump(exclude={"name"})


END_SECONDS = 5.0
"""An edit that is being applied when the line ends has so long. Steps with streams end with the line; a model
that is still being opened would be thrown away. With what outputs may take it is less than service managers
wait (30 s)."""


class Reloader:
    """Goes by the config file while its context is open: when asked to, and at each edit if ``watch``."""

    def __init__(
        self,
        line: Pipeline,
        read: Callable[[], Config],
        path: str,
        *,
        watch: bool,
        poll: float = POLL_SECONDS,
        seen: tuple[int, int, int] | None = None,
    ) -> None:
        """``read`` reads the file as at the start, with what the command line says beside it; ``seen`` is its
        stamp from before that was done first (None: as of now)."""
        self._line, self._read, self._path, self._poll = line, read, path, poll if watch else None
        self._current: Config = line.config_as_given
        self._again: Again = {}
        self._asked, self._over = threading.Event(), False
        self._seen = stamp(path) if seen is None else seen
        self._thread = threading.Thread(target=self._run, name="config", daemon=True)

    @property
    def refused(self) -> str | None:
        """Why the latest edit was refused; None where it was not."""
        return self._line.config_refused

    def ask(self) -> None:
        """Read the file again now. From any thread."""
        self._asked.set()

    def __enter__(self) -> Self:
        self._line.on_start(self._thread.start)  # before there is a line, there is nothing to change
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        self._asked.set()
        if self._thread.ident is None:
            return
        self._thread.join(END_SECONDS)
        if self._thread.is_alive():
            log.warning(
                "config %s: an edit is still being applied, or the file read, and is left behind: a model "
                "takes long to open, or the disk does not answer", self._path,
            )  # fmt: skip

    def _run(self) -> None:
        moved = False
        while True:
            asked = self._asked.wait(self._poll)
            self._asked.clear()
            if self._over:
                return
            now = stamp(self._path)
            still = now == self._seen
            self._seen = now
            # A file that an editor is still writing may be read when it has come to rest.
            if asked or (moved and still):
                self._reload()
            moved = not asked and not still

    def _reload(self) -> None:
        try:
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                raise ConfigError("it is no file, which could be read again")
            done, new = _go_over(self._line, self._current, self._read(), self._again)
        except HalfDoneError as error:
            self._current, self._again = error.now, error.again
            done_so_far = f" ({'; '.join(error.done)})" if error.done else ""
            if self._line.stopping:
                log.info(
                    "config %s: the line ends in the middle of the edit%s: %s", self._path, done_so_far, error
                )
                return
            log.error(
                "config %s: not all of the edit could be done%s; the next edit, or SIGHUP, tries the rest "
                "again: %s", self._path, done_so_far, error,
            )  # fmt: skip
            self._line.config_refused = str(error)
            return
        except (PipelineError, OSError) as error:
            why = str(error) if isinstance(error, PipelineError) else error.strerror
            if self._line.stopping:
                log.info("config %s: the line ends before the edit was taken: %s", self._path, why)
                return
            log.error("config %s: the edit is refused, all stays as it is: %s", self._path, why)
            self._line.config_refused = why if isinstance(error, PipelineError) else f"{self._path}: {why}"
            return
        except Exception as error:  # nobody has thought of it: the line goes on, and later edits are heard
            self._line.config_refused = f"{type(error).__name__}: {error}"
            log.exception("config %s: the edit could not be taken", self._path)
            return
        self._current, self._again, self._line.config_refused = new, {}, None
        log.info("config %s: %s", self._path, "; ".join(done) or "nothing has changed")
