"""What ``models quantize`` shows: what came of it, and how fast that is."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pipeline.decoders.contract import image_input
from pipeline.runtime.model import Model
from pipeline.runtime.session import Session

_NO_FASTER = 0.95


def speed(model: Model, copy: Path, rounds: int = 15) -> dict[str, float]:
    """Median ms of a run on one thread; the two take turns, so that a busy machine is busy for both."""
    sessions = {"source": Session(model.session.path, "cpu"), "copy": Session(copy, "cpu")}
    spec = model.spec
    blobs = {}
    for name, session in sessions.items():
        session.feed_size((spec.height, spec.width))
        image = image_input(session.inputs)
        assert image is not None
        blobs[name] = np.full(spec.blob_shape, 0.5, image.dtype)
    spent: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(rounds + 2):
        for name, session in sessions.items():
            begun = time.perf_counter()
            session.run(blobs[name])
            if turn >= 2:
                spent[name].append(time.perf_counter() - begun)
    return {name: round(1000 * statistics.median(seconds), 2) for name, seconds in spent.items()}


def show(report: dict[str, Any], out: Console) -> None:
    """Print what came of it."""
    ms = report["ms_one_thread"]
    for tried in report.get("tried", [])[:-1]:
        out.print(
            f"with {tried['in_float']} layers in float: loss {tried['loss']:.4f}, too much", highlight=False
        )
    if "in_float" in report:
        kept = report["in_float"]
        names = ", ".join(list(kept)[:5]) + (f", and {len(kept) - 5} more" if len(kept) > 5 else "")
        what = f"{len(kept)} of {report['layers']} layers in float{f': {names}' if kept else ''}"
        out.print(what, highlight=False, soft_wrap=True)
    if report.get("untried_layers"):
        out.print(f"time did not reach {report['untried_layers']} layers (--seconds)", highlight=False)
    shares = ", ".join(f"{key} {value:.4f}" for key, value in report["measured"]["AP"].items())
    out.print(f"{shares}; loss {report['measured']['loss']:.4f}", highlight=False, soft_wrap=True)
    out.print(
        f"one thread: {ms['source']} → {ms['copy']} ms a frame; "
        f"{report['source_bytes'] / 1e6:.1f} → {report['bytes'] / 1e6:.1f} MB",
        highlight=False,
        soft_wrap=True,
    )
    if ms["copy"] > _NO_FASTER * ms["source"]:
        out.print("on this machine the copy is no faster than the model", highlight=False)
    if report["accepted"]:
        out.print(
            f"{report['file']}: framerail run … --model {report['file']}", highlight=False, soft_wrap=True
        )
