"""A benchmark's result as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.bench.compare import Change, said
from pipeline.summary import ways


def print_report(report: Mapping[str, Any], out: Console) -> None:
    """One point in full, several as a table of points; notes below."""
    about, measured = report["machine"], [point for point in report["points"] if "error" not in point]
    out.print(
        f"{about['cpu']}, {about['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        style="italic",
        highlight=False,
    )
    if len(report["points"]) == 1:
        _print_point(measured[0], out)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    lost = any("precision" in point for point in report["points"])
    for heading in (
        "frames/s",
        *(["AP lost"] if lost else []),
        "of bound",
        "bottleneck",
        "p50 ms",
        "p99 ms",
        "MB",
    ):
        table.add_column(heading, justify="left" if heading == "bottleneck" else "right")
    for point in report["points"]:
        cost = [said(point["precision"]["ap_loss"])] if lost else []
        if "error" in point:
            refused = lost and point["precision"]["accepted"] is False
            table.add_row(point["label"], "–", *cost, "", "refused" if refused else "cannot run")
            continue
        latency = point["latency_ms"]
        table.add_row(
            point["label"] + (" *" if point["notes"] else ""),
            f"{point['fps']:,.1f}",
            *cost,
            f"{point['ratio']:.2f}",
            point["bottleneck"]["what"],
            f"{latency['p50']:.1f}",
            f"{latency['p99']:.1f}",
            f"{point['peak_mb']:.0f}",
        )
    out.print(table)
    for point in report["points"]:
        noted = "error" not in point
        for note in point["notes"] if noted else [point["error"]]:
            out.print(f"{'* ' * noted}{point['label']}: {note}", highlight=False, soft_wrap=True)
    for profile in dict.fromkeys(point["profile"] for point in measured if point["profile"] is not None):
        out.print(_by_profile(profile), highlight=False, soft_wrap=True)
    best = max(measured, key=lambda point: point["fps"])
    price = f", {said(best['precision']['ap_loss'])} AP lost" if lost else ""
    out.print(f"fastest: {best['label']}, {best['fps']:,.1f} frames/s{price}", highlight=False)
    for truth in dict.fromkeys(
        point["precision"]["measured"]["truth"] for point in report["points"] if _lossy(point)
    ):
        out.print(f"AP lost: against {truth}", highlight=False)


def _by_profile(path: str) -> str:
    return f"by the profile that tune has made, {path} (--no-profile leaves it out)"


def _lossy(point: Mapping[str, Any]) -> bool:
    return point.get("precision", {}).get("measured") is not None


def _print_point(point: Mapping[str, Any], out: Console) -> None:
    settings, provider = point["settings"], point["provider"]
    say = partial(out.print, highlight=False, soft_wrap=True)
    say(
        f"{point['model']['name']} on {provider['active']}: {ways(settings)}; {point['source']}",
    )
    if point["profile"] is not None:
        say(_by_profile(point["profile"]))
    if "precision" in point:
        precision = point["precision"]
        against = f" against {precision['measured']['truth']}" if _lossy(point) else ""
        say(f"{point['label']}: {said(precision['ap_loss'])} AP lost{against}")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage")
    for heading in ("alone, CPU ms", "alone, ms", "in line, ms", "p99 ms", "busy", "queue"):
        table.add_column(heading, justify="right")
    fill = _queue_before(point["channels"])
    for name, stage in point["stages"].items():
        figures = (stage["alone_cpu_ms"], stage["alone_ms"], stage["line_ms"], stage["line_p99_ms"])
        table.add_row(
            name,
            *("–" if figure is None else f"{figure:.2f}" for figure in figures),
            f"{stage['busy']:.0%}",
            fill.get(name, ""),
        )
    out.print(table)
    windows = ", ".join(f"{rate:,.1f}" for rate in point["windows"][-point["counted"] :])
    say(f"{point['fps']:,.1f} frames/s (windows: {windows})", style="bold")
    bound = point["bounds"][0]
    say(f"bound {bound['fps']:,.1f}: {bound['what']}, {bound['why']}; reached {point['ratio']:.1%}")
    say(f"bottleneck: {point['bottleneck']['what']}: {point['bottleneck']['why']}")
    latency = ", ".join(f"{name} {value:.1f}" for name, value in point["latency_ms"].items())
    say(
        f"latency ms: {latency}; CPU {point['cpu_ms_per_frame']:.2f} ms a frame; "
        f"memory {point['peak_mb']:.0f} MB"
    )
    for note in point["notes"]:
        say(f"note: {note}", style="yellow")


def _queue_before(channels: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """How full the channel is that each stage takes from."""
    takers = {"blobs": "infer", "outputs": "postprocess", "results": "emit"}
    fills: dict[str, list[float]] = {}
    for name, channel in channels.items():
        taker = takers.get(name, "preprocess" if name.startswith("frames:") else "")
        fills.setdefault(taker, []).append(channel["fill"])
    return {taker: f"{sum(each) / len(each):.0%} full" for taker, each in fills.items()}


def print_changes(changes: Sequence[Change], others: Sequence[str], out: Console) -> None:
    """Then and now, and what ``others`` differ that no figure shows."""
    table = Table(title="Then and now", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "what", "then", "now", "speed", "noise", ""):
        table.add_column(heading, justify="left" if heading in ("", "what") else "right")
    for each in changes:
        figures = (
            f"{each.then:,.2f}",
            f"{each.now:,.2f} {each.unit}",
            f"× {each.ratio:.2f}",
            f"{each.noise:.0%}",
        )
        if each.error:
            figures = (figures[0], "–", "", "")
        table.add_row(each.point, each.what, *figures, "" if each.verdict == "same" else each.verdict)
    out.print(table)
    if not any(each.worse for each in changes):
        out.print("nothing is slower beyond noise", highlight=False)
    for other in others:
        out.print(f"not the same: {other}", style="yellow", highlight=False, soft_wrap=True)
