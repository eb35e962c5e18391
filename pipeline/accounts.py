"""The books: every frame's fate and every stage's time, per stream. The line's observer.

Counting happens here and nowhere else; :mod:`pipeline.metrics`, the progress display and the
summary read these books. A frame is captured once and then either emitted or dropped once;
:meth:`Accounts.check` says whether that held.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.errors import AccountingError, PipelineError

BUCKETS = (
    *(mantissa * 10.0**exponent for exponent in range(-4, 1) for mantissa in (1, 2.5, 5)),
    10.0,
)
"""Upper bounds in seconds of the exported histograms: 0.1 ms to 10 s."""

_FINE = 32


def _fine_bounds() -> list[float]:
    """Each exported bucket cut into equal ratios, so that quantiles are good to 3 %."""
    bounds = [BUCKETS[0] * 10 ** (-2 + 2 * step / (2 * _FINE)) for step in range(2 * _FINE)]
    for low, high in pairwise(BUCKETS):
        bounds += [low * (high / low) ** (step / _FINE) for step in range(_FINE)]
    return [*bounds, BUCKETS[-1]]


_BOUNDS = _fine_bounds()
_EXPORTED = [bisect_left(_BOUNDS, bound * (1 - 1e-9)) for bound in BUCKETS]


class Histogram:
    """Durations in seconds in a fixed number of buckets: flat memory, cheap to add to, thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(_BOUNDS) + 1)
        self.count = 0
        self.sum = 0.0
        self._max = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Add a duration, ``times`` over."""
        index = bisect_left(_BOUNDS, seconds)
        with self._lock:
            self._counts[index] += times
            self.count += times
            self.sum += seconds * times
            if seconds > self._max:
                self._max = seconds

    def add(self, other: Histogram) -> None:
        """Add all of another one's observations."""
        with other._lock:
            counts, count, total, largest = list(other._counts), other.count, other.sum, other._max
        with self._lock:
            self._counts = [mine + theirs for mine, theirs in zip(self._counts, counts, strict=True)]
            self.count += count
            self.sum += total
            self._max = max(self._max, largest)

    def quantile(self, q: float) -> float | None:
        """The duration that a share ``q`` (0..1) of observations does not exceed; None without any.

        The nearest-rank quantile, rounded up to its fine bucket's upper bound (at most 3 %
        in the exported range) and never above the largest value seen.
        """
        with self._lock:
            if not self.count:
                return None
            rank = max(1, math.ceil(q * self.count))
            seen = 0
            for index, count in enumerate(self._counts):
                seen += count
                if seen >= rank:
                    return min(_BOUNDS[index], self._max) if index < len(_BOUNDS) else self._max
        raise AssertionError("counts and count disagree")

    def buckets(self) -> tuple[list[tuple[float, int]], int, float]:
        """Cumulative counts per bound of ``BUCKETS``, the count and the sum, from one moment."""
        with self._lock:
            counts, count, total = list(self._counts), self.count, self.sum
        cumulative, seen, start = [], 0, 0
        for bound, index in zip(BUCKETS, _EXPORTED, strict=True):
            seen += sum(counts[start : index + 1])
            start = index + 1
            cumulative.append((bound, seen))
        return cumulative, count, total


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """A stream's books at one moment; ``dropped`` by (stage, reason)."""

    captured: int
    emitted: int
    dropped: dict[tuple[str, str], int]
    in_flight: int = 0
    """Frames that are under way, told apart by their numbers: no difference of the other three."""

    @property
    def unaccounted(self) -> int:
        """What captured = emitted + dropped + in flight is out by: 0 unless a frame was counted twice."""
        return self.captured - self.emitted - self.dropped_total - self.in_flight

    @property
    def dropped_total(self) -> int:
        """Over all stages and reasons."""
        return sum(self.dropped.values())


