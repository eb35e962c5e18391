"""``framerail bench``: frames/s, what bounds them and how close the line comes; a table, JSON and a plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pipeline.bench.axes import Planned, parse_streams, parse_sweep, points
from pipeline.bench.compare import Change, check_comparable, compare, differences, load
from pipeline.bench.isolated import apart
from pipeline.bench.machine import machine
from pipeline.bench.plot import check_plot, write_plot
from pipeline.bench.point import measure
from pipeline.bench.steady import Settings
from pipeline.bench.table import print_changes, print_report
from pipeline.bench.tune import said_by
from pipeline.commands.bench_precision import Prepared, prepared, unchanged
from pipeline.config import Config, make_config
from pipeline.errors import ConfigError, PipelineError
from pipeline.printable import json_text, on_terminal
from pipeline.redact import redact
from pipeline.runtime.model import open_model
from pipeline.sources import parse_source


class SlowerError(PipelineError):
    """Something got slower beyond noise, or cannot run any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure: ``run`` holds keys of ``Config``, the others are as on the command line."""

    sources: Sequence[str]
    sweep: Sequence[str] = ()
    streams: str | None = None
    plot: str | None = None
    compare: str | None = None
    settings: Settings = field(default_factory=Settings)
    run: dict[str, Any] = field(default_factory=dict)

    def config(self) -> Config:
        """The line that is measured. Files begin again at their end: a short clip is no short run."""
        streams = []
        for address in self.sources:
            looped = parse_source(address).live is False
            streams.append({"source": address, **({"loop": True} if looped else {})})
        return make_config({**self.run, "streams": streams})


def bench(options: Options, out: Console, err: Console, *, as_json: bool) -> None:
    """Measure and print: JSON to standard output, or tables to ``out``; progress goes to ``err``.

    Raises what a Pipeline raises, before anything is measured where that can be told; SlowerError (exit
    code 4), after printing, where something is slower than in the result to compare with. A point of a
    sweep that cannot run is part of the result, with its error; a single point raises it. Precisions are
    copies, made or found before anything is measured (see :mod:`pipeline.commands.bench_precision`).
    Interrupted, it prints the points that were measured, and raises KeyboardInterrupt.
    """
    swept, counts = parse_sweep(options.sweep), parse_streams(options.streams)
    old = load(options.compare) if options.compare is not None else None
    if options.plot is not None:
        check_plot(options.plot)
    config = options.config()
    model = open_model(
        config.model,
        config.provider,
        config.device[0],
        input_size=config.input_size,
        options=config.provider_options,
    )
    asked_for = {"name": model.name, "sha256": model.sha256}  # a profile may put a copy in its place
    planned = list(points(config, model, swept, counts))
    if old is not None:
        check_comparable(old, [{**_about(point), "of": asked_for} for point in planned])
    tell = partial(err.print, highlight=False, soft_wrap=True)
    ready = prepared(planned, model, err, tell) if "precision" in swept else unchanged(planned)
    del model
    report: dict[str, Any] = {"kind": "framerail bench", "machine": machine(), "points": []}
    raised: list[Exception] = []
    ending: BaseException | None = None
    with _Showing(err) as show:
        for number, point in enumerate(ready):
            told = show(number, len(ready), point.planned)
            try:
                report["points"].append({**_measured(point, options.settings, told), "of": asked_for})
            except (PipelineError, ExceptionGroup) as error:
                raised.append(error)
                report["points"].append({**_told(point), "of": asked_for, "error": said_by(error)})
            except KeyboardInterrupt as interrupt:
                ending = interrupt
                break
    if ending is not None:
        tell(f"interrupted: {len(report['points'])} of {len(ready)} points were measured")
        if len(raised) == len(report["points"]):
            raise ending
    if len(raised) == len(report["points"]):  # with the exit code that is its own
        raise raised[0]
    changes: list[Change] = []
    if old is not None:
        try:
            changes = compare(old, report)
        except ConfigError as error:  # what was measured is printed all the same
            ending = ending or error
        report["compared"] = [
            {"point": each.point, "what": each.what, "ratio": each.ratio, "verdict": each.verdict}
            for each in changes
        ]
    if as_json:
        print(json_text(report))
    else:
        print_report(report, out)
        if changes:
            print_changes(changes, differences(old or {}, report), out)
    if options.plot is not None:  # last: a disk that is full costs the plot alone
        write_plot(options.plot, report)
    if ending is not None:
        raise ending
    worse = [each for each in changes if each.worse]
    if worse:
        raise SlowerError("; ".join(map(str, worse)))


def _about(planned: Planned) -> dict[str, Any]:
    return {
        "asked": dict(planned.asked),
        "label": planned.label,
        "source": ", ".join(dict.fromkeys(redact(each.source) for each in planned.config.streams)),
    }


def _told(point: Prepared) -> dict[str, Any]:
    about = _about(point.planned)
    return {**about, "precision": dict(point.about)} if point.about else about


def _measured(point: Prepared, settings: Settings, told: Callable[[list[float]], None]) -> dict[str, Any]:
    if point.error:
        raise PipelineError(point.error)
    found = {**_told(point), **apart(measure, point.planned.config, settings, told)}
    found["notes"] = [*found["notes"], *point.noted(found)]
    return found


class _Showing:
    """Progress on a terminal, a line for each point elsewhere."""

    def __init__(self, err: Console) -> None:
        self._err = err
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self._bars = Progress(*columns, console=err, transient=True, disable=not on_terminal(err))
        self._task = self._bars.add_task("")

    def __enter__(self) -> Callable[[int, int, Planned], Callable[[list[float]], None]]:
        self._bars.start()
        return self._point

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def _point(self, number: int, count: int, point: Planned) -> Callable[[list[float]], None]:
        what = f"{number + 1} of {count}" if count > 1 else "measuring"
        shown = f"{what}: {point.label}" if point.label else what
        self._bars.update(self._task, description=f"{shown}: opening, each stage alone")
        if not on_terminal(self._err):
            self._err.print(shown, highlight=False)

        def told(rates: list[float]) -> None:
            recent = ", ".join(f"{rate:.1f}" for rate in rates[-3:])
            self._bars.update(self._task, description=f"{shown}: {recent} frames/s")

        return told
