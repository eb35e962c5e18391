"""What a config leaves open, decided: names, capacities, concurrency, batch and thresholds."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from pipeline.config import Config, StreamConfig
from pipeline.cores import usable_cores
from pipeline.errors import ConfigError
from pipeline.flow import Channel, Flow
from pipeline.runtime.model import Model
from pipeline.runtime.session import concurrency
from pipeline.sources import SourceSpec, names_recording, parse_source
from pipeline.stages.postprocess import Thresholds, class_ids_of, words_of
from pipeline.vision.letterbox import InputSpec
from pipeline.wording import nearest

LEAST_CAPACITY, MOST_CAPACITY = 2, 64
MOST_LISTED = 20
CHANNEL_BYTES, CHANNEL_BYTES_ALONE = 8_000_000, 32_000_000
"""That frames and blobs may fill: for each of several streams, and for one."""


class Depths:
    """Policy of the first channels and capacity of all, once it is known what the sources deliver.

    Small capacities keep live frames fresh and memory low. But with pictures so small that a stage
    takes microseconds, waking the next thread for each costs more than the work: then a
    channel holds as many as fit in 8 MB, 64 at most (64x48 pictures, a model that does nothing, two
    cores: 5,050 frames/s instead of 2,900). One stream by itself has four times the room (720p and NanoDet-g:
    8 instead of 2 make 2 % more frames/s). And where there are several streams whose pictures are so large
    that two do not fit, each decoder works ahead of inference by one: two more fill nothing but memory (a
    further 1080p stream: 33 MB instead of 42, at the same frames/s).
    """

    def __init__(
        self, flow: Flow, asked: int | None, spec: InputSpec, live_window: int | None = None
    ) -> None:
        """``asked``: a capacity that was asked for (None: it is chosen). ``live_window``: of a stream that
        turns out to be live (None: no window)."""
        self._live_window = live_window
        self._flow = flow
        self._asked = asked
        self._blob_bytes = int(np.prod(spec.blob_shape)) * spec.dtype.itemsize
        self._capacity = LEAST_CAPACITY
        self._known: dict[Channel[Any], tuple[bool, int] | None] = {}
        """By the first channel of each stream that is there: whether it is live, and how many bytes a frame
        of it takes with its blob; None before its first frame."""
        self._lock = threading.Lock()

    def expect(self, first: Channel[Any]) -> None:
        """A stream begins, whose channel is ``first``."""
        with self._lock:
            self._known[first] = None

    def forget(self, first: Channel[Any]) -> None:
        """No further frame of it comes."""
        with self._lock:
            self._known.pop(first, None)
            if self._known:  # of a line without streams nothing is to be said
                self._fit()

    def opened(self, first: Channel[Any], live: bool, frame_bytes: int) -> None:
        """A stream has its first frame, of so many bytes; ``first`` is still empty."""
        first.policy = "drop_oldest" if live else "block"
        if live and self._live_window is not None:
            first.narrow(self._live_window)
        with self._lock:
            self._known[first] = live, frame_bytes + self._blob_bytes
            self._fit()

    def _fit(self) -> None:
        """Smaller at once for whatever comes; larger when it is known of all streams."""
        known = {first: each for first, each in self._known.items() if each is not None}
        live = any(live for live, _ in known.values())
        room = CHANNEL_BYTES if len(self._known) > 1 else CHANNEL_BYTES_ALONE
        fits = {
            first: LEAST_CAPACITY if is_live else room // size for first, (is_live, size) in known.items()
        }
        capacity = max(LEAST_CAPACITY, min([MOST_CAPACITY, *fits.values()]))
        if len(known) < len(self._known):
            live, capacity = live or self._flow.live, min(capacity, self._capacity)
        self._flow.live = live
        if self._asked is not None:
            return
        if capacity != self._capacity:
            self._capacity = capacity
            self._flow.resize(capacity)
        for first, fit in fits.items():
            first.resize(1 if fit < LEAST_CAPACITY and len(self._known) > 1 else capacity)


def may_be_live(spec: SourceSpec, stream: StreamConfig) -> bool:
    """Whether a source may turn out to be live; HTTP tells only when it is opened."""
    return stream.asked_live(spec.live) is not False


def name_streams(
    streams: Sequence[StreamConfig],
    taken: Collection[str] = (),
    isolate: bool = False,
    *,
    may_be_missing: bool = False,
) -> dict[str, tuple[SourceSpec, StreamConfig]]:
    """Sources by stream name: the given one, else the source's own, made unique with -2, -3, …

    ``taken`` are the names of further streams that there are, ``isolate`` is for those that leave it open.
    Raises ConfigError, SourceOpenError (a path that is not there, unless it
    ``may_be_missing`` or the stream is paused).
    """
    named: dict[str, tuple[SourceSpec, StreamConfig]] = {}
    given = {stream.name for stream in streams}
    for stream in streams:
        spec = parse_source(stream.source, may_be_missing=may_be_missing or stream.paused)
        name, number = stream.name or spec.default_name, 1
        while stream.name is None and (name in named or name in given or name in taken):
            number += 1
            name = f"{spec.default_name}-{number}"
        named[name] = (spec, filled_in(stream, spec, len(streams) + len(taken), isolate))
    return named


def filled_in(stream: StreamConfig, spec: SourceSpec, count: int, isolate: bool) -> StreamConfig:
    """One of ``count`` streams with what it leaves open."""
    stream = _sharing(stream, spec, count)
    return stream if stream.isolate is not None else stream.model_copy(update={"isolate": isolate})


def _sharing(stream: StreamConfig, spec: SourceSpec, count: int) -> StreamConfig:
    """The stream with its share of the cores for video decode, where ``count`` of them decode; a live one has
    no frame threads, and takes few anyhow.

    FFmpeg would give each as many threads as there are cores, and a frame thread holds several pictures:
    of 1080p H.264 a stream takes 42 MB on two cores, and 27 with one thread.
    """
    if stream.decode_threads is not None or count == 1 or spec.live:
        return stream
    return stream.model_copy(update={"decode_threads": max(1, usable_cores() // count)})


def cameras(config: Config) -> int | None:
    """How many streams there are; None where not all of them are live, as far as can be told beforehand."""
    for stream in config.streams:
        spec = parse_source(stream.source, may_be_missing=True)
        live = stream.asked_live(spec.live)
        if not (live or (live is None and not (stream.loop or names_recording(spec.address)))):
            return None
    return len(config.streams)


def run_concurrency(config: Config, provider: str) -> tuple[int, int]:
    """Concurrent inference runs × threads each, for the machine, the provider and the streams."""
    if provider in ("cpu", "auto", "xnnpack"):
        asked = config.infer_workers, config.infer_threads
        return concurrency(usable_cores(), *asked, cameras(config) if config.batch in (None, 1) else None)
    # Two runs on a device overlap one's copies with the other's work there.
    workers = config.infer_workers or 2 * len(config.device)
    if workers < len(config.device):
        raise ConfigError(
            f"infer_workers: {workers} cannot keep {len(config.device)} devices at work; give one to each"
        )
    return workers, config.infer_threads or 1


def settled(config: Config, model: Model) -> Config:
    """``config`` with the number of inference workers that a line begins with on ``model``, which stays: each
    has its thread, also where a model that is opened later lands on another provider. Raises ConfigError."""
    workers, _ = run_concurrency(config, model.session.provider)
    return config.model_copy(update={"infer_workers": workers})


def batch_limit(config: Config, model: Model) -> int:
    """Frames per run. Raises ConfigError where the model cannot take that many."""
    if config.batch is None:
        return model.max_batch or 1
    if model.max_batch is not None and config.batch > model.max_batch:
        raise ConfigError(
            f"batch: {config.batch} frames were asked for, but model {model.name!r} takes exactly "
            f"{model.max_batch} a run; export it with a dynamic batch axis"
        )
    return config.batch


def thresholds(config: Config, model: Model) -> Thresholds:
    """The configured ones, else the model's. Raises ConfigError for a class that the model lacks."""
    return Thresholds(
        conf=model.conf_threshold if config.conf_threshold is None else config.conf_threshold,
        iou=model.iou_threshold if config.iou_threshold is None else config.iou_threshold,
        max_detections=config.max_detections,
        class_ids=class_ids(model, config.classes, "classes"),
    )


def class_ids(model: Model, wanted: Sequence[str] | None, key: str) -> tuple[int, ...] | None:
    """Indices of labels that a config's ``key`` names. Raises ConfigError for one that the model lacks."""
    try:
        return class_ids_of(model.labels, wanted)
    except KeyError as error:
        raise ConfigError(f"{key}: {no_class(model, error.args[0])}") from None


def no_class(model: Model, label: str) -> str:
    """The error that a model has no class ``label``, with the nearest that it has, and the first of all."""
    has = model.labels
    first = [words_of(each)[0] for each in has[:MOST_LISTED]]
    listed = ", ".join(first) + (f", … ({len(has)} in all)" if len(has) > MOST_LISTED else "")
    near = nearest(label.casefold(), [word for each in has for word in words_of(each)])
    return f"model {model.name!r} has no class {label!r}; did you mean {near!r}? It has: {listed}"


def shows_pictures(config: Config) -> bool:
    """Whether something behind inference looks at the pictures themselves: a sink, a second model."""
    return bool(config.video or config.pictures or config.display or config.classify)
