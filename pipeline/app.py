"""The page to read first: how a line is put together, run and ended.

::

    source ─▶ capture ─▶ preprocess ─▶ infer ─▶ postprocess ─▶ emit ─▶ sinks
                │ merge      │ channel   │ channel    │ channel

One capture thread and one first channel per stream; a fair merge; then stages that all
streams share. The first channel of a live stream drops its oldest frame when the line is
busy, every other channel blocks: so each drop happens in one counted place, after video decode and
before any work is spent on the frame. ``emit`` runs in the thread that iterates the pipeline,
so windows, callbacks and the caller's own loop stay where the caller is.

A second model stands between ``postprocess`` and ``emit``::

    postprocess ─▶ match ─┬─────────────────────────────────┬─▶ emit
                          └─▶ one channel per stream ─▶ classify

Only frames with new objects, and those behind them in their stream, wait for it.

How it ends:

* All streams end, or ``stop()`` (first Ctrl-C, ``duration``): captures stop, everything in
  flight drains, sinks are finalised.
* ``cancel()`` (second Ctrl-C, leaving the ``with`` block early): what is in flight is dropped and counted.
* Any exception in a stage, source or sink: as cancel, and the exception is raised from
  the iteration as an ExceptionGroup once all threads are joined.

Whichever way, the books are checked: captured = emitted + dropped, nothing in flight.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from operator import attrgetter
from types import TracebackType
from typing import Any, Self

from pipeline.accounts import Accounts
from pipeline.config import Config, StreamConfig, make_config, make_stream
from pipeline.decide import (
    LEAST_CAPACITY,
    MOST_CAPACITY,
    Depths,
    batch_limit,
    class_ids,
    may_be_live,
    name_streams,
    run_concurrency,
    shows_pictures,
    thresholds,
)
from pipeline.errors import ConfigError, ModelError, PipelineError
from pipeline.flow import Bypass, Channel, Flow, Windowed
from pipeline.frame import Result
from pipeline.iteration import Iteration
from pipeline.metrics import MetricsServer
from pipeline.profiles import Profile, applied
from pipeline.runtime.model import Model, open_model
from pipeline.sinks import Sink, files_of, open_sinks
from pipeline.sources import SourceSpec, local_files, parse_source
from pipeline.stages.classify import Classify
from pipeline.stages.emit import Emit
from pipeline.stages.infer import Infer
from pipeline.stages.match import Match, Matched
from pipeline.stages.postprocess import Postprocess
from pipeline.stages.preprocess import BlobPool, Preprocess
from pipeline.streams import STOP_GRACE_SECONDS, Streams

log = logging.getLogger(__name__)

STAGES = ("capture", "preprocess", "infer", "postprocess", "emit")
SECOND = ("match", "classify")
"""The stages between postprocess and emit, where a second model is asked for."""
WINDOW, LIVE_WINDOW = 8, 2
"""Frames of one stream under way beside a full batch, with a second model: as many as keep each stage busy;
of a live stream fewer, because what waits grows old."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line that has been built: its threads, its streams, and the channel that its results come out of."""

    flow: Flow
    streams: Streams
    results: Channel[Any]


