"""What each stage takes by itself, in one thread, with nothing beside it: what the bound is made of."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from pipeline.accounts import StreamAccount
from pipeline.config import Config, StreamConfig
from pipeline.decide import batch_limit, thresholds
from pipeline.frame import Frame
from pipeline.runtime.model import Model
from pipeline.sinks import Null, Outputs
from pipeline.sources import SourceSpec
from pipeline.stages.capture import Capture
from pipeline.stages.emit import Emit
from pipeline.stages.infer import Infer
from pipeline.stages.postprocess import Postprocess
from pipeline.stages.preprocess import BlobPool, Preprocess

MOST_FRAMES, MOST_SECONDS = 300, 4.0
SAMPLED, SAMPLED_BYTES, SPREAD = 40, 150_000_000, 7
"""Frames that go through the stages, how many bytes of pictures may be kept for that, and every how
many frames one is kept."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds per frame: of CPU time, in all threads that a stage has, and of wall time."""

    cpu_ms: float
    wall_ms: float


def alone(
    config: Config, sources: Sequence[tuple[SourceSpec, StreamConfig]], model: Model
) -> dict[str, Cost]:
    """The cost of each stage from capture to emit, on frames of ``sources``.

    ``model`` is open on the provider and with the threads that are of interest; with a batch, that
    many frames go through it together. What a live source is waited for is no cost of capture.
    Raises SourceError where a source cannot be read.
    """
    counts = Counter(spec.address for spec, _ in sources)
    distinct = {spec.address: (spec, stream) for spec, stream in sources}
    captured, frames = [], list[Frame]()
    for address, (spec, stream) in distinct.items():
        cost, some = _captured(spec, stream, SAMPLED_BYTES // len(distinct))
        captured.append((cost, counts[address] / len(sources)))
        frames += some
    capture = Cost(
        sum(cost.cpu_ms * share for cost, share in captured),
        sum(cost.wall_ms * share for cost, share in captured),
    )
    return {"capture": capture, **_stages(config, model, frames)}


def _captured(spec: SourceSpec, stream: StreamConfig, most_bytes: int) -> tuple[Cost, list[Frame]]:
    """What capture costs on one source, and some of its frames, spread over what was read."""
    # Neither its pace nor its end: what the stage costs, not how long a camera makes it wait.
    without = {"pace": None, "live": None, "loop": False, "max_frames": None, "reconnect": False}
    stream = stream.model_copy(update=without)
    account = StreamAccount(stream.name or spec.default_name)
    capture = Capture(spec, stream, account)
    kept: list[Frame] = []
    count, decoding = 0, 0.0
    begun, used = time.perf_counter(), time.process_time()
    with closing(capture()) as frames:
        for frame in islice(frames, MOST_FRAMES):
            if not isinstance(frame, Frame):
                continue
            if count == 0:  # the first one pays for opening
                begun, used = time.perf_counter(), time.process_time()
            else:
                decoding += frame.timings["capture"]
            count += 1
            if count % SPREAD == 1 and len(kept) < max(2, min(SAMPLED, most_bytes // frame.pixels.nbytes)):
                kept.append(frame)
            if time.perf_counter() - begun > MOST_SECONDS:
                break
        cpu, wall = time.process_time() - used, time.perf_counter() - begun
        capture.stop.set()
    if account.error is not None and not kept:
        raise account.error
    after_first = max(count - 1, 1)
    return Cost(cpu / after_first * 1000, (decoding if spec.live else wall) / after_first * 1000), kept


def _stages(config: Config, model: Model, frames: Sequence[Frame]) -> dict[str, Cost]:
    """What the stages that all streams share cost per frame."""
    pool, size = BlobPool(model.spec.dtype), batch_limit(config, model)
    stages: dict[str, Callable[[Any], list[Any]]] = {
        "preprocess": Preprocess(model.spec, pool),
        "infer": Infer(model.session.bound(size, model.spec), pool),
        "postprocess": Postprocess(model, thresholds(config, model)),
        "emit": Emit(
            Outputs([Null()]).in_turn, {frame.stream: StreamAccount(frame.stream) for frame in frames}
        ),
    }
    batches = [list(islice(cycle(frames), start, start + size)) for start in range(0, len(frames), size)]
    cpu, wall = dict.fromkeys(stages, 0.0), dict.fromkeys(stages, 0.0)
    for number, batch in enumerate([*batches[:1], *batches]):
        # All stages of a frame before the next one, as in the line: blobs are used again, and what a
        # stage reads is still in the cache.
        items: list[Any] = batch
        for name, stage in stages.items():
            begun, used = time.perf_counter(), time.process_time()
            items = stage(items)
            if number:  # the first one pays for allocations
                cpu[name] += time.process_time() - used
                wall[name] += time.perf_counter() - begun
    count = size * len(batches)
    return {name: Cost(cpu[name] / count * 1000, wall[name] / count * 1000) for name in stages}
