"""The books: every frame's fate and every stage's time, per stream. The line's observer.

Counting happens here and nowhere else; :mod:`pipeline.metrics`, the progress display and the
summary read these books. A frame is captured once and then either emitted or dropped once;
:meth:`Accounts.check` says whether that held.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import AccountingError, PipelineError
from pipeline.health import Health, StreamHealth
from pipeline.histogram import Histogram
from pipeline.lane import Lane
from pipeline.link import Link


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


PTS_REPAIRS = ("missing", "duplicate", "wrap", "jump")
"""What may have been wrong with a presentation time (see :mod:`pipeline.sources.timestamps`)."""


class StreamAccount:
    """The books of one stream."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.latency = Histogram()
        self.width: int | None = None
        self.height: int | None = None
        self.link = Link(name)
        self.health = StreamHealth(name)
        self.lane = Lane(name, self.latency)
        self.description = ""
        self.frame_count: int | None = None
        self.ending: str | None = None
        """One word for why the stream ended; None while it has not."""
        self.leaving = False
        """Whether it is being removed, or was; the line may have ended before that is done."""
        self.begun_at: float | None = None
        """When it was started first."""
        self.ended_at: float | None = None
        """When its source ended; None while it has not."""
        self.error: PipelineError | None = None
        self.corrupt_packets = 0
        self.damaged = 0
        """Pictures that lost or damaged data has spoilt."""
        self.pts_repaired: Counter[str] = Counter()
        """Presentation times that were made to rise, by what was wrong with them."""
        self._lock = threading.Lock()
        self._captured = 0
        self._emitted = 0
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._detections: Counter[str] = Counter()
        self._under_way: set[int] = set()
        self._idle: threading.Event | None = None
        self._last_emitted = -1
        self._emitted_at = 0.0
        self._away = 0.0
        """Seconds between an end, or a pause, and another beginning."""

    def connected(self, description: str, frame_count: int | None) -> None:
        """The source is open; ``frame_count`` where it is known beforehand."""
        self.description = description
        self.frame_count = frame_count

    def ended(self, ending: str, error: PipelineError | None = None) -> None:
        """The source has ended, in one word, and with the error that ended it."""
        self.link.ended()
        self._over(ending, error)

    def paused(self) -> None:
        """It is closed until it is resumed. One that had ended by itself keeps its ending, and the error."""
        if self.ending in (None, "stopped", "stranded"):
            self._over("paused")
        self.link.paused()

    def _over(self, ending: str, error: PipelineError | None = None) -> None:
        if self.ended_at is None:
            self.ended_at = time.monotonic()
        self.ending = ending
        self.error = error

    @property
    def up(self) -> bool:
        """Whether pictures come."""
        return self.link.up

    @property
    def removed(self) -> bool:
        """Whether it was taken off the line: its counts stay, its state is nobody's business any more."""
        return self.ending == "removed"

    @property
    def done(self) -> bool:
        """Whether it ended as it should: its file is read, or it had its ``max_frames``."""
        return self.ending == "end" and self.error is None

    @property
    def health_now(self) -> tuple[Health, ...]:
        """What holds of its pictures; empty while none come, or none are looked at."""
        return self.health.states if self.up else ()

    def begun(self, *, paused: bool = False) -> None:
        """The stream is started, perhaps once more: it counts on. Or is there, and ``paused`` until then."""
        now = time.monotonic()
        if self.ended_at is not None:
            self._away += now - max(self.ended_at, self._emitted_at)
        self.ending = self.error = self.ended_at = None
        self.leaving = False
        if self.begun_at is None:
            self.begun_at = now
        if not paused:
            self.link.connecting()

    def wait_idle(self, seconds: float) -> bool:
        """Wait until no frame of it is in flight; False where that takes longer. For one thread at a time."""
        with self._lock:
            if not self._under_way:
                return True
            self._idle = idle = threading.Event()
        try:
            return idle.wait(seconds)
        finally:
            self._idle = None

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

    def seconds(self, since: float, until: float) -> float:
        """How long it was on a line that ran ``since`` one moment ``until`` another: from its start to its
        last frame, where its source has ended. Neither pauses count nor the time for which it was removed."""
        begun = since if self.begun_at is None else max(since, self.begun_at)
        ended = until if self.ended_at is None else min(until, max(self.ended_at, self._emitted_at))
        return max(ended - begun - self._away, 0.0)

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

    def emitted(self, seq: int, labels: list[str], at: float) -> None:
        """Frame ``seq`` left finished ``at`` a moment, with detections of ``labels``."""
        with self._lock:
            self._emitted += 1
            self._emitted_at = at
            self._left(seq)
            if labels:
                self._detections.update(labels)

    def dropped(self, seq: int, stage: str, reason: str) -> None:
        """Frame ``seq`` left unfinished."""
        with self._lock:
            self._dropped[stage, reason] += 1
            self._left(seq)

    def _left(self, seq: int) -> None:
        self._under_way.discard(seq)
        if self._idle is not None and not self._under_way:
            self._idle.set()


