"""How old live results grow, below the bound and far above it.

``python -m benchmarks.live --model M --clip CLIP [--streams N] [--long-seconds S] [--json FILE]``

A clip such as a camera sends is played by N paced streams, as ``framerail plan`` does, each trial in a
process of its own. Their rates differ by a per cent or so: which cameras happen to take their pictures at
the same moment decides who waits, and so all of it comes up in one trial, instead of what chance chose.

1. What the machine allows: the bound, as ``framerail bench`` finds it, with the clip as an ordinary file.
2. The sum of the stages' service times, capture to emit: the wall time that each takes for one frame by
   itself, nothing beside it, with the threads that the line gives it with so many cameras (an inference run
   has one thread where two run at once). Measured before and after the trials and averaged; ages are judged
   against this sum. The same times in the running line stand beside it: they hold the wait for a core, too.
3. Rates that add up to 70 % of the bound, of two streams and of all: p99 age, from capture to emit, over all
   streams. Beside it what no line could undercut: cores that lose nothing, each with one frame after the
   other, and cameras that take their pictures whenever they like (:func:`ideal_ms`). With many cameras that
   alone is more than twice a frame's own time.
4. Rates that add up to 400 % of it, for long: the same, age and memory in twelve windows, what each stream is
   given, and whether every frame is accounted for.

``max_age_ms`` among the options counts for the trials; the bound is found without.

Growth is the last third of those windows ÷ the first third: of the median of their p99 ages, and of the
most memory. Beside the first that of a run of inference: a machine that grows slower makes both grow. The
exit code is 1 where a limit is broken.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import statistics
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import Pipeline
from pipeline.bench import Settings, alone, machine, measure
from pipeline.bench.isolated import apart
from pipeline.bench.point import Told, trial
from pipeline.config import Config, StreamConfig, make_config
from pipeline.errors import ConfigError, PipelineError
from pipeline.sinks import Null
from pipeline.sources import open_source, parse_source

BELOW, ABOVE = 0.7, 4.0
"""Shares of the bound that the streams' rates add up to."""
MOST_AGE = {BELOW: 2.0, ABOVE: 3.0}
"""p99 age ÷ the sum of the stages' service times."""
MOST_UNEVEN = 1.2
"""Frames delivered of the stream that got most ÷ of the one that got least."""
MOST_OVER = 1.02
"""Age of the oldest result ÷ ``max_age_ms``, where that is set: it is looked at before the sinks have it."""
MOST_GROWTH, MOST_MEMORY_GROWTH = 1.1, 1.05
"""Of what is not to grow: as much as two parts of a run differ by where nothing grows."""
WINDOWS = 12
FEW = 2
"""Streams of the other trial below the bound: what a small machine carries at a usual rate."""
APART = 0.01
"""Share by which the fastest stream is faster, and the slowest one slower, than the middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """As on the command line; ``options`` are keys of Config."""

    model: str
    clip: str
    streams: int = 4
    seconds: float = 60.0
    long_seconds: float = 600.0
    bound_seconds: float = 60.0
    options: Mapping[str, Any]

    def config(self, total_fps: float | None = None, count: int | None = None) -> Config:
        """The line, with paced streams whose rates add up to ``total_fps``; None: as fast as it goes."""
        options = {"profile": False, **self.options}
        count = count or self.streams
        streams: list[dict[str, Any]] = [
            {"source": self.clip, "name": f"camera-{number + 1}", "loop": True} for number in range(count)
        ]
        if total_fps is None:
            options.pop("max_age_ms", None)  # files fill the line, and nearly all of them would be too old
        else:
            for stream, fps in zip(streams, rates(total_fps, count), strict=True):
                stream["pace"] = fps
        return make_config({**options, "model": self.model, "streams": streams})


def rates(total_fps: float, count: int) -> list[float]:
    """Of ``count`` streams: they add up, and no two are the same."""
    middle = (count - 1) / 2
    return [total_fps / count * (1 + APART * (number - middle) / max(middle, 1)) for number in range(count)]


def ideal_ms(total_fps: float, count: int, frame_ms: float, cores: int, seconds: float = 120.0) -> float:
    """p99 age where each of ``cores`` does one frame after the other in ``frame_ms``, first come, first out.

    The least that a line which gives each frame one core can reach: what is left is waiting for cameras that
    happened to take their pictures at the same moment. Over fifty draws of when that is.
    """
    ages, dice = [], random.Random(0)
    for _ in range(50):
        came = sorted(
            (number + phase) / fps
            for fps, phase in ((fps, dice.random()) for fps in rates(total_fps, count))
            for number in range(int(seconds * fps))
        )
        free = [0.0] * cores
        for at in came:
            began = max(at, heapq.heappop(free))
            heapq.heappush(free, began + frame_ms / 1000)
            ages.append((began - at) * 1000 + frame_ms)
    return statistics.quantiles(ages, n=100)[98]


def service(config: Config, settings: Settings, told: Told | None = None) -> dict[str, float]:
    """Wall milliseconds of each stage on one frame by itself, with the threads of ``config``'s line."""
    del settings, told
    with Pipeline(config, sinks=[Null()]) as line:
        assert line.model is not None
        # How long a camera takes to send a picture is no stage's time.
        unpaced = {"pace": None}
        sources = [(spec, stream.model_copy(update=unpaced)) for spec, stream in line.sources.values()]
        costs = alone(line.config, sources, line.model)
    return {name: cost.wall_ms for name, cost in costs.items()}


