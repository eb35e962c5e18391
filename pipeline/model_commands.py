"""``framerail models list | info | verify``."""

from __future__ import annotations

import json
import threading
from itertools import islice
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.config import StreamConfig
from pipeline.detector import Detector
from pipeline.errors import ModelError
from pipeline.frame import Image
from pipeline.runtime.card import read_card
from pipeline.runtime.catalog import cards, locate
from pipeline.runtime.model import Model, describe
from pipeline.runtime.session import Session
from pipeline.sources import Picture, open_source, parse_source


def show_list(console: Console, *, as_json: bool) -> None:
    """Every card."""
    entries = [(name, path, read_card(path)) for name, path in cards().items()]
    if as_json:
        rows = [
            {"name": name, "present": (path.parent / card.file).is_file(), **card.model_dump()}
            for name, path, card in entries
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table()
    for heading in ("name", "family", "input", "AP", "size", "licence", "here"):
        table.add_column(heading)
    for name, path, card in entries:
        size = card.input.size
        table.add_row(
            name,
            card.family,
            f"{size[1]}x{size[0]}" if size else "",
            f"{card.accuracy.ap:.3f}" if card.accuracy else "",
            f"{card.bytes / 1e6:.1f} MB" if card.bytes else "",
            card.license,
            "yes" if (path.parent / card.file).is_file() else "no",
        )
    console.print(table)


def describe_as_data(model: Model) -> dict[str, Any]:
    """A model's properties and the reason for each."""
    spec = model.spec
    return {
        "name": model.name,
        "sha256": model.sha256,
        "license": model.license,
        "family": model.family.name,
        "classes": len(model.labels),
        "labels": list(model.labels),
        "input": {
            "height": spec.height,
            "width": spec.width,
            "dtype": str(np.dtype(spec.dtype)),
            "color": spec.color,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "resize": spec.resize,
            "align": spec.align,
            "pad": spec.pad,
        },
        "conf_threshold": model.conf_threshold,
        "iou_threshold": model.iou_threshold,
        "params": {key: str(value) for key, value in model.params.items()},
        "inputs": [str(tensor) for tensor in model.session.inputs],
        "outputs": [str(tensor) for tensor in model.session.outputs],
        "reasons": model.reasons,
    }


def show_info(name: str, console: Console, *, as_json: bool) -> None:
    """How a model is fed and read, and why. Raises ModelError."""
    located = locate(name)
    data = describe_as_data(describe(located, Session(located.path, "cpu")))
    data["file"] = str(located.path)
    data["card"] = str(located.card_path) if located.card_path else None
    if as_json:
        print(json.dumps(data, indent=2, ensure_ascii=False))
        return
    table = Table(show_header=True, title=f"{data['name']}  ({data['file']})", title_justify="left")
    for heading in ("property", "value", "why"):
        table.add_column(heading, overflow="fold")
    spec, reasons = data["input"], dict(data["reasons"])
    labels = data["labels"]
    shown = ", ".join(labels[:6]) + (f", … ({len(labels)})" if len(labels) > 6 else "")
    rows = {
        "family": data["family"],
        "size": f"{spec['width']}x{spec['height']}",
        "dtype": spec["dtype"],
        "color": spec["color"],
        "mean": spec["mean"],
        "std": spec["std"],
        "resize": spec["resize"],
        "align": spec["align"],
        "pad": spec["pad"],
        "labels": shown,
        "thresholds": f"conf {data['conf_threshold']}, iou {data['iou_threshold']}",
        "classes": len(labels),
        **{f"params.{key}": value for key, value in data["params"].items()},
    }
    reasons |= {f"params.{key}": reasons.pop(key, "default") for key in data["params"]}
    for key, value in rows.items():
        table.add_row(key, str(value), reasons.pop(key, ""))
    for side in ("inputs", "outputs"):
        table.add_row(side, "\n".join(data[side]), "the file")
    table.add_row("sha256", data["sha256"], "")
    table.add_row("licence", data["license"] or "not stated", "")
    console.print(table)


def verify(name: str, provider: str, console: Console) -> None:
    """Hash, load, run on a frame of the bundled clip; say what was found."""
    located = locate(name)
    stated = located.card is not None and located.card.sha256 is not None
    verdict = "as its card says" if stated else "(no card states one to compare with)"
    console.print(f"sha256 {located.sha256}  {verdict}", soft_wrap=True)
    detector = Detector(name, provider=provider)
    session = detector.model.session
    console.print(f"runs on {session.active} {session.nodes}")
    found = detector.detect(_picture())
    if not np.isfinite(found.xyxy).all():
        raise ModelError(f"model {name!r} gives boxes that are not finite")
    console.print(f"a frame of the bundled clip: {len(found)} detections")
    for box, confidence, _, label in found:
        console.print(f"  {label} {confidence:.2f} at {[round(float(edge)) for edge in box]}")


def _picture() -> Image:
    """A frame of the bundled clip, two seconds in, when something is to be seen."""
    with open_source(parse_source("sample:"), StreamConfig(source="sample:"), threading.Event()) as source:
        for picture in islice(source, 50, None):
            if isinstance(picture, Picture):
                return picture.image
    raise ModelError("the bundled clip cannot be read; reinstall framerail")
