"""Throughput and latency against load, as a picture (PNG, SVG) or a page (HTML). Needs matplotlib."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.bench.compare import said
from pipeline.errors import ConfigError, DependencyError, SinkOpenError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (".png", ".svg", ".html")
MOST_ABOVE = 4
"""Words of a legend that stand above what is drawn; a longer one stands below."""

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>framerail bench</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem}}
table{{border-collapse:collapse}}td,th{{padding:.2rem .8rem;text-align:right;border-bottom:1px solid #ddd}}
td:first-child,th:first-child{{text-align:left}}svg{{width:100%;height:auto}}.note{{color:#a15c00}}</style>
<h1>framerail bench</h1><p>{about}</p>{picture}
<table><tr>{headings}</tr>{rows}</table>{notes}</html>
"""


def check_plot(path: str) -> None:
    """Raise now, not after minutes: ConfigError, DependencyError or SinkOpenError."""
    if Path(path).suffix.lower() not in KINDS:
        raise ConfigError(f"--plot {path}: expected a name that ends in {', '.join(KINDS)}")
    if find_spec("matplotlib") is None:
        raise DependencyError("a plot needs matplotlib: pip install 'framerail[plot]', or leave out --plot")
    if not Path(path).absolute().parent.is_dir():
        raise SinkOpenError(f"cannot write {path}: there is no folder {Path(path).parent}")


def write_plot(path: str, report: Mapping[str, Any]) -> None:
    """Draw the points of a result. Raises SinkOpenError."""
    points = [point for point in report["points"] if "error" not in point]
    figure = _figure(points, _about(report["machine"], points))
    kind = Path(path).suffix.lower()
    try:
        if kind == ".html":
            picture = io.StringIO()
            figure.savefig(picture, format="svg")
            Path(path).write_text(_page(picture.getvalue(), report, points), encoding="utf-8")
        else:
            figure.savefig(path, format=kind[1:], dpi=130)
    except OSError as error:
        raise SinkOpenError(f"cannot write {path}: {error.strerror}") from None


def _about(machine: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> str:
    providers = ", ".join(dict.fromkeys(point["provider"]["active"] for point in points))
    where = f"{machine['cpu']}, {machine['cores']} cores"
    return f"{points[0]['model']['name']} · {providers} · {where} · {machine['date']}"


def _figure(points: Sequence[Mapping[str, Any]], about: str) -> Figure:
    from matplotlib.figure import Figure

    lines = len({_others(point) for point in points})
    figure = Figure(figsize=(11, 4.4 + 0.2 * lines * (lines > 2)), layout="constrained")
    figure.suptitle(about, fontsize=9)
    left, right = figure.subplots(1, 2)
    if len(points) > 1 and all("streams" in point["asked"] for point in points):
        _against_streams(left, right, points)
    else:
        _side_by_side(left, right, points)
    left.set_ylabel("frames/s")
    right.set_ylabel("latency, ms")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        # Never over what is drawn.
        if len(axes.get_legend_handles_labels()[1]) > MOST_ABOVE:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize=7, frameon=False)
        else:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=MOST_ABOVE, fontsize=8, frameon=False)
    return figure


def _against_streams(left: Axes, right: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """A line for each setting that is not the number of streams."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        lines.setdefault(_others(point) + _price(point), []).append(point)
    for label, along in lines.items():
        streams = [point["asked"]["streams"] for point in along]
        (line,) = left.plot(streams, [point["fps"] for point in along], "o-", label=label or "frames/s")
        bound = [point["bound_fps"] for point in along]
        left.plot(streams, bound, "--", color=line.get_color(), alpha=0.5, label=f"{label} bound".strip())
        for quantile, style in (("p50", "o-"), ("p99", "^:")):
            values = [point["latency_ms"][quantile] for point in along]
            right.plot(streams, values, style, color=line.get_color(), label=f"{label} {quantile}".strip())
    for axes in (left, right):
        axes.set_xlabel("streams")
        axes.set_xticks(sorted({point["asked"]["streams"] for point in points}))


def _others(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in point["asked"].items() if key != "streams")


def _side_by_side(left: Axes, right: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """A bar for each point."""
    places = list(range(len(points)))
    named = (f"{point['label']}{_price(point)}" for point in points)
    labels = [name.replace(", ", "\n").replace(" (", "\n(") or "as given" for name in named]
    left.bar(places, [point["fps"] for point in points], 0.6, label="frames/s")
    bounds = [point["bound_fps"] for point in points]
    left.hlines(bounds, [at - 0.4 for at in places], [at + 0.4 for at in places], "black", label="bound")
    for shift, quantile in ((-0.2, "p50"), (0.2, "p99")):
        heights = [point["latency_ms"][quantile] for point in points]
        right.bar([place + shift for place in places], heights, 0.38, label=quantile)
    for axes in (left, right):
        axes.set_xticks(places, labels, fontsize=8)


def _price(point: Mapping[str, Any]) -> str:
    """What a point's precision costs: a rate without it is half the truth."""
    return f" ({said(point['precision']['ap_loss'])} AP lost)" if "precision" in point else ""


def _page(picture: str, report: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> str:
    lost = any("precision" in point for point in points)
    headings = (
        "",
        "frames/s",
        *(["AP lost"] if lost else []),
        "bound",
        "reached",
        "p50 ms",
        "p99 ms",
        "CPU ms a frame",
        "MB",
        "bottleneck",
    )
    rows = [
        (
            point["label"] or "as given",
            f"{point['fps']:,.1f}",
            *([said(point["precision"]["ap_loss"])] if lost else []),
            f"{point['bound_fps']:,.1f}",
            f"{point['ratio']:.1%}",
            f"{point['latency_ms']['p50']:.1f}",
            f"{point['latency_ms']['p99']:.1f}",
            f"{point['cpu_ms_per_frame']:.2f}",
            f"{point['peak_mb']:.0f}",
            point["bottleneck"]["what"],
        )
        for point in points
    ]
    versions = ", ".join(f"{name} {version}" for name, version in report["machine"]["versions"].items())
    notes = [
        f"{point['label']}: {note}"
        for point in report["points"]
        for note in ([point["error"]] if "error" in point else point["notes"])
    ]
    return _PAGE.format(
        about=html.escape(f"{_about(report['machine'], points)}; {versions}"),
        picture=picture[picture.index("<svg") :],
        headings="".join(f"<th>{heading}</th>" for heading in headings),
        rows="".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        ),
        notes="".join(f'<p class="note">{html.escape(note)}</p>' for note in notes),
    )