def live(asked: Asked) -> dict[str, Any]:
    """The result, for JSON. Raises what a Pipeline raises, and ConfigError for what cannot be measured."""
    for name in ("streams", "seconds", "long_seconds", "bound_seconds"):
        if not 0 < getattr(asked, name) < math.inf:
            raise ConfigError(f"--{name.replace('_', '-')}: expected more than 0, got {getattr(asked, name)}")
    clip = {"name": Path(asked.clip).name, "description": _described(asked.clip)}
    tell("bound, and each stage by itself")
    most = asked.bound_seconds
    free = apart(measure, asked.config(), Settings(min(2.0, most / 3), min(3.0, most / 3), most=most))
    before = apart(service, asked.config(free["bound_fps"]), Settings())
    cores = free["cores"]
    frame_ms = 1000 * cores / next(each["fps"] for each in free["bounds"] if each["what"] == "cores")
    trials = {}
    for share, count, seconds in (
        *((BELOW, count, asked.seconds) for count in sorted({min(FEW, asked.streams), asked.streams})),
        (ABOVE, asked.streams, asked.long_seconds),
    ):
        fps = share * free["bound_fps"]
        tell(f"{count} streams, {fps:.1f} frames/s in all, {share:.0%} of the bound, {seconds:g} s")
        window = seconds / WINDOWS
        settings = Settings(min(3.0, seconds / 3), window, WINDOWS, math.inf, seconds)
        found = apart(trial, asked.config(fps, count), settings)
        found |= {"share": share, "asked_fps": fps}
        if share < 1:
            found["ideal_p99_ms"] = ideal_ms(fps, count, frame_ms, cores)
        found["notes"] = [note for note in found["notes"] if not note.startswith("not steady")]
        trials[f"{share:.0%}, {count} streams"] = found
    tell("each stage by itself, again")
    after = apart(service, asked.config(free["bound_fps"]), Settings())
    times = {name: (before[name] + after[name]) / 2 for name in before}
    total = sum(times.values())
    return {
        "kind": "framerail live",
        "machine": machine(),
        "clip": clip,
        "asked": {key: getattr(asked, key) for key in ("streams", "seconds", "long_seconds", "options")},
        **{key: free[key] for key in ("model", "provider", "settings")},
        "bound": {key: free[key] for key in ("bound_fps", "bounds", "fps", "ratio", "notes")},
        "service": {
            "alone_ms": times,
            "alone_sum_ms": total,
            "alone_sums_ms": [sum(before.values()), sum(after.values())],
            "in_line_sums_ms": {name: in_line_ms(found) for name, found in trials.items()},
        },
        "trials": trials,
        "limits": limits(total, trials, asked.options.get("max_age_ms")),
    }


def in_line_ms(found: Mapping[str, Any]) -> float:
    """The sum of the stages' mean wall times while all run."""
    return sum(stage["line_ms"] or 0.0 for stage in found["stages"].values())


def limits(
    service_ms: float, trials: Mapping[str, Mapping[str, Any]], max_age_ms: float | None = None
) -> list[dict[str, Any]]:
    """Each target with its figure: ``value`` (None: there is none) may be ``at_most`` so much."""
    rows = []
    for name, found in trials.items():
        age = found["latency_ms"]["p99"]
        what = f"p99 age ÷ service times at {name}"
        if "ideal_p99_ms" in found:
            what += f" (ideal {found['ideal_p99_ms'] / service_ms:.2f})"
        rows.append((what, age and age / service_ms, MOST_AGE[found["share"]]))
    (above,) = (found for found in trials.values() if found["share"] == ABOVE)
    if max_age_ms is not None:
        oldest, what = above["latency_ms"]["max"], f"age of the oldest result ÷ {max_age_ms:g} ms"
        rows.append((what, oldest and oldest / max_age_ms, MOST_OVER))
    ages = [window["p99_latency_ms"] for window in above["over_time"]]
    memory = [window["peak_mb"] for window in above["over_time"]]
    given = [stream["fps"] for stream in above["streams"].values()]
    lost = sum(not found["conserved"] for found in trials.values())
    infer = growth([window["infer_ms"] for window in above["over_time"]], statistics.median)
    beside = "" if infer is None else f" (of a run of inference, {infer:.2f})"
    rows += [
        (f"growth of p99 age{beside}", growth(ages, statistics.median), MOST_GROWTH),
        ("growth of memory", growth(memory, max), MOST_MEMORY_GROWTH),
        ("delivered, most ÷ least of a stream", max(given) / min(given) if min(given) else None, MOST_UNEVEN),
        ("runs with frames unaccounted for", lost, 0),
    ]
    return [
        {"what": what, "value": value, "at_most": most, "holds": value is not None and value <= most}
        for what, value, most in rows
    ]


