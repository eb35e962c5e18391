"""One point of a benchmark: a line with one setting, in the line alone or against what bounds it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipeline.app import Pipeline
from pipeline.bench.alone import Cost, alone
from pipeline.bench.bound import Bound, bounds
from pipeline.bench.figures import FULL, figures
from pipeline.bench.steady import Settings, watch
from pipeline.config import Config
from pipeline.decide import run_concurrency
from pipeline.errors import ConfigError
from pipeline.runtime.model import Model, open_model
from pipeline.sinks import Null
from pipeline.summary import summarize
from pipeline.vision.letterbox import InputSpec

Told = Callable[[list[float]], None]

IDLE = 0.5
"""Share of the time that a stage's threads are busy, below which it keeps nobody waiting."""
OVER = 1.03
"""Ratio to the bound above which one of the two is wrong, not only imprecise."""
WASTED = 0.2
"""Share of a model's input that has to be avoidable padding to be worth a word."""
STRIDE = 32
"""What the sides of nearly every detector's input are multiples of."""


def trial(config: Config, settings: Settings, told: Told | None = None) -> dict[str, Any]:
    """Run ``config`` until its rate is steady; what the line did, as data (see :func:`figures`).

    ``told`` hears the rates of all windows so far after each. Raises what a Pipeline raises, and
    ConfigError for sources that end too soon.
    """
    with Pipeline(config, sinks=[Null()]) as line:
        seen = watch(line, settings, told)
        return {**figures(seen, settings, _crew(line)), **_about(line)}


def measure(config: Config, settings: Settings, told: Told | None = None) -> dict[str, Any]:
    """As :func:`trial`, and each stage alone, the bound and how close the line comes to it.

    Each stage is measured alone before and after, so that a machine that grows slower in between
    shows in both.
    """
    with Pipeline(config, sinks=[Null()]) as line:
        sources = list(line.sources.values())
        bare = _on_one_thread(line)
        before = alone(line.config, sources, bare)
        seen = watch(line, settings, told)
        after = alone(line.config, sources, bare)
        crew = _crew(line)
        found = {**figures(seen, settings, crew), **_about(line)}
    if not found["fps"]:
        raise ConfigError(
            f"no frame came out in most of the windows of {settings.window:g} s; give longer ones (--window)"
        )
    costs = _mean(before, after)
    for name, stage in found["stages"].items():
        spread = abs(before[name].cpu_ms - after[name].cpu_ms) / max(costs[name].cpu_ms, 1e-9)
        stage |= {
            "alone_cpu_ms": costs[name].cpu_ms,
            "alone_ms": costs[name].wall_ms,
            "alone_spread": spread,
        }
    paces = [stream.pace for _, stream in sources]
    source_fps = sum(pace for pace in paces if pace is not None) if None not in paces else None
    # Alone a run had one thread: with more it takes that divided by their number at best.
    shared = run_concurrency(line.config, bare.session.provider)[1] if bare is not line.model else 1
    threads = {**crew, "infer": crew["infer"] * shared}
    limits = bounds(costs, cores=found["cores"], threads=threads, source_fps=source_fps)
    found["notes"] += over(found["fps"] / limits[0].fps)
    sizes = {(account.height, account.width) for account in line.accounts.streams.values()}
    found["notes"] += padding(bare.spec, {(high, wide) for high, wide in sizes if high and wide})
    return {
        **found,
        "bounds": [{"what": each.what, "fps": each.fps, "why": each.why} for each in limits],
        "bound_fps": limits[0].fps,
        "ratio": found["fps"] / limits[0].fps,
        "bottleneck": bottleneck(found["stages"], found["cores_used"], found["cores"], limits, found["fps"]),
    }


def over(ratio: float) -> list[str]:
    """A note where a line is said to be faster than what bounds it."""
    if ratio <= OVER:
        return []
    why = "the machine was slower while the stages were measured alone; measure again"
    return [f"{ratio:.0%} of the bound cannot be: {why}"]


def padding(spec: InputSpec, sizes: Collection[tuple[int, int]]) -> list[str]:
    """A note where pictures of all ``sizes`` (height, width) leave much of an input of fixed size unused."""
    if spec.stride is not None or spec.resize != "letterbox" or not sizes:
        return []
    needed = [replace(spec, stride=STRIDE).for_picture(*size) for size in sizes]
    height, width = max(each.height for each in needed), max(each.width for each in needed)
    share = 1 - height * width / (spec.height * spec.width)
    if share < WASTED:
        return []
    shown = ", ".join(f"{wide}x{high}" for high, wide in sorted(sizes))
    note = (
        f"{share:.0%} of the model's input is padding that it need not have: {shown} takes {width}x{height} "
        f"of {spec.width}x{spec.height}; exported for that size, or for any, it would save about as much of "
        "its time"
    )
    return [note]


def bottleneck(
    stages: Mapping[str, Mapping[str, Any]],
    cores_used: float,
    cores: int,
    limits: Sequence[Bound] = (),
    fps: float = 0.0,
) -> dict[str, str]:
    """What keeps a line from being faster: one name, and why it is said.

    In this order: sources that deliver no more; cores that are all in use, with the stage that uses most
    of them where that was measured; else the stage whose own threads are busiest, if they are busy at all.
    """
    source = next((limit for limit in limits if limit.what == "source"), None)
    if source is not None and fps >= FULL * source.fps:
        return {"what": "source", "why": f"the sources deliver {source.fps:.1f} frames/s, and those come out"}
    why = f"{cores_used:.2f} of {cores} cores are in use"
    if cores_used >= FULL * cores:
        own = {name: stage["alone_cpu_ms"] for name, stage in stages.items() if "alone_cpu_ms" in stage}
        if own:
            dearest = max(own, key=lambda name: own[name])
            why += f"; {dearest} takes {own[dearest] / sum(own.values()):.0%} of a frame's CPU time"
        return {"what": "cores", "why": why}
    busiest = max(stages, key=lambda name: stages[name]["busy"])
    busy = stages[busiest]["busy"]
    if busy < IDLE:
        return {"what": "none", "why": f"no stage's threads are busy more than {busy:.0%} of the time; {why}"}
    return {"what": busiest, "why": f"its threads are busy {busy:.0%} of the time, while {why}"}


def _crew(line: Pipeline) -> dict[str, int]:
    """Threads of each stage."""
    assert line.model is not None
    workers, _ = run_concurrency(line.config, line.model.session.provider)
    return {
        "capture": len(line.sources),
        "preprocess": line.config.preprocess_workers,
        "infer": workers,
        "postprocess": line.config.postprocess_workers,
        "emit": 1,
    }


def _about(line: Pipeline) -> dict[str, Any]:
    said = summarize(line)
    return {key: said[key] for key in ("settings", "provider", "model", "profile", "conserved")}


def _on_one_thread(line: Pipeline) -> Model:
    """The model as the bound wants it: threads that share a run's work take more CPU time for it."""
    config, model = line.config, line.model
    assert model is not None
    if model.session.provider != "cpu" or run_concurrency(config, "cpu")[1] == 1:
        return model
    return open_model(
        config.model,
        "cpu",
        config.device,
        1,
        task=config.task,
        input_size=config.input_size,
        rewrite=config.rewrite,
        fuse=config.fuse,
    )


def _mean(first: Mapping[str, Cost], second: Mapping[str, Cost]) -> dict[str, Cost]:
    return {
        name: Cost((cost.cpu_ms + second[name].cpu_ms) / 2, (cost.wall_ms + second[name].wall_ms) / 2)
        for name, cost in first.items()
    }
