"""The page to read first: how a line is put together. How one is run and ended: :mod:`pipeline.app`.

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
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

from pipeline.accounts import Accounts
from pipeline.adaptive import Adaptive
from pipeline.config import Config, StreamConfig
from pipeline.decide import (
    LEAST_CAPACITY,
    MOST_CAPACITY,
    Depths,
    batch_limit,
    class_ids,
    may_be_live,
    run_concurrency,
    shows_pictures,
    thresholds,
)
from pipeline.errors import ModelError
from pipeline.flow import Bypass, Channel, Flow, Windowed
from pipeline.freshness import too_old
from pipeline.healing import Restarts
from pipeline.runtime.model import Model, open_model
from pipeline.serving import SecondServer, Server, Serving
from pipeline.sinks import Outputs
from pipeline.sources import SourceSpec
from pipeline.stages.classify import Classify
from pipeline.stages.match import Match, Matched
from pipeline.streams import Streams

STAGES = ("capture", "preprocess", "infer", "postprocess", "emit")
SECOND = ("match", "classify")
"""The stages between postprocess and emit, where a second model is asked for."""
WINDOW, LIVE_WINDOW = 8, 2
"""Frames of one stream under way beside a full batch, with a second model: as many as keep each stage busy;
of a live stream fewer, because what waits grows old."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line that has been built: threads, streams, what serves them, and the channel of its results."""

    flow: Flow
    streams: Streams
    server: Server
    second: SecondServer | None
    """What serves for the second model, where there is one."""
    restarts: Restarts
    results: Channel[Any]
    live: Callable[[str], bool]
    """Whether a stream's newest frames win."""


def build(
    config: Config,
    sources: Mapping[str, tuple[SourceSpec, StreamConfig]],
    model: Model,
    accounts: Accounts,
    outputs: Outputs,
    second: Model | None = None,
) -> Line:
    """The line of a settled ``config``, to be started; files go no faster than ``outputs`` have room."""
    flow = Flow(accounts, too_old(config.max_age_ms))
    channel = partial(flow.channel, capacity=config.channel_capacity or LEAST_CAPACITY)
    batch = batch_limit(config, model)
    # What one stream has waiting for the second model must not fill the channels that all share.
    window, live_window = (WINDOW + batch, LIVE_WINDOW + batch) if second is not None else (None, None)
    depths = Depths(flow, config.channel_capacity, model.spec, live_window)
    flow.live = any(may_be_live(*source) for source in sources.values())
    # Where no frame can be too old, the cheap stages take all that is ready in one go.
    stage = partial(flow.stage, lane=attrgetter("frame.stream"))
    cheap = partial(stage, limit=MOST_CAPACITY, limit_live=1)

    frames = flow.merge("capture")
    firsts: dict[str, Channel[Any]] = {}
    if window is not None:
        flow.observer = Windowed(accounts, "capture", attrgetter("frame.stream"), firsts)

    def first(name: str) -> Channel[Any]:
        firsts[name] = channel(f"frames:{name}", "capture", merge=frames, window=window)
        return firsts[name]

    streams = Streams(flow, frames, accounts, depths, first, outputs)
    streams.on_left(lambda name: firsts.pop(name, None))
    if config.target_age_ms is not None:
        adaptive = Adaptive(config.target_age_ms / 1000)
        streams.on_added(lambda name: adaptive.add(accounts.add(name).lane))
        streams.on_removed(lambda name: adaptive.remove(accounts.add(name).lane))
    for name, (spec, stream) in sources.items():
        streams.add(name, spec, stream)

    restarts = Restarts(config.restarts, within=60 * config.restart_minutes)
    flow.on_cancel(restarts.give_up)
    server = Server(serving(config, model), lambda: serving(config, open_first(config)), restarts)

    blobs = channel("blobs", "preprocess")
    # What waits behind the first channel grows old where no fresher frame can replace it: a live one is taken
    # when inference asks (YOLOv8n at 4 x the bound: p99 age 440 -> 236 ms). A batch gathers while one runs.
    asked = blobs if batch == 1 else None
    preparing = [server.preprocess(number) for number in range(config.preprocess_workers)]
    cheap("preprocess", preparing, frames, blobs, demand=asked)
    raw = channel("outputs", "infer")
    linger = config.linger_ms / 1000
    inferring = [server.infer(number) for number in range(len(server.current.infer))]
    stage("infer", inferring, blobs, raw, limit=batch, linger=linger, most=MOST_CAPACITY)
    results = channel("results", "postprocess")
    finishing = [server.postprocess] * config.postprocess_workers
    cheap("postprocess", finishing, raw, results)
    asking = None
    if second is not None and window is not None:
        asking = SecondServer(
            Classify(second), partial(reopen_second, config, second.labels), restarts, "the second model"
        )
        results = _add_second(flow, config, streams, model, asking, results, window)
    return Line(
        flow, streams, server, asking, restarts, results, lambda name: firsts[name].policy == "drop_oldest"
    )