def worst_ms(found: Mapping[str, Any]) -> float | None:
    """p99 age of the stream that fares worst; None where nothing came of one."""
    ages = [stream["p99_latency_ms"] for stream in found["streams"].values()]
    return None if None in ages else max(ages)


def growth(values: Sequence[float | None], of: Any) -> float | None:
    """``of`` the last third of ``values`` ÷ that of the first; None where one is missing."""
    third = len(values) // 3
    ends = [*values[:third], *values[-third:]]
    if None in ends or not of(values[:third]):
        return None
    return float(of(values[-third:]) / of(values[:third]))


def table(report: Mapping[str, Any]) -> str:
    """For people, in Markdown."""
    about, bound, times = report["machine"], report["bound"], report["service"]
    alone_ms = ", ".join(f"{name} {ms:.2f}" for name, ms in times["alone_ms"].items())
    line_ms = "; ".join(f"{ms:.1f} at {name}" for name, ms in times["in_line_sums_ms"].items())
    what = f"{report['model']['name']}, {report['clip']['description']}, {report['asked']['streams']} streams"
    rows = [
        f"{what}; {about['cores']} cores of an {about['cpu']}, {about['date'][:10]}",
        "",
        f"bound {bound['bound_fps']:.1f} frames/s; the clip as a file reaches {bound['ratio']:.2f} of it",
        f"service times: alone {times['alone_sum_ms']:.1f} ms ({alone_ms}); in line {line_ms}",
        "",
        "| load | captured/s | delivered/s | dropped | p50 ms | p99 ms | ideal | worst stream's p99 | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in report["trials"].items():
        streams = found["streams"].values()
        captured, delivered = (sum(each[key] for each in streams) for key in ("captured_fps", "fps"))
        ages = (
            *(found["latency_ms"][each] for each in ("p50", "p99")),
            found.get("ideal_p99_ms"),
            worst_ms(found),
        )
        shown = " | ".join("–" if age is None else f"{age:.0f}" for age in ages)
        rows.append(
            f"| {name} | {captured:.1f} of {found['asked_fps']:.1f} | {delivered:.1f} | "
            f"{max(each['dropped_share'] for each in streams):.1%} | {shown} | {found['peak_mb']:.0f} |"
        )
    rows += ["", "| | measured | at most | |", "|---|---|---|---|"]
    for each in report["limits"]:
        value = "–" if each["value"] is None else f"{each['value']:.3g}"
        verdict = "holds" if each["holds"] else "BROKEN"
        rows.append(f"| {each['what']} | {value} | {each['at_most']:g} | {verdict} |")
    notes = [note for found in (report["bound"], *report["trials"].values()) for note in found["notes"]]
    return "\n".join([*rows, *(f"note: {note}" for note in dict.fromkeys(notes))]) + "\n"


def tell(text: str) -> None:
    """Progress, so that standard output is the table alone."""
    print(text, file=sys.stderr, flush=True)


def _described(clip: str) -> str:
    """What the clip is, by its source. Raises SourceError where it cannot be opened."""
    with closing(open_source(parse_source(clip), StreamConfig(source=clip), threading.Event())) as source:
        return source.description


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON; 0 where every limit holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="name or ONNX file")
    parser.add_argument("--clip", required=True, help="video file; the published figures are of 1080p H.264")
    parser.add_argument("--streams", type=int, default=4, help="default: 4")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the trial at 70 %%; default: 60")
    parser.add_argument("--long-seconds", type=float, default=600.0, help="at 400 %%; default: 600")
    parser.add_argument(
        "--bound-seconds", type=float, default=60.0, help="for the bound, at most; default: 60"
    )
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="keys of Config")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    options = vars(parser.parse_args(arguments))
    kept: Path | None = options.pop("json")
    try:
        report = live(Asked(**options))
    except PipelineError as error:
        tell(f"error: {error}")
        return 1
    print(table(report), end="")
    if kept is not None:
        kept.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if all(each["holds"] for each in report["limits"]) else 1


if __name__ == "__main__":
    sys.exit(main())
