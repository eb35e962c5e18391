"""What ``--target-age-ms`` makes of a load step: ages and ``every_nth`` over time, with it and without.

``python -m benchmarks.adaptive --target-age-ms MS [--model M] [--clip CLIP] [--plot FILE.svg] [--json FILE]``

A line with some paced streams is given more of them after a third of the time, and loses those again
after another third. Each two seconds: p50 and p99 of the ages of results that came out in them, results
per second, and ``every_nth`` of each stream. Once as it is, once with the target. Windows in which frames
of before a change still come out, the first five of a phase, are not in the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from pipeline import Pipeline
from pipeline.bench import machine
from pipeline.config import make_config
from pipeline.errors import PipelineError
from pipeline.frame import Result
from pipeline.histogram import Histogram
from pipeline.sinks import Null

PHASES = ("few streams", "more streams", "few again")
WINDOW_SECONDS = 2.0
SETTLING = 5
"""Windows at the beginning of a phase that are not in the table."""


def measure(asked: argparse.Namespace, target: float | None) -> dict[str, Any]:
    """One run, for JSON: ``windows``, and whether its books were in order."""
    options = {"target_age_ms": target} if target is not None else {}
    config = make_config(
        {"model": asked.model, "streams": [camera(asked, n) for n in range(asked.streams)], **options}
    )
    with Pipeline(config, sinks=[Slow(asked.sink_ms / 1000)]) as line:
        with running(line):
            windows = list(watch(line, asked))
        return {"target_age_ms": target, "windows": windows, "conserved": not line.accounts.violations(0)}


class Slow(Null):
    """A sink that takes so many seconds over each result, as a far data base does: others may use the CPU."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def write(self, result: Result, dropped_before: int) -> None:
        """Take the time."""
        super().write(result, dropped_before)
        time.sleep(self._seconds)


def camera(asked: argparse.Namespace, number: int) -> dict[str, Any]:
    """A paced stream; their rates differ by a per cent, so that their pictures coincide in all ways."""
    pace = asked.pace * (1 + 0.01 * (number % 5))
    return {"source": asked.clip, "name": f"camera-{number + 1}", "loop": True, "pace": pace, "health": False}


@contextmanager
def running(line: Pipeline) -> Iterator[None]:
    """The line in a thread of its own; what it raises is raised here."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            line.run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="line")
    thread.start()
    try:
        while line.flow is None and thread.is_alive():
            thread.join(0.01)
        yield
    finally:
        line.stop()
        thread.join()
    if raised:
        raise raised[0]


def watch(line: Pipeline, asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What each window showed, as the load steps up and down."""
    window = min(WINDOW_SECONDS, asked.seconds / 3)
    started = time.monotonic()
    extra: list[str] = []
    before, dropped = Histogram(), 0
    for phase, what in enumerate(PHASES):
        if phase == 1:
            for number in range(asked.streams, asked.streams + asked.more):
                stream = camera(asked, number)
                extra.append(line.add_stream(stream.pop("source"), **stream))
        while phase == 2 and extra:
            line.remove_stream(extra.pop())
        for _ in range(round(asked.seconds / window)):
            begun = time.monotonic()
            line_pause(begun + window)
            now, ages = time.monotonic(), Histogram()
            accounts = list(line.accounts.streams.values())
            for account in accounts:
                ages.add(account.latency)
            recent, before = ages.since(before), ages
            lost = sum(account.counts().dropped_total for account in accounts)
            yield {
                "phase": what,
                "seconds": now - started,
                "p50_ms": _ms(recent, 0.5),
                "p99_ms": _ms(recent, 0.99),
                "fps": recent.count / (now - begun),
                "dropped_fps": (lost - dropped) / (now - begun),
                "every_nth": {each.name: each.lane.every_nth for each in accounts if each.ending is None},
            }
            dropped = lost


def line_pause(until: float) -> None:
    """Wait; nothing in the line is waited for."""
    threading.Event().wait(max(0.0, until - time.monotonic()))


def _ms(ages: Histogram, q: float) -> float | None:
    age = ages.quantile(q)
    return None if age is None else 1000 * age