def serving(config: Config, model: Model) -> Serving:
    """What the stages need of ``model``. Raises ConfigError where it cannot be run as configured."""
    workers, _ = run_concurrency(config, model.session.provider)
    return Serving(
        model,
        thresholds(config, model),
        preparing=config.preprocess_workers,
        inferring=workers,
        batch=batch_limit(config, model),
        keep=shows_pictures(config),
    )


def open_first(config: Config) -> Model:
    """Open the model that looks at frames. Raises ModelError, ProviderError, ConfigError."""
    runs, threads = run_concurrency(config, config.provider)
    return open_model(
        config.model,
        config.provider,
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


def open_second(config: Config) -> Model:
    """Open the model that looks at objects. Raises as :func:`open_first` does."""
    assert config.classify is not None
    runs, threads = run_concurrency(config, config.provider)
    try:
        return open_model(
            config.classify,
            config.provider,
            config.device[0],
            threads,
            task="classify",
            options=config.provider_options,
            rewrite=config.rewrite,
            runs=runs,
        )
    except ModelError as error:
        raise ModelError(f"classify: {error}") from None


def reopen_second(config: Config, labels: Sequence[str]) -> Classify:
    """The second model opened afresh. Raises ModelError too where its file has become another model's: the
    answers that are kept, which are numbers, would mean something else."""
    second = open_second(config)
    if list(second.labels) != list(labels):
        raise ModelError(f"classify: model {second.name!r} has other labels now; start the line anew")
    return Classify(second)


def _add_second(
    flow: Flow,
    config: Config,
    streams: Streams,
    model: Model,
    second: SecondServer,
    results: Channel[Any],
    window: int,
) -> Channel[Any]:
    """The stages of a second model; what comes out of them."""
    # A turn of each stream: none waits for more than one frame of another.
    objects = flow.merge("classify", one_each=True)
    lane = partial(flow.channel, stage="classify", capacity=window, merge=objects, fixed=True)
    lanes: dict[str, Channel[Any]] = {}

    def add_lane(name: str) -> None:
        if name not in lanes:
            lanes[name] = lane(f"objects:{name}")

    def close_lane(name: str) -> None:
        if (left := lanes.pop(name, None)) is not None:
            left.close()

    streams.on_added(add_lane)
    streams.on_left(close_lane)
    classified = flow.channel("classified", "classify", config.channel_capacity or LEAST_CAPACITY)
    bypass = Bypass(attrgetter("frame.stream"), lambda item: isinstance(item, Matched), lanes, classified)
    looked_at = class_ids(model, config.classify_on, "classify_on")
    match = Match(second.current.model.labels, looked_at, config.classify_every)
    streams.on_removed(match.forget)
    flow.stage("match", [match], results, bypass.entrance, limit=MOST_CAPACITY, limit_live=1)
    # Nothing for a frame behind another, a run of the model for one with objects: others never wait for that.
    flow.stage("classify", [second], objects, bypass.exit, limit=MOST_CAPACITY, varies=True)
    return classified