def build(
    config: Config,
    sources: Mapping[str, tuple[SourceSpec, StreamConfig]],
    model: Model,
    accounts: Accounts,
    second: Model | None = None,
) -> Line:
    """The whole line, to be started."""
    flow = Flow(accounts)
    channel = partial(flow.channel, capacity=config.channel_capacity or LEAST_CAPACITY)
    batch = batch_limit(config, model)
    # What one stream has waiting for the second model must not fill the channels that all share.
    window = WINDOW + batch if second is not None and len(sources) > 1 else None
    depths = Depths(flow, config.channel_capacity, len(sources), model.spec, window and LIVE_WINDOW + batch)
    # Where no frame can be too old, the cheap stages take all that is ready in one go.
    live = any(may_be_live(*source) for source in sources.values())
    together = 1 if live else MOST_CAPACITY

    frames = flow.merge("capture")
    firsts: dict[str, Channel[Any]] = {}
    if window is not None:
        flow.observer = Windowed(accounts, "capture", attrgetter("frame.stream"), firsts)

    def first(name: str) -> Channel[Any]:
        firsts[name] = channel(f"frames:{name}", "capture", merge=frames, window=window)
        return firsts[name]

    streams = Streams(flow, frames, accounts, depths, first)
    for name, (spec, stream) in sources.items():
        streams.add(name, spec, stream)

    workers, _ = run_concurrency(config, model.session.provider)
    pool = BlobPool(model.spec.dtype)
    keep = shows_pictures(config)
    preprocess = [Preprocess(model.spec, pool, keep=keep) for _ in range(config.preprocess_workers)]
    sessions = islice(cycle(model.sessions), workers)
    infer = [Infer(session.bound(batch, model.spec), pool) for session in sessions]
    postprocess = Postprocess(model, thresholds(config, model))

    blobs = channel("blobs", "preprocess")
    # What waits behind the first channel grows old where no fresher frame can replace it: a live one is taken
    # when inference asks (YOLOv8n at 4 x the bound: p99 age 440 -> 236 ms). A batch gathers while one runs.
    asked = blobs if live and batch == 1 else None
    flow.stage("preprocess", preprocess, frames, blobs, limit=together, demand=asked)
    outputs = channel("outputs", "infer")
    linger = config.linger_ms / 1000
    flow.stage("infer", infer, blobs, outputs, limit=batch, linger=linger, most=together)
    results = channel("results", "postprocess")
    flow.stage("postprocess", [postprocess] * config.postprocess_workers, outputs, results, limit=together)
    if second is not None:
        results = _add_second(flow, config, streams, model, second, results, window, together)
    return Line(flow, streams, results)


def _add_second(
    flow: Flow,
    config: Config,
    streams: Streams,
    model: Model,
    second: Model,
    results: Channel[Any],
    window: int | None,
    together: int,
) -> Channel[Any]:
    """The stages of a second model; what comes out of them."""
    capacity = config.channel_capacity or LEAST_CAPACITY
    # With several streams a turn of each: none waits for more than one frame of another.
    objects = flow.merge("classify", one_each=window is not None)
    lane = partial(flow.channel, stage="classify", capacity=window or capacity, merge=objects)
    lanes: dict[str, Channel[Any]] = {}

    def add_lane(name: str) -> None:
        if name not in lanes:
            lanes[name] = lane(f"objects:{name}", fixed=window is not None)

    streams.on_added(add_lane)
    classified = flow.channel("classified", "classify", capacity)
    bypass = Bypass(attrgetter("frame.stream"), lambda item: isinstance(item, Matched), lanes, classified)
    looked_at = class_ids(model, config.classify_on, "classify_on")
    match = Match(second.labels, looked_at, config.classify_every)
    flow.stage("match", [match], results, bypass.entrance, limit=together)
    # Nothing for a frame behind another, a run of the model for one with objects: others never wait for that.
    flow.stage("classify", [Classify(second)], objects, bypass.exit, limit=MOST_CAPACITY, varies=True)
    return classified


