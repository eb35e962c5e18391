"""A line that runs: entered, iterated, changed meanwhile, and ended. How it is built: :mod:`pipeline.line`.

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
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

from pipeline.access import metrics_token
from pipeline.accounts import Accounts
from pipeline.changes import Changes, Sources, as_text
from pipeline.config import Config, StreamConfig, make_config, reloaded
from pipeline.decide import (
    MOST_CAPACITY,
    batch_limit,
    class_ids,
    name_streams,
    settled,
    thresholds,
)
from pipeline.errors import ConfigError, PipelineError
from pipeline.flow import Flow
from pipeline.frame import Result
from pipeline.freshness import too_old
from pipeline.iteration import Iteration
from pipeline.line import SECOND, STAGES, Line, build, open_first, open_second, reopen_second, serving
from pipeline.metrics import MetricsServer
from pipeline.monitor import Monitor
from pipeline.profiles import Profile, applied
from pipeline.references import files_referred_to
from pipeline.runtime.model import Model
from pipeline.sinks import Outputs, Sink, completed, open_sinks
from pipeline.sources import local_files
from pipeline.stages.emit import Emit
from pipeline.streams import STOP_GRACE_SECONDS

log = logging.getLogger(__name__)


class Pipeline:
    """Detect objects in one or more streams.

    ::

        with Pipeline("rtsp://camera/stream", model="nanodet-g") as line:
            for result in line:
                print(result.stream, result.frame.seq, result.detections.labels)

    ``source`` is an address or path, a list of them, or a :class:`Config`; ``options`` are the keys of
    :class:`Config`, and those of :class:`StreamConfig`, which then hold for each stream. Entering opens the
    model and the sinks, iterating starts the threads; it may be iterated once. ``result.frame.image`` is
    uint8 [H, W, 3] BGR, ``result.detections.xyxy`` float32 [N, 4] in pixels of that frame.

    Raises, on construction: ConfigError, SourceOpenError (a path that is not there, unless
    its stream is paused). On entering:
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
            each = {key: options.pop(key) for key in StreamConfig.model_fields.keys() & options.keys()}
            streams = [{"source": as_text(address), **each} for address in addresses]
            self.config = make_config({"streams": streams, **options})
        self._sources = name_streams(self.config.streams, isolate=self.config.isolate_sources)
        named = zip(self._sources, self.config.streams, strict=True)
        with_names = [stream.model_copy(update={"name": name}) for name, stream in named]
        self.config_as_given = self.config.model_copy(update={"streams": with_names})
        """Before a profile filled in what it leaves open, with the names that its streams got."""
        stages = [*STAGES[:-1], *(SECOND if self.config.classify else ()), STAGES[-1]]
        self.accounts = Accounts(list(self._sources), stages)
        self._model: Model | None = None
        self._second: Model | None = None
        self.config_refused: str | None = None
        """Why the latest edit of its config file was refused; None where it was not, or there is none."""
        self.profile: Profile | None = None
        self.metrics: MetricsServer | None = None
        self._sinks: list[Sink] = [completed(sink) for sink in sinks]
        self.outputs = Outputs([])
        """What became of the results, for each sink; there are some once the pipeline is entered."""
        self._also_read = also_read
        self._on_start: list[Callable[[], None]] = []
        self._stop = threading.Event()
        self._cancelled = False
        self._stopper: threading.Thread | None = None
        self._late: list[str] = []
        self._resources = ExitStack()
        self._line: Line | None = None
        self.changes: Changes | None = None
        """How streams of the running line are changed; None before there is one."""
        self._iteration: Iteration | None = None
        self._monitor = Monitor(self, self.config.watchdog)
        self._left = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        if self.model is not None:
            raise RuntimeError("a pipeline can be entered once; make another one")
        self.config, self.profile = applied(self.config)
        config = self.config
        token = metrics_token(config)
        with ExitStack() as opened:
            try:
                self._model = model = open_first(config)
                batch_limit(config, model)
            except PipelineError as error:
                if self.profile is None:
                    raise
                keys = ", ".join(self.profile.settings)
                raise type(error)(
                    f"{error} (with what the model's profile says: {keys}; --no-profile leaves it out)"
                ) from None
            if config.classify is not None:
                if model.family.task == "classify":
                    raise ConfigError(
                        f"classify: a second model looks at objects, and {model.name!r} finds none: it "
                        "classifies whole frames"
                    )
                self._second = open_second(config)
            # Wrong options should be found before a thread is started or a file replaced.
            self.config = config = settled(config, model)
            thresholds(config, model)
            class_ids(model, config.classify_on, "classify_on")
            if config.metrics is not None:
                self.metrics = opened.enter_context(MetricsServer(config.metrics, self, token))
            read = self._files_read(self.sources)
            self._sinks += open_sinks(config, list(self.sources), self.stop, read)
            expired = too_old(config.max_age_ms)
            self.outputs = Outputs(self._sinks, config.on_sink_error, config.sink_timeout, expired)
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
        """End gracefully: captures stop, what is in flight drains. From any thread, at any time, but from no
        signal handler: see :func:`pipeline.shutdown.signals`."""
        self.outputs.hurry()
        with self._lock:
            if self._stop.is_set():
                return
            self._stop.set()
            if self._line is not None:
                self._line.restarts.hurry()
                self._line.streams.stop()
                self._start_stopper(self._line.flow)

    @property
    def stopping(self) -> bool:
        """Whether the line has been asked to end, or has ended."""
        return self._stop.is_set()

    def cancel(self) -> None:
        """End now: what is in flight is dropped, and counted. From where ``stop`` may be called; a line that
        is not iterated by then takes no frame."""
        self._cancelled = True  # before it is looked whether there is a line: what starts one looks here then
        self._stop.set()
        line = self._line
        if line is not None:
            line.flow.cancel()
            line.streams.stop()

    def on_start(self, act: Callable[[], None]) -> None:
        """Call ``act``, which may not wait, once the line runs: in the thread that iterates, or now."""
        with self._lock:
            if self._line is None:
                self._on_start.append(act)
                return
        act()

    # Streams of the running line; see pipeline.streams.

    def add_stream(self, source: str | os.PathLike[str], **options: Any) -> str:
        """Add a stream to the running line, without disturbing the others; its name.

        ``options`` are the keys of :class:`StreamConfig`. Raises ConfigError, SourceOpenError (a path that is
        not there, unless it is paused), SinkOpenError (an output that cannot take another stream),
        PipelineError where the line does not run.
        """
        return self._changes("add a stream").add(source, options)

    def remove_stream(self, name: str) -> None:
        """Take a stream off the running line, its frames emitted. The line ends with its last stream."""
        self._changes("remove a stream").remove(name)

    def pause_stream(self, name: str) -> None:
        """Close a stream's source until :meth:`resume_stream`; frames and their PTS count on then, also of a
        file, which begins again."""
        self._changes("pause a stream").pause(name)

    def resume_stream(self, name: str) -> None:
        """Open the source of a paused stream again. Raises as :meth:`change_stream` does."""
        self._changes("resume a stream").resume(name)

    def change_stream(self, name: str, /, **options: Any) -> None:
        """Change keys of a stream's :class:`StreamConfig` (None: the default); its source is opened again
        where need be. Raises as :meth:`add_stream` does."""
        self._changes("change a stream").change(name, options)

    def reload_model(self, model: str | None = None, **options: Any) -> None:
        """Open a model beside the one that runs (None: the same again), and go over to it.

        Frames that are under way are finished by the old one. ``options`` are keys of :class:`Config`: how a
        model is opened, and what is kept of its answers, such as ``conf_threshold``. Raises ConfigError,
        ModelError, ProviderError; then all stays as it is.
        """
        line, changes = self._running("reload the model"), self._changes("reload the model")
        with changes.alone():
            config = reloaded(self.config, {**({} if model is None else {"model": model}), **options})
            opened = open_first(config)
            before = line.server.current.model
            if (now := batch_limit(self.config, before)) != (asked := batch_limit(config, opened)):
                raise ConfigError(
                    f"the line takes {now} frames a run, and this asks for {asked}; start it anew"
                )
            tasks = before.family.task, opened.family.task
            if tasks[0] != tasks[1] and "classify" in tasks:
                raise ConfigError(
                    f"the line's model is for the task {tasks[0]}, and {opened.name!r} for {tasks[1]}; "
                    "start it anew"
                )
            if self.second is not None and list(opened.labels) != list(before.labels):
                raise ConfigError("classify: the objects' labels would change under it; start the line anew")
            line.server.replace(serving(config, opened), lambda: serving(config, open_first(config)))
            if line.second is not None:  # it stays where it runs, until its provider fails
                labels = line.second.current.model.labels
                line.second.reopen_by(partial(reopen_second, config, labels))
            self.config = config
        log.info("the model is now %s, %s", opened.name, opened.sha256[:12])

    @property
    def model(self) -> Model | None:
        """What looks at frames now; None until it is opened."""
        return self._line.server.current.model if self._line is not None else self._model

    @property
    def second(self) -> Model | None:
        """What looks at objects now (``classify``); None until it is opened, and where there is none."""
        if self._line is None:
            return self._second
        return self._line.second.current.model if self._line.second is not None else None

    @property
    def restarts(self) -> int:
        """Times that a model was opened afresh after a fault of its provider."""
        return self._line.restarts.made if self._line is not None else 0

    @property
    def healing(self) -> bool:
        """Whether one is being opened afresh right now."""
        return self._line is not None and self._line.restarts.healing

    @property
    def waited_for(self) -> dict[str, float]:
        """Outputs that files wait for right now, and for how many seconds."""
        waits = {output.name: output.waited() for output in self.outputs}
        return {name: seconds for name, seconds in waits.items() if seconds is not None}

    @property
    def stuck(self) -> list[str]:
        """Threads that make no progress: stage, thread and for how long."""
        return self._monitor.stuck

    @property
    def sources(self) -> Sources:
        """Of each stream, by its name, what its source means, and how it is configured."""
        return self._line.streams.sources if self._line is not None else self._sources

    def _running(self, to_do: str) -> Line:
        if self._line is None or self._stop.is_set():
            raise PipelineError(f"cannot {to_do}: the line does not run")
        return self._line

    def _changes(self, to_do: str) -> Changes:
        self._running(to_do)
        assert self.changes is not None
        return self.changes

    @property
    def flow(self) -> Flow | None:
        """The running line's threads; None before it is started."""
        return self._line.flow if self._line is not None else None

    def _files_read(self, sources: Sources) -> list[str]:
        """Files that must not be written over: local sources, models, certificates, secrets."""
        local = [path for spec, _ in sources.values() for path in local_files(spec)]
        weights = [path for model in (self.model, self.second) if model for path in model.session.files]
        trusted = [stream.tls_ca_file for _, stream in sources.values()]
        named = [path for path in (self.config.metrics_token_file, *trusted) if path is not None]
        return [*local, *weights, *named, *files_referred_to(), *self._also_read]

    def left_in_line(self) -> int:
        """Items that lie in channels now, counted there and not in the books."""
        return sum(each.depth for each in self.flow.statistics()) if self.flow is not None else 0

    def _iterate(self, limit: int) -> Iteration:
        if self.model is None or self._left:
            raise RuntimeError("iterate inside the block: with Pipeline(…) as line: …")
        if self._iteration is not None:
            raise RuntimeError("a pipeline can be iterated once; make another one")
        line = build(self.config, self.sources, self.model, self.accounts, self.outputs, self._second)
        emit = Emit(self.outputs.in_turn, self.accounts.streams, line.live)
        self._iteration = Iteration(self._run(line, emit, limit))
        return self._iteration

    def _run(self, line: Line, emit: Emit, limit: int) -> Generator[Result, None, None]:
        flow = line.flow
        timer = threading.Timer(self.config.duration or 0, self.stop)
        drained = False
        try:
            with self._lock:
                self.changes = Changes(self.config, line, self.outputs, self._sinks, self._files_read)
                self._line = line
                self._model = self._second = None  # the line has them, and lets them go for other ones
                self.accounts.begin()
                self.outputs.start(flow)
                if self._cancelled:
                    flow.cancel()
                else:
                    flow.start()
                if self._stop.is_set():  # asked before there was anything to stop
                    self.outputs.hurry()
                    line.streams.stop()
                    self._start_stopper(flow)
            flow.consumer = threading.get_ident()
            for act in self._on_start:
                act()
            if self.config.duration is not None:
                timer.start()
            with self._monitor:
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
        assert self._line is not None
        self._line.streams.give_up()
        self.accounts.end()
        for account in list(self.accounts.streams.values()):  # one may just be added to what is cancelled
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
        flow = self.flow
        failed = list(flow.errors) if flow is not None else []
        if failed:
            self.outputs.hurry()
        cancelled = (self._cancelled if flow is None else flow.cancelled) and not failed
        errors = [error for error in self.outputs.end(cancelled) if error not in failed]
        if errors:
            raise ExceptionGroup("an output could not be finished", errors)

    def _raise_if_nothing_opened(self) -> None:
        accounts = [
            account
            for account in list(self.accounts.streams.values())
            if not (account.removed or account.leaving)
        ]
        errors = [account.error for account in accounts if account.error is not None]
        if errors and len(errors) == len(accounts) and self.accounts.totals().captured == 0:
            raise ExceptionGroup("no stream could be opened", errors)

    def _release(self, flow: Flow) -> None:
        """Give the captures time to end; let the line drain without those that don't."""
        self._late = flow.abandon_feeders(STOP_GRACE_SECONDS)