def figures(run: Mapping[str, Any], target: float, settling: int = SETTLING) -> list[dict[str, Any]]:
    """Of each phase of a run: ages, how many windows kept to ``target`` ms, how often every_nth changed."""
    rows = []
    for what in PHASES:
        windows = [each for each in run["windows"] if each["phase"] == what]
        settled = [each for each in windows[settling:] if each["p99_ms"] is not None]
        nths = [each["every_nth"] for each in windows]
        rows.append(
            {
                "phase": what,
                "fps": median(each["fps"] for each in settled) if settled else 0.0,
                "p50_ms": median(each["p50_ms"] for each in settled) if settled else None,
                "p99_ms": median(each["p99_ms"] for each in settled) if settled else None,
                "held": sum(each["p99_ms"] <= target for each in settled) / max(1, len(settled)),
                "changes": sum(a != b for a, b in pairwise(nths[1:])),
                "every_nth": sorted(nths[-1].values()) if nths else [],
            }
        )
    return rows


def table(report: Mapping[str, Any]) -> str:
    """For people, in Markdown."""
    target = report["asked"]["target_age_ms"]
    rows = [
        f"| | phase | results/s | p50 ms | p99 ms | in {target:g} ms | changes | every_nth at the end |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in ("off", "on"):
        for row in report["figures"][name]:
            ages = " | ".join("–" if row[key] is None else f"{row[key]:.0f}" for key in ("p50_ms", "p99_ms"))
            nths = ", ".join(map(str, row["every_nth"]))
            held = f"{row['held']:.0%} of windows | {row['changes']}"
            rows.append(f"| {name} | {row['phase']} | {row['fps']:.1f} | {ages} | {held} | {nths} |")
    return "\n".join(rows) + "\n"


def plot(path: Path, report: Mapping[str, Any]) -> None:
    """Ages, and every_nth, over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    ages, nths = figure.subplots(2, 1, sharex=True)
    for name, colour in (("off", "#b9770e"), ("on", "#1a5276")):
        windows = report["runs"][name]["windows"]
        at = [each["seconds"] for each in windows]
        ages.plot(at, [each["p99_ms"] for each in windows], color=colour, label=f"p99, target {name}")
        ages.plot(
            at,
            [each["p50_ms"] for each in windows],
            color=colour,
            alpha=0.5,
            linestyle="--",
            label=f"p50, {name}",
        )
    target = report["asked"]["target_age_ms"]
    ages.axhline(target, color="#922b21", linewidth=1, label=f"target {target:g} ms")
    ages.set_ylabel("age of results, ms")
    ages.set_ylim(bottom=0)
    ages.legend(fontsize="small", ncols=3)
    windows = report["runs"]["on"]["windows"]
    for name in dict.fromkeys(name for each in windows for name in each["every_nth"]):
        shown = [(each["seconds"], each["every_nth"].get(name)) for each in windows]
        nths.step([at for at, _ in shown], [nth for _, nth in shown], where="post", label=name)
    nths.set_ylabel("every_nth")
    nths.set_xlabel("seconds")
    nths.legend(fontsize="small", ncols=3)
    for axes in (ages, nths):
        for step in (1, 2):
            axes.axvline(step * report["asked"]["seconds"], color="#999", linewidth=1, linestyle=":")
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both, print the table, write what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target-age-ms", type=float, required=True)
    parser.add_argument("--model", default="nanodet-g", help="name or ONNX file; default: nanodet-g")
    parser.add_argument("--clip", default="sample:", help="default: sample:")
    parser.add_argument("--streams", type=int, default=2, help="all the time; default: 2")
    parser.add_argument("--more", type=int, default=4, help="in the middle third; default: 4")
    parser.add_argument("--pace", type=float, default=10.0, help="frames/s of each; default: 10")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase; default: 60")
    parser.add_argument(
        "--sink-ms", type=float, default=0.0, help="that a sink takes over each result; default: 0"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG or SVG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    asked = parser.parse_args(arguments)
    try:
        runs = {"off": measure(asked, None), "on": measure(asked, asked.target_age_ms)}
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    keys = ("target_age_ms", "model", "streams", "more", "pace", "seconds", "sink_ms")
    report = {
        "kind": "framerail adaptive",
        "machine": machine(),
        "asked": {key: getattr(asked, key) for key in keys},
        "figures": {name: figures(run, asked.target_age_ms) for name, run in runs.items()},
        "runs": runs,
    }
    print(table(report), end="")
    if asked.plot is not None:
        plot(asked.plot, report)
    if asked.json is not None:
        asked.json.write_text(json.dumps(report, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if all(run["conserved"] for run in runs.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
