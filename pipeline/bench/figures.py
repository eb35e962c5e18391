"""What a line did in the windows that count, as figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from pipeline.bench.steady import Settings, Snapshot, Steady, since
from pipeline.cores import usable_cores
from pipeline.histogram import Histogram

DISTURBED = 0.1
"""Cores that others may use before a figure is called disturbed."""
FULL = 0.9
"""Share of the cores from which they count as all in use."""


def figures(seen: Steady, settings: Settings, threads: Mapping[str, int]) -> dict[str, Any]:
    """Everything about the line itself, for JSON. ``threads``: how many each stage has.

    FPS are emitted frames per second over all streams, the median of the windows that count; times are
    milliseconds, memory megabytes (10^6).
    """
    fps = statistics.median(seen.rates[-settings.windows :])
    cores = usable_cores()
    used, others = _cores_used(seen)
    return {
        "fps": fps,
        "windows": seen.rates,
        "counted": settings.windows,
        "seconds": seen.last.at - seen.first.at,
        "steady": seen.steady,
        "streams": _streams(seen),
        "latency_ms": _latency(seen.first, seen.last),
        "over_time": _over_time(seen),
        "stages": _stages(seen, threads),
        "channels": {
            name: {"capacity": capacity, "mean_depth": depth, "fill": depth / capacity}
            for name, depth in seen.depths.items()
            for capacity in (seen.capacities[name],)
        },
        "mean_batch": _mean_batch(seen),
        "cores": cores,
        "cores_used": used,
        "others_used": others,
        "cpu_ms_per_frame": used * 1000 / fps if fps else None,
        "peak_mb": seen.peak_bytes / 1e6,
        "notes": _notes(seen, settings, used, others, cores),
    }


def _stages(seen: Steady, threads: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    seconds = seen.last.at - seen.first.at
    found = {}
    for name, count in threads.items():
        recent = seen.last.stages[name].since(seen.first.stages[name])
        # Each frame of a run of several counts the whole of it.
        served = recent.sum / _mean_batch(seen) if name == "infer" else recent.sum
        found[name] = {
            "line_ms": _ms(recent.mean()),
            "line_p99_ms": _ms(recent.quantile(0.99)),
            "threads": count,
            "busy": served / seconds / count,
        }
    return found


def _streams(seen: Steady) -> dict[str, dict[str, float | None]]:
    seconds = seen.last.at - seen.first.at
    emitted = since(seen.first.emitted, seen.last.emitted)
    captured = since(seen.first.captured, seen.last.captured)
    dropped = since(seen.first.dropped, seen.last.dropped)
    return {
        name: {
            "fps": emitted[name] / seconds,
            "captured_fps": captured[name] / seconds,
            "dropped": dropped[name],
            "dropped_share": dropped[name] / max(emitted[name] + dropped[name], 1),
            "p99_latency_ms": _ms(seen.last.latency[name].since(seen.first.latency[name]).quantile(0.99)),
        }
        for name in emitted
    }


def _over_time(seen: Steady) -> list[dict[str, float | None]]:
    """Latency, memory and how long inference took in each window that counts: a machine may grow slower."""
    return [
        {
            "seconds": after.at - seen.first.at,
            "p99_latency_ms": _latency(before, after)["p99"],
            "infer_ms": _ms(after.stages["infer"].since(before.stages["infer"]).mean()),
            "peak_mb": peak / 1e6,
        }
        for before, after, peak in zip(seen.edges, seen.edges[1:], seen.peaks, strict=False)
    ]


def _latency(before: Snapshot, after: Snapshot) -> dict[str, float | None]:
    """From capture to emit, over all streams."""
    whole = Histogram()
    for name, latency in after.latency.items():
        whole.add(latency.since(before.latency[name]))
    found = {f"p{round(q * 100)}": _ms(whole.quantile(q)) for q in (0.5, 0.95, 0.99)}
    return found | {"max": _ms(whole.quantile(1.0))}


def _mean_batch(seen: Steady) -> float:
    runs = since(seen.first.batches, seen.last.batches)
    count = sum(runs.values())
    return sum(size * number for size, number in runs.items()) / count if count else 1.0


def _cores_used(seen: Steady) -> tuple[float, float | None]:
    """Cores in use by this process, and by everything else on them."""
    seconds = seen.last.at - seen.first.at
    used = seen.last.cpu_seconds - seen.first.cpu_seconds
    if seen.last.busy_seconds is None or seen.first.busy_seconds is None:
        return used / seconds, None
    return used / seconds, max(seen.last.busy_seconds - seen.first.busy_seconds - used, 0.0) / seconds


def _notes(seen: Steady, settings: Settings, used: float, others: float | None, cores: int) -> list[str]:
    """Why the figures may be worth less than they look."""
    notes = []
    if not seen.steady:
        recent = ", ".join(f"{rate:.1f}" for rate in seen.rates[-settings.windows :])
        notes.append(
            f"not steady: after {settings.window * len(seen.rates):g} s the last {settings.windows} windows "
            f"still differ by more than {settings.tolerance:.0%} ({recent} frames/s)"
        )
    if others is not None and others > DISTURBED and used + others > FULL * cores:
        notes.append(
            f"disturbed: other processes, or the host's other machines, used {others:.2f} of {cores} cores"
        )
    return notes


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