def told(account: StreamAccount) -> dict[str, Any]:
    """A stream's books and its link's state, for JSON. Times are seconds."""
    counts, link = account.counts(), account.link.status()
    rate = account.health.fps if account.up else None
    return {
        "state": link.state,
        "for_seconds": round(link.for_seconds, 3),
        "retry_in": None if link.retry_in is None else round(link.retry_in, 3),
        "failures_in_a_row": link.failures_in_a_row,
        "lost_for": None if link.lost_for is None else round(link.lost_for, 3),
        "last_error": link.error,
        "since_picture": None if link.since_picture is None else round(link.since_picture, 3),
        "state_episodes": {
            state: {"times": held.times, "seconds": round(held.seconds, 3)}
            for state, held in link.episodes.items()
        },
        "reconnects": dict(account.link.reconnects),
        "failures": dict(account.link.failures),
        "captured": counts.captured,
        "emitted": counts.emitted,
        "dropped": {f"{stage}/{reason}": count for (stage, reason), count in sorted(counts.dropped.items())},
        "in_flight": counts.in_flight,
        "width": account.width,
        "height": account.height,
        "corrupt_packets": account.corrupt_packets,
        "damaged": account.damaged,
        "pts_repaired": dict(account.pts_repaired),
        "adaptive_every_nth": account.lane.every_nth,
        "health": list(account.health_now),
        "health_episodes": account.health.episodes,
        "fps": rate and round(rate, 3),
        "declared_fps": account.health.declared_fps,
        "ending": account.ending,
        "source": account.description,
    }


class Accounts:
    """Implements :class:`pipeline.flow.Observer` for items that have a ``.frame``."""

    def __init__(self, streams: list[str], stages: list[str]) -> None:
        self.streams = {name: StreamAccount(name) for name in streams}
        self.stages = {name: Histogram() for name in stages}
        self.batches: Counter[int] = Counter()
        self.cpu_seconds = dict.fromkeys(stages, 0.0)
        """By stage, of its own threads that have ended: see :meth:`process_cpu` for all."""
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self._process_cpu: tuple[float, float | None] = 0.0, None
        self._lock = threading.Lock()

    def add(self, name: str) -> StreamAccount:
        """The books of a stream that is added; those of one that was there before are gone on with."""
        return self.streams.setdefault(name, StreamAccount(name))

    def take_back(self, name: str) -> None:
        """A stream whose books were begun just now is not added after all."""
        del self.streams[name]

    def begin(self) -> None:
        """The line starts to run."""
        self.started_at = time.monotonic()
        self._process_cpu = time.process_time(), None

    def end(self) -> None:
        """The line has ended; FPS stop at this moment."""
        if self.finished_at is None:
            self.finished_at = time.monotonic()
            self._process_cpu = self._process_cpu[0], time.process_time()

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
        account, now = self.streams[item.frame.stream], time.monotonic()
        account.emitted(item.frame.seq, item.detections.labels, now)
        account.latency.observe(now - item.frame.captured_at)

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

    def on_line(self, name: str) -> float:
        """Seconds that a stream was on the line so far; see :meth:`StreamAccount.seconds`."""
        if self.started_at is None:
            return 0.0
        return self.streams[name].seconds(self.started_at, self.finished_at or time.monotonic())

    def process_cpu(self) -> float:
        """CPU seconds of the whole process from begin to end, or to now: those of the stages' threads, of
        sinks', and of threads that ONNX Runtime and FFmpeg have beside them."""
        if self.started_at is None:
            return 0.0
        begun, ended = self._process_cpu
        return (time.process_time() if ended is None else ended) - begun

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
        for name, account in list(self.streams.items()):  # one may just be added
            yield name, account.counts()
