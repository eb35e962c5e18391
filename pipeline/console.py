"""What a person sees while a line runs and when it has ended. All of it goes to stderr."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.accounts import StreamAccount
from pipeline.app import Pipeline
from pipeline.health import WORDS
from pipeline.logs import HANGING_SECONDS
from pipeline.printable import on_terminal, printable
from pipeline.progress import PLAIN_SECONDS
from pipeline.summary import ways

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.2
PLAIN_MOST = 600.0
_MOST_LABELS = 12
_WITHOUT_PICTURES = {
    "stalled": "stalled",
    "backing_off": "waiting for its next try",
    "auth_failed": "waiting since its password was refused",
    "paused": "paused",
}


class ProgressDisplay:
    """Frames, FPS and drops while the line runs: bars on a terminal, elsewhere log lines, ever fewer.

    A terminal that has gone (EIO), or takes nothing (Ctrl-S), is no failure of the line: nobody looks.
    """

    def __init__(self, pipeline: Pipeline, console: Console, *, plain: bool) -> None:
        self._pipeline = pipeline
        self._console = console
        self._done = threading.Event()
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last: tuple[float, int] = (0.0, 0)
        if not plain:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[numbers]}", markup=False),
                TimeElapsedColumn(),
                console=console,
                auto_refresh=False,
            )
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(HANGING_SECONDS)

    @property
    def hangs(self) -> bool:
        """Whether the terminal takes nothing any more: whatever writes to it waits, and holds its lock."""
        return self._done.is_set() and self._thread.is_alive()

    def _tick(self) -> None:
        bars = self._bars
        if bars is None:
            for seconds in _waits():
                if self._done.wait(seconds):
                    break
                self._show()
            return
        with suppress(OSError):
            bars.start()
            try:  # bars that did not begin cannot be ended
                self._show()
                while not self._done.wait(REFRESH_SECONDS):
                    self._show()
                self._show()
            finally:
                bars.stop()

    def _show(self) -> None:
        accounts = self._pipeline.accounts
        if self._bars is None:
            totals = accounts.totals()
            elapsed = accounts.elapsed()
            since, before = self._last
            fps = (totals.emitted - before) / (elapsed - since) if elapsed > since else 0.0
            self._last = elapsed, totals.emitted
            log.info(
                "%d frames, %.1f FPS, %d dropped, %d in flight",
                totals.emitted,
                fps,
                totals.dropped_total,
                totals.in_flight,
            )
            return
        for name, account in list(accounts.streams.items()):  # of which there may be more by now
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=None, numbers="")
            self._bars.update(
                self._tasks[name],
                completed=_progress(account),
                total=account.frame_count,
                numbers=_numbers(account, accounts.on_line(name)),
            )
        self._bars.refresh()


def _waits() -> Iterator[float]:
    """Seconds before each log line: a line that runs for months should not fill its log with them."""
    seconds = PLAIN_SECONDS
    while True:
        yield seconds
        seconds = min(2 * seconds, PLAIN_MOST)


def _progress(account: StreamAccount) -> int:
    counts = account.counts()
    return counts.captured - counts.in_flight


def _numbers(account: StreamAccount, seconds: float) -> str:
    counts, link = account.counts(), account.link.status()
    if account.error is not None and not counts.captured:
        return f"not opened: {getattr(account.error, 'cause', 'error')}"
    if link.state not in ("live", "ended"):
        wait = f", again in {link.retry_in:.0f} s" if link.retry_in is not None else ""
        return f"{counts.emitted} frames  {link.state.replace('_', ' ')}{wait}"
    fps = counts.emitted / seconds if seconds > 0 else 0.0
    of = f"/{account.frame_count}" if account.frame_count else ""
    return f"{counts.emitted}{of} frames  {fps:.1f} FPS  {counts.dropped_total} dropped"


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """The closing tables."""
    streams = Table(title="Streams", title_justify="left")
    streams.add_column("stream", overflow="fold")
    for heading in ("captured", "emitted", "dropped", "FPS"):
        streams.add_column(heading, justify="right", no_wrap=True)
    streams.add_column("size", no_wrap=True)
    streams.add_column("ended")
    further = []
    for name, stream in summary["streams"].items():
        dropped = sum(stream["dropped"].values())
        streams.add_row(
            name,
            str(stream["captured"]),
            str(stream["emitted"]),
            str(dropped),
            f"{stream['emitted'] / stream['seconds']:.1f}" if stream["seconds"] else "",
            f"{stream['width']}x{stream['height']}" if stream["width"] else "",
            stream["ending"] or "",
        )
        if not stream["captured"] and stream["last_error"]:
            further.append(f"{name} gave no picture: {stream['last_error']}")
        if dropped:
            further.append(f"{name} dropped: {_each(stream['dropped'])}")
        if stream["corrupt_packets"] or stream["damaged"]:
            further.append(
                f"{name} was damaged: {stream['corrupt_packets']} packets came damaged or not at all, "
                f"{stream['damaged']} pictures are spoilt"
            )
        if stream["reconnects"]:
            further.append(f"{name} was lost and came back: {_each(stream['reconnects'])}")
        for states, words in (("state_episodes", _WITHOUT_PICTURES), ("health_episodes", WORDS)):
            for state, held in stream[states].items():
                if state in words:
                    times = "once" if held["times"] == 1 else f"{held['times']} times"
                    further.append(f"{name} was {words[state]} {times}, for {held['seconds']:.1f} s in all")
        if stream["captured"] and stream["ending"] in ("stopped", "abandoned") and stream["lost_for"]:
            further.append(
                f"{name} had been lost for {stream['lost_for']:.1f} s at the end: {stream['last_error']}"
            )
    _print_whole(streams, console)
    if further:
        console.print("\n".join(further), highlight=False, markup=False, soft_wrap=True)
    stages = Table(title="Time per frame (ms)", title_justify="left")
    stages.add_column("stage")
    for heading in ("frames", "p50", "p99"):
        stages.add_column(heading, justify="right")
    for name, stage in summary["stages"].items():
        stages.add_row(name, str(stage["count"]), _ms(stage["p50_ms"]), _ms(stage["p99_ms"]))
    latency = summary["latency_ms"]
    stages.add_section()
    stages.add_row("captured → emitted", "", _ms(latency["p50"]), _ms(latency["p99"]))
    _print_whole(stages, console)
    lines = [f"{summary['fps']:.1f} FPS over {summary['seconds']:.1f} s; model {_really_used(summary)}"]
    if summary["settings"] is not None:
        lines.append(ways(summary["settings"]))
    if summary["second"] is not None:
        lines.append(f"second model {_really_used(summary['second'])}")
    if times := summary["model_restarts"]:
        lines.append(f"model opened afresh {times} time{'s' * (times != 1)} after a fault of its provider")
    if summary["model"]["task"] != "classify":
        lines.append(f"detections: {_counted(summary)}")
    for name, output in summary["outputs"].items():
        if missed := sum(output["dropped"].values()):
            lines.append(f"output {name} missed {missed} of {missed + output['written']} results")
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    totals = [(s["captured"], s["emitted"], sum(s["dropped"].values())) for s in summary["streams"].values()]
    captured, emitted, dropped = (sum(column) for column in zip(*totals, strict=True))
    verdict = "every frame is accounted for" if summary["conserved"] else "FRAMES ARE NOT ACCOUNTED FOR"
    console.print(
        f"{captured} captured = {emitted} emitted + {dropped} dropped: {verdict}",
        highlight=False,
        soft_wrap=True,
        style="" if summary["conserved"] else "bold red",
    )


def _print_whole(table: Table, console: Console) -> None:
    """In a log or a pipe, which has no width of its own, nothing is cut off to make it fit in one."""
    if on_terminal(console):
        console.print(table)
        return
    before = console.width
    wide = console.options.update(max_width=10_000)
    console.width = max(before, console.measure(table, options=wide).maximum)
    try:
        console.print(table)
    finally:
        console.width = before


def _each(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _counted(summary: dict[str, Any]) -> str:
    """Detections of all streams by label, the most frequent first."""
    counts: Counter[str] = Counter()
    for stream in summary["streams"].values():
        counts.update(stream["detections"])
    shown = ", ".join(f"{printable(label)} {count}" for label, count in counts.most_common(_MOST_LABELS))
    others = f", … ({len(counts)} labels in all)" if len(counts) > _MOST_LABELS else ""
    return f"{shown}{others}" if counts else "none"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _really_used(used: dict[str, Any]) -> str:
    provider, model = used["provider"], used["model"]
    nodes = ", ".join(f"{count} nodes on {where}" for where, count in provider["nodes"].items())
    devices = ", ".join(str(each["device"]) for each in provider["devices"])
    return (
        f"{model['name']} ({model['family']}); provider asked: {provider['requested']}, "
        f"running: {provider['active']}{f' on devices {devices}' if ',' in devices else ''} ({nodes})"
    )
