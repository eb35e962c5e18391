"""Windows of a running line, until its rate is steady; what it did in them."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.app import Pipeline
from pipeline.bench.machine import busy_seconds, resident_bytes
from pipeline.errors import ConfigError
from pipeline.histogram import Histogram

K = TypeVar("K", bound=Hashable)

SAMPLE_SECONDS = 0.025


@dataclass(frozen=True, slots=True)
class Settings:
    """How long to measure: after ``warm_up`` seconds, windows of ``window`` seconds each, until the
    last ``windows`` of them lie within ``tolerance`` of each other or ``most`` seconds are over.
    """

    warm_up: float = 2.0
    window: float = 3.0
    windows: int = 3
    tolerance: float = 0.05
    most: float = 60.0

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if not self.warm_up >= 0:
            raise ConfigError(f"--warm-up: expected 0 s or more, got {self.warm_up:g}")
        for name, value in (("window", self.window), ("most", self.most)):
            if not value > 0:
                raise ConfigError(f"--{name}: expected more than 0 s, got {value:g}")


@dataclass(slots=True)
class Snapshot:
    """The books at one moment."""

    at: float
    cpu_seconds: float
    busy_seconds: float | None
    """Of the cores that this process may use, by anybody; None where the system does not tell."""
    emitted: dict[str, int]
    captured: dict[str, int]
    dropped: dict[str, int]
    """Without the frames that are left out on purpose (every_nth)."""
    latency: dict[str, Histogram]
    stages: dict[str, Histogram]
    batches: dict[int, int]


@dataclass(slots=True)
class Steady:
    """What was seen between ``first`` and ``last``, the outer edges of the windows that count."""

    first: Snapshot
    last: Snapshot
    rates: list[float]
    """Emitted frames/s of every window since the warm-up."""
    steady: bool
    depths: dict[str, float]
    """Mean number of items in each channel."""
    capacities: dict[str, int]
    peak_bytes: int
    """Resident memory of the process, the most that was seen."""
    edges: list[Snapshot]
    """The books at the beginning of the windows that count, and at the end of each."""
    peaks: list[int]
    """The most resident memory in each of those windows."""


@dataclass(slots=True)
class _Samples:
    count: int = 0
    depths: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    capacities: dict[str, int] = field(default_factory=dict)
    peak_bytes: int = 0


def watch(line: Pipeline, settings: Settings, told: Callable[[list[float]], None] | None = None) -> Steady:
    """Run an entered ``line`` until its rate is steady, then stop it. ``told`` hears of each window.

    Raises what the line raises, and ConfigError where the sources end before three windows are over.
    """
    found: list[Steady] = []
    ended = threading.Event()
    failures: list[Exception] = []

    def look() -> None:
        try:
            seen = _watch(line, settings, ended, told)
            if seen is not None:
                found.append(seen)
        except Exception as error:
            failures.append(error)
        finally:
            line.stop()

    watcher = threading.Thread(target=look, name="watcher")
    watcher.start()
    try:
        line.run()
    finally:
        ended.set()
        watcher.join()
    if failures:
        raise failures[0]
    if not found:
        raise ConfigError(
            f"the sources ended before {settings.windows} windows of {settings.window:g} s were over; give "
            "longer ones, or loop them"
        )
    return found[0]


def _watch(
    line: Pipeline,
    settings: Settings,
    ended: threading.Event,
    told: Callable[[list[float]], None] | None,
) -> Steady | None:
    """The windows that count; None where the line ended before there were enough."""
    while not line.accounts.totals().emitted:  # opening sources and the first run are no part of it
        if ended.wait(SAMPLE_SECONDS):
            return None
    if ended.wait(settings.warm_up):
        return None
    edges, rates = [_snapshot(line)], list[float]()
    samples = [_Samples()]
    limit = edges[0].at + settings.most
    while True:
        samples.append(_Samples())
        if _sample(line, samples[-1], edges[-1].at + settings.window, ended):
            return None
        edges.append(_snapshot(line))
        rates.append(_rate(edges[-2], edges[-1]))
        if told is not None:
            told(rates)
        recent = rates[-settings.windows :]
        steady = len(recent) == settings.windows and _spread(recent) <= settings.tolerance
        if steady or (len(recent) == settings.windows and edges[-1].at + settings.window > limit):
            counted = samples[-settings.windows :]
            return Steady(
                first=edges[-settings.windows - 1],
                last=edges[-1],
                rates=rates,
                steady=steady,
                depths={
                    name: sum(each.depths[name] for each in counted) / max(sum(e.count for e in counted), 1)
                    for name in counted[-1].capacities
                },
                capacities=counted[-1].capacities,
                peak_bytes=max(each.peak_bytes for each in samples),
                edges=edges[-settings.windows - 1 :],
                peaks=[each.peak_bytes for each in counted],
            )


def _spread(rates: list[float]) -> float:
    middle = statistics.median(rates)
    return (max(rates) - min(rates)) / middle if middle else float("inf")


def _rate(before: Snapshot, after: Snapshot) -> float:
    return (sum(after.emitted.values()) - sum(before.emitted.values())) / (after.at - before.at)


def _sample(line: Pipeline, samples: _Samples, until: float, ended: threading.Event) -> bool:
    """Look at the channels now and then until a moment comes; whether the line ended before."""
    while (left := until - time.monotonic()) > 0:
        if ended.wait(min(left, SAMPLE_SECONDS)):
            return True
        if line.flow is not None:
            samples.count += 1
            for channel in line.flow.statistics():
                samples.depths[channel.name] += channel.depth
                samples.capacities[channel.name] = channel.capacity
        samples.peak_bytes = max(samples.peak_bytes, resident_bytes())
    return False


def _snapshot(line: Pipeline) -> Snapshot:
    accounts = line.accounts
    counts = {name: account.counts() for name, account in accounts.streams.items()}
    return Snapshot(
        at=time.monotonic(),
        cpu_seconds=time.process_time(),
        busy_seconds=busy_seconds(),
        emitted={name: each.emitted for name, each in counts.items()},
        captured={name: each.captured for name, each in counts.items()},
        dropped={
            name: each.dropped_total - each.dropped.get(("capture", "every_nth"), 0)
            for name, each in counts.items()
        },
        latency={name: account.latency.copy() for name, account in accounts.streams.items()},
        stages={name: histogram.copy() for name, histogram in accounts.stages.items()},
        batches=dict(accounts.batches),
    )


def since(before: Mapping[K, int], after: Mapping[K, int]) -> dict[K, int]:
    """The differences of two snapshots' counts."""
    return {name: value - before.get(name, 0) for name, value in after.items()}
