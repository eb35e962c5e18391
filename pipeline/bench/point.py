"""One point of a benchmark: a line with one setting, measured alone, in the line and against its bound."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.app import Pipeline
from pipeline.bench.alone import Cost, alone
from pipeline.bench.bound import Bound, bounds
from pipeline.bench.steady import Settings, Steady, since, watch
from pipeline.config import Config
from pipeline.decide import batch_limit, run_concurrency
from pipeline.histogram import Histogram
from pipeline.runtime.model import Model, open_model
from pipeline.runtime.session import usable_cores
from pipeline.sinks import Null
from pipeline.summary import summarize

DISTURBED = 0.1
"""Cores that others may use before a figure is called disturbed."""
BUSY = 0.9
"""Share of the cores, or of a stage's own threads, from which it is called the bottleneck."""


def measure(
    config: Config, settings: Settings, told: Callable[[list[float]], None] | None = None
) -> dict[str, Any]:
    """Run ``config`` until its rate is steady; everything that was found, as data.

    Each stage is measured alone before and after, so that a machine that grows slower in between
    shows in both. ``told`` hears the rates of all windows so far after each. Times are milliseconds, FPS
    emitted frames per second over all streams. Raises what a Pipeline raises, and ConfigError for sources
    that end too soon.
    """
    with Pipeline(config, sinks=[Null()]) as line:
        assert line.model is not None
        workers, threads = run_concurrency(config, line.model.session.provider)
        sources = list(line.sources.values())
        bare = _on_one_thread(config, line.model, threads)
        before = alone(config, sources, bare)
        seen = watch(line, settings, told)
        after = alone(config, sources, bare)
        costs = _mean(before, after)
        figures = summarize(line)
    crew = {
        "preprocess": config.preprocess_workers,
        "infer": workers,
        "postprocess": config.postprocess_workers,
    }
    paces = [stream.pace for _, stream in sources]
    cores = usable_cores()
    limits = bounds(
        costs,
        cores=cores,
        streams=len(sources),
        workers=crew,
        source_fps=sum(pace for pace in paces if pace is not None) if None not in paces else None,
    )
    fps = statistics.median(seen.rates[-settings.windows :])
    used, others = _cores_used(seen)
    stages = _stages(costs, seen, crew, len(sources))
    for name, stage in stages.items():
        stage["alone_spread"] = abs(before[name].cpu_ms - after[name].cpu_ms) / max(costs[name].cpu_ms, 1e-9)
    return {
        "fps": fps,
        "windows": seen.rates,
        "counted": settings.windows,
        "steady": seen.steady,
        "streams": _streams(seen),
        "latency_ms": _latency(seen),
        "stages": stages,
        "channels": {
            name: {
                "capacity": seen.capacities[name],
                "mean_depth": depth,
                "fill": depth / seen.capacities[name],
            }
            for name, depth in seen.depths.items()
        },
        "bounds": [{"what": each.what, "fps": each.fps, "why": each.why} for each in limits],
        "bound_fps": limits[0].fps,
        "ratio": fps / limits[0].fps,
        "bottleneck": bottleneck(stages, used, cores, limits, fps),
        "notes": _notes(seen, settings, used, others, cores),
        "cores": cores,
        "cores_used": used,
        "others_used": others,
        "cpu_ms_per_frame": used * 1000 / fps if fps else None,
        "peak_mb": seen.peak_bytes / 1e6,
        "settings": {
            "workers": workers,
            "threads": threads,
            "batch": batch_limit(config, line.model),
            "linger_ms": config.linger_ms,
            "input": [line.model.spec.width, line.model.spec.height],
        },
        "mean_batch": _mean_batch(seen),
        "provider": figures["provider"],
        "model": figures["model"],
        "conserved": figures["conserved"],
    }


def bottleneck(
    stages: Mapping[str, Mapping[str, Any]],
    cores_used: float,
    cores: int,
    limits: Sequence[Bound],
    fps: float,
) -> dict[str, str]:
    """What keeps a line from being faster: one name, and why it is said.

    In this order: sources that deliver no more; cores that are all in use, then the stage that uses most
    of them; else the stage whose own threads are busiest.
    """
    source = next((limit for limit in limits if limit.what == "source"), None)
    if source is not None and fps >= BUSY * source.fps:
        return {"what": "source", "why": f"the sources deliver {source.fps:.1f} frames/s, and those come out"}
    in_use = f"{cores_used:.2f} of {cores} cores are in use"
    if cores_used >= BUSY * cores:
        dearest = max(stages, key=lambda name: stages[name]["alone_cpu_ms"])
        share = stages[dearest]["alone_cpu_ms"] / sum(stage["alone_cpu_ms"] for stage in stages.values())
        return {"what": "cores", "why": f"{in_use}; {dearest} takes {share:.0%} of a frame's CPU time"}
    busiest = max(stages, key=lambda name: stages[name]["busy"])
    busy = stages[busiest]["busy"]
    return {"what": busiest, "why": f"its threads are busy {busy:.0%} of the time, while {in_use}"}


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
            f"not steady: after {settings.most:g} s the last {settings.windows} windows still differ by more "
            f"than {settings.tolerance:.0%} ({recent} frames/s)"
        )
    if others is not None and others > DISTURBED and used + others > BUSY * cores:
        notes.append(
            f"disturbed: other processes, or the host's other machines, used {others:.2f} of {cores} cores"
        )
    return notes


def _on_one_thread(config: Config, model: Model, threads: int) -> Model:
    """The model as the bound wants it: threads that share a run's work take more CPU time for it."""
    if threads == 1 or model.session.provider != "cpu":
        return model
    return open_model(config.model, "cpu", config.device, 1, task=config.task, input_size=config.input_size)


def _mean(first: Mapping[str, Cost], second: Mapping[str, Cost]) -> dict[str, Cost]:
    return {
        name: Cost((cost.cpu_ms + second[name].cpu_ms) / 2, (cost.wall_ms + second[name].wall_ms) / 2)
        for name, cost in first.items()
    }


def _stages(
    costs: Mapping[str, Cost], seen: Steady, crew: Mapping[str, int], streams: int
) -> dict[str, dict[str, Any]]:
    seconds = seen.last.at - seen.first.at
    found = {}
    for name, cost in costs.items():
        recent = seen.last.stages[name].since(seen.first.stages[name])
        threads = streams if name == "capture" else crew.get(name, 1)
        # Each frame of a run of several counts the whole of it.
        served = recent.sum / _mean_batch(seen) if name == "infer" else recent.sum
        found[name] = {
            "alone_cpu_ms": cost.cpu_ms,
            "alone_ms": cost.wall_ms,
            "line_ms": _ms(recent.mean()),
            "line_p99_ms": _ms(recent.quantile(0.99)),
            "threads": threads,
            "busy": served / seconds / threads,
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
            "dropped_share": dropped[name] / captured[name] if captured[name] else 0.0,
            "p99_latency_ms": _ms(seen.last.latency[name].since(seen.first.latency[name]).quantile(0.99)),
        }
        for name in emitted
    }


def _latency(seen: Steady) -> dict[str, float | None]:
    whole = Histogram()
    for name, latency in seen.last.latency.items():
        whole.add(latency.since(seen.first.latency[name]))
    return {f"p{round(q * 100)}": _ms(whole.quantile(q)) for q in (0.5, 0.95, 0.99)}


def _mean_batch(seen: Steady) -> float:
    runs = since(seen.first.batches, seen.last.batches)
    count = sum(runs.values())
    return sum(size * number for size, number in runs.items()) / count if count else 1.0


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