class StreamAccount:
    """The books of one stream."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.latency = Histogram()
        self.width: int | None = None
        self.height: int | None = None
        self.up = False
        self.description = ""
        self.frame_count: int | None = None
        self.ending: str | None = None
        """One word for why the stream ended; None while it has not."""
        self.error: PipelineError | None = None
        self.corrupt_packets = 0
        self._lock = threading.Lock()
        self._captured = 0
        self._emitted = 0
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._detections: Counter[str] = Counter()
        self._under_way: set[int] = set()
        self._last_emitted = -1

    def connected(self, description: str, frame_count: int | None) -> None:
        """The source is open; ``frame_count`` where it is known beforehand."""
        self.description = description
        self.frame_count = frame_count
        self.up = True

    def ended(self, ending: str, error: PipelineError | None = None) -> None:
        """The source has ended, in one word, and with the error that ended it."""
        self.up = False
        self.ending = ending
        self.error = error

    def counts(self) -> StreamCounts:
        """A consistent snapshot."""
        with self._lock:
            return StreamCounts(self._captured, self._emitted, dict(self._dropped), len(self._under_way))

    def under_way(self) -> set[int]:
        """The numbers of the frames in flight."""
        with self._lock:
            return set(self._under_way)

    def detections(self) -> dict[str, int]:
        """Detections emitted so far, by label."""
        with self._lock:
            return dict(self._detections)

    def dropped_before(self, seq: int) -> int:
        """Frames that went missing between the last emitted one and ``seq``. For the emitting thread."""
        missing = seq - self._last_emitted - 1
        self._last_emitted = seq
        return missing

    def captured(self, seq: int, width: int, height: int) -> None:
        """Frame ``seq`` entered."""
        with self._lock:
            self._captured += 1
            self._under_way.add(seq)
            if width:
                self.width, self.height = width, height

    def emitted(self, seq: int, labels: list[str]) -> None:
        """Frame ``seq`` left finished, with detections of ``labels``."""
        with self._lock:
            self._emitted += 1
            self._under_way.discard(seq)
            if labels:
                self._detections.update(labels)

    def dropped(self, seq: int, stage: str, reason: str) -> None:
        """Frame ``seq`` left unfinished."""
        with self._lock:
            self._dropped[stage, reason] += 1
            self._under_way.discard(seq)


class Accounts:
    """Implements :class:`pipeline.flow.Observer` for items that have a ``.frame``."""

    def __init__(self, streams: list[str], stages: list[str]) -> None:
        self.streams = {name: StreamAccount(name) for name in streams}
        self.stages = {name: Histogram() for name in stages}
        self.batches: Counter[int] = Counter()
        self.cpu_seconds = dict.fromkeys(stages, 0.0)
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self._lock = threading.Lock()

    def begin(self) -> None:
        """The line starts to run."""
        self.started_at = time.monotonic()

    def end(self) -> None:
        """The line has ended; FPS stop at this moment."""
        if self.finished_at is None:
            self.finished_at = time.monotonic()

    # Observer ---------------------------------------------------------------------------------

    def fed(self, stage: str, item: Any) -> None:
        """A frame was captured; how long its video decode took stands in its timings."""
        frame = item.frame
        self.streams[frame.stream].captured(frame.seq, frame.width, frame.height)
        seconds = frame.timings.get(stage)
        if seconds is not None:
            self.stages[stage].observe(seconds)

    def served(self, stage: str, items: list[Any], seconds: float) -> None:
        """A stage took items together: each has its share, but of a run the whole, which each waited."""
        if stage != "infer":
            seconds /= len(items)
        for item in items:
            item.frame.timings[stage] = seconds
        self.stages[stage].observe(seconds, len(items))
        if stage == "infer":
            with self._lock:
                self.batches[len(items)] += 1

    def dropped(self, stage: str, item: Any, reason: str) -> None:
        """A frame left unfinished."""
        frame = item.frame
        self.streams[frame.stream].dropped(frame.seq, stage, reason)

    def emitted(self, stage: str, item: Any) -> None:
        """A frame left finished."""
        account = self.streams[item.frame.stream]
        account.emitted(item.frame.seq, item.detections.labels)
        account.latency.observe(time.monotonic() - item.frame.captured_at)

    def retired(self, stage: str, cpu_seconds: float) -> None:
        """A stage's thread ended."""
        with self._lock:
            self.cpu_seconds[stage] += cpu_seconds

    # Reading ----------------------------------------------------------------------------------

    def totals(self) -> StreamCounts:
        """The sum over all streams."""
        captured, emitted, in_flight, dropped = 0, 0, 0, Counter[tuple[str, str]]()
        for _, counts in self._counts():
            captured += counts.captured
            emitted += counts.emitted
            in_flight += counts.in_flight
            dropped.update(counts.dropped)
        return StreamCounts(captured, emitted, dict(dropped), in_flight)

    def elapsed(self) -> float:
        """Seconds from begin to end, or to now."""
        if self.started_at is None:
            return 0.0
        return (self.finished_at or time.monotonic()) - self.started_at

    def fps(self) -> float:
        """Emitted frames per second, over all streams and the whole run."""
        elapsed = self.elapsed()
        return self.totals().emitted / elapsed if elapsed > 0 else 0.0

    def violations(self, left_in_line: int) -> list[str]:
        """What is wrong with the books once the line has ended; empty when every frame is accounted for.

        ``left_in_line`` is how many items still lie in channels: an independent count of what
        is in flight.
        """
        found = []
        for name, counts in self._counts():
            if counts.unaccounted:
                found.append(
                    f"stream {name!r}: captured {counts.captured} ≠ emitted {counts.emitted} + dropped "
                    f"{counts.dropped_total} + in flight {counts.in_flight}: frames were counted twice"
                )
            if counts.in_flight:
                lost = sorted(self.streams[name].under_way())[:5]
                found.append(
                    f"stream {name!r}: {counts.in_flight} frames never left the line, such as {lost}"
                )
        if left_in_line:
            found.append(f"{left_in_line} frames were left in channels")
        return found

    def check(self, left_in_line: int) -> None:
        """Raise AccountingError unless conservation holds at the end of the line."""
        found = self.violations(left_in_line)
        if found:
            raise AccountingError("frames were not conserved (please report this): " + "; ".join(found))

    def _counts(self) -> Iterator[tuple[str, StreamCounts]]:
        for name, account in self.streams.items():
            yield name, account.counts()