class Pipeline:
    """Detect objects in one or more streams.

    ::

        with Pipeline("rtsp://camera/stream", model="nanodet-g") as line:
            for result in line:
                print(result.stream, result.frame.seq, result.detections.labels)

    ``source`` is an address or path, a list of them, or a :class:`Config`; ``options`` are the
    keys of :class:`Config`. Entering opens the model and the sinks, iterating starts the
    threads; it may be iterated once. ``result.frame.image`` is uint8 [H, W, 3] BGR,
    ``result.detections.xyxy`` float32 [N, 4] in pixels of that frame.

    Raises, on construction: ConfigError, SourceOpenError (a path that is not there). On entering:
    ModelError, ProviderError, SinkOpenError. On iterating: an ExceptionGroup of what was raised in
    stages, sources and sinks; a stream whose source dies ends by itself, and
    ``accounts.streams[name].error`` says why; when no stream ever opened, the group holds their
    SourceOpenErrors.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Config,
        *,
        sinks: Sequence[Sink] = (),
        also_read: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """``also_read`` are files that no output may overwrite, beside sources and model."""
        if isinstance(source, Config):
            if options:
                raise ConfigError("give either a Config or keyword options, not both")
            self.config = source
        else:
            addresses = [source] if isinstance(source, str | os.PathLike) else list(source)
            streams = [{"source": os.fspath(address)} for address in addresses]
            self.config = make_config({"streams": streams, **options})
        self.sources = name_streams(self.config.streams)
        stages = [*STAGES[:-1], *(SECOND if self.config.classify else ()), STAGES[-1]]
        self.accounts = Accounts(list(self.sources), stages)
        self.model: Model | None = None
        self.second: Model | None = None
        self.profile: Profile | None = None
        self.metrics: MetricsServer | None = None
        self._sinks: list[Sink] = list(sinks)
        self._also_read = also_read
        self._stop = threading.Event()
        self._stopper: threading.Thread | None = None
        self._late: list[str] = []
        self._resources = ExitStack()
        self._line: Line | None = None
        self._iteration: Iteration | None = None
        self._left = False
        self._lock = threading.Lock()
        self._changing = threading.Lock()

    def __enter__(self) -> Self:
        if self.model is not None:
            raise RuntimeError("a pipeline can be entered once; make another one")
        self.config, self.profile = applied(self.config)
        config = self.config
        with ExitStack() as opened:
            provider = config.provider
            runs, threads = run_concurrency(config, provider)
            self.model = open_model(
                config.model,
                provider,
                config.device,
                threads,
                task=config.task,
                input_size=config.input_size,
                options=config.provider_options,
                spinning=config.infer_spinning,
                rewrite=config.rewrite,
                fuse=config.fuse,
                runs=runs,
            )
            if config.classify is not None:
                if self.model.family.task == "classify":
                    raise ConfigError(
                        f"classify: a second model looks at objects, and {self.model.name!r} finds none: it "
                        "classifies whole frames"
                    )
                try:
                    self.second = open_model(
                        config.classify,
                        provider,
                        config.device[0],
                        threads,
                        task="classify",
                        options=config.provider_options,
                        rewrite=config.rewrite,
                        runs=runs,
                    )
                except ModelError as error:
                    raise ModelError(f"classify: {error}") from None
            # Wrong options should be found before a thread is started or a file replaced.
            batch_limit(config, self.model)
            run_concurrency(config, self.model.session.provider)
            thresholds(config, self.model)
            class_ids(self.model, config.classify_on, "classify_on")
            if config.metrics is not None:
                self.metrics = opened.enter_context(MetricsServer(config.metrics, self))
            self._sinks += open_sinks(config, list(self.sources), self.stop, self._files_read())
            self._resources = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._left = True
            if self._iteration is not None:
                self._iteration.end(self.cancel)
        finally:
            try:
                self._close_sinks()  # nothing is left to close unless the line was never started
            finally:
                self._resources.close()

    def __iter__(self) -> Iterator[Result]:
        return self._iterate(limit=1)

    def run(self) -> None:
        """Run to the end, for its sinks. Raises as iterating does."""
        self._iterate(limit=MOST_CAPACITY).exhaust()

    def stop(self) -> None:
        """End gracefully: captures stop, what is in flight drains. From any thread, at any time."""
        with self._lock:
            if self._stop.is_set():
                return
            self._stop.set()
            if self._line is not None:
                self._line.streams.stop()
                self._start_stopper(self._line.flow)

    def cancel(self) -> None:
        """End now: what is in flight is dropped, and counted. From any thread, at any time."""
        self._stop.set()
        line = self._line
        if line is not None:
            line.flow.cancel()
            line.streams.stop()

    # Streams of the running line; see pipeline.streams.

    def add_stream(self, source: str | os.PathLike[str], **options: Any) -> str:
        """Add a stream to the running line, without disturbing the others; its name.

        ``options`` are the keys of :class:`StreamConfig`. Raises ConfigError, SourceOpenError (a path that is
        not there), SinkOpenError (an output that cannot take another stream), PipelineError where the line
        does not run.
        """
        line = self._running("add a stream")
        stream = make_stream({"source": os.fspath(source), **options})
        with self._changing:
            ((name, (spec, stream)),) = name_streams([stream], taken=line.streams.names).items()
            for sink in self._sinks:
                sink.admit(name)
            line.streams.add(name, spec, stream)
            self.sources[name] = spec, stream
        return name

    def remove_stream(self, name: str) -> None:
        """Take a stream off the running line, its frames emitted. The line ends with its last stream."""
        with self._changing:
            self._running("remove a stream").streams.remove(name)
            self.sources.pop(name, None)

    def pause_stream(self, name: str) -> None:
        """Close a stream's source until :meth:`resume_stream`; frames and their PTS count on then."""
        self._running("pause a stream").streams.pause(name)

    def resume_stream(self, name: str) -> None:
        """Open the source of a paused stream again."""
        self._running("resume a stream").streams.resume(name)

    def change_stream(self, name: str, **options: Any) -> None:
        """Change keys of a stream's :class:`StreamConfig`; its source is opened again where need be."""
        line = self._running("change a stream")
        with self._changing:
            stream = make_stream({**line.streams.config(name).model_dump(exclude_unset=True), **options})
            spec = parse_source(stream.source)
            line.streams.change(name, spec, stream)
            self.sources[name] = spec, stream

    def _running(self, to_do: str) -> Line:
        if self._line is None or self._stop.is_set():
            raise PipelineError(f"cannot {to_do}: the line does not run")
        return self._line

    @property
    def flow(self) -> Flow | None:
        """The running line's threads; None before it is started."""
        return self._line.flow if self._line is not None else None

    def _files_read(self) -> list[str]:
        """Files that must not be written over: local sources, the model."""
        local = [path for spec, _ in self.sources.values() for path in local_files(spec)]
        assert self.model is not None
        written = [path for _, path in files_of(self.config, list(self.sources))]
        return [*local, *self.model.session.files_among(written), *self._also_read]

    def left_in_line(self) -> int:
        """Items that lie in channels now, counted there and not in the books."""
        return sum(each.depth for each in self.flow.statistics()) if self.flow is not None else 0

    def _iterate(self, limit: int) -> Iteration:
        if self.model is None or self._left:
            raise RuntimeError("iterate inside the block: with Pipeline(…) as line: …")
        if self._iteration is not None:
            raise RuntimeError("a pipeline can be iterated once; make another one")
        line = build(self.config, self.sources, self.model, self.accounts, self.second)
        emit = Emit(self._sinks, self.accounts.streams)
        self._iteration = Iteration(self._run(line, emit, limit))
        return self._iteration

    def _run(self, line: Line, emit: Emit, limit: int) -> Generator[Result, None, None]:
        flow = line.flow
        timer = threading.Timer(self.config.duration or 0, self.stop)
        drained = False
        try:
            with self._lock:
                self._line = line
                self.accounts.begin()
                flow.start()
                if self._stop.is_set():  # asked before there was anything to stop
                    line.streams.stop()
                    self._start_stopper(flow)
            if self.config.duration is not None:
                timer.start()
            yield from flow.consume("emit", line.results, emit, limit, idle=emit.idle)
            drained = True
        finally:
            timer.cancel()
            if timer.ident is not None:
                timer.join()
            if not drained:
                flow.cancel()
            line.streams.stop()
            self._finish(flow)

    def _start_stopper(self, flow: Flow) -> None:
        self._stopper = threading.Thread(target=self._release, args=(flow,), name="stopper")
        self._stopper.start()

    def _finish(self, flow: Flow) -> None:
        """After the last result, however it came: join, finalise, check the books, raise."""
        self._stop.set()
        with self._lock:  # one that is made is started, too
            stopper = self._stopper
        if stopper is None:
            self._release(flow)
        else:
            stopper.join()
        flow.join_workers()
        self.accounts.end()
        for account in self.accounts.streams.values():
            if account.ending is None:
                account.ended("failed" if flow.errors else "cancelled" if flow.cancelled else "abandoned")
        for name in self._late:
            log.warning("%s did not answer to stop; it ends by its own time-out", name)
        errors: list[Exception] = []
        for step in (self._close_sinks, flow.raise_errors, partial(self.accounts.check, self.left_in_line())):
            try:
                step()
            except* Exception as group:
                errors += group.exceptions
        if errors:
            raise ExceptionGroup("the line failed", errors)
        self._raise_if_nothing_opened()

    def _close_sinks(self) -> None:
        """Finalise every sink; raise what went wrong in any of them."""
        sinks, self._sinks = self._sinks, []
        flow = self.flow
        cancelled = flow is not None and flow.cancelled and not flow.errors
        errors: list[Exception] = []
        for sink in sinks:
            try:
                if cancelled:
                    sink.abort()
                else:
                    sink.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise ExceptionGroup("an output could not be finished", errors)

    def _raise_if_nothing_opened(self) -> None:
        accounts = self.accounts.streams.values()
        errors = [account.error for account in accounts if account.error is not None]
        if errors and len(errors) == len(accounts) and self.accounts.totals().captured == 0:
            raise ExceptionGroup("no stream could be opened", errors)

    def _release(self, flow: Flow) -> None:
        """Give the captures time to end; let the line drain without those that don't."""
        self._late = flow.abandon_feeders(STOP_GRACE_SECONDS)
