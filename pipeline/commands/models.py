"""``framerail models list | info | verify``."""

from __future__ import annotations

import threading
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipeline.classification import listed
from pipeline.config import StreamConfig
from pipeline.detector import Detector
from pipeline.errors import ModelError
from pipeline.frame import Image
from pipeline.printable import json_text, printable
from pipeline.runtime.card import ModelCard, read_card
from pipeline.runtime.catalog import cards, file_of, locate, user_dir
from pipeline.runtime.download import shown
from pipeline.runtime.model import Model, describe
from pipeline.runtime.session import Session
from pipeline.sources import Picture, open_source, parse_source

_WHOLE = "COCO val2017"
"""The dataset of published figures; others are marked."""


def show_list(console: Console, *, as_json: bool) -> None:
    """Every card, and where its file is. A card that cannot be read is listed with what is wrong."""
    rows = [_listed(name, path) for name, path in cards().items()]
    if as_json:
        print(json_text(rows))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("name", "family", "input", "AP", "size", "licence", "here"):
        table.add_column(heading, no_wrap=True, min_width=len(heading))
    problems = []
    for row in rows:
        if "error" in row:
            table.add_row(row["name"], "", "", "", "", "", "no")
            problems.append(row["error"])
            continue
        size, accuracy = row["input"]["size"], row["accuracy"]
        table.add_row(
            row["name"],
            row["family"],
            f"{size[1]}x{size[0]}" if size else "",
            _ap(accuracy) if accuracy else "",
            f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else "",
            row["license"],
            "yes" if row["present"] else "no",
        )
    console.print(table)
    accuracies = [row["accuracy"] for row in rows if row.get("accuracy")]
    for dataset in sorted({each["dataset"] for each in accuracies} - {_WHOLE}):
        console.print(f"* AP on {dataset}; others: {_WHOLE}", soft_wrap=True)
    if any(row.get("urls") and not row["present"] for row in rows):
        console.print("framerail models pull NAME (or all) downloads those that are not here")
    with suppress(ModelError):
        console.print(f"files lie beside their cards, or in {user_dir()}", soft_wrap=True)
    for problem in problems:
        console.print(problem, soft_wrap=True)


def _ap(accuracy: dict[str, Any]) -> str:
    """The figure, marked where it is of a sample: that of another set cannot be compared with it."""
    return f"{accuracy['ap']:.3f}".removeprefix("0") + ("" if accuracy["dataset"] == _WHOLE else "*")


def _listed(name: str, card_path: Path) -> dict[str, Any]:
    try:
        card = read_card(card_path)
    except ModelError as error:
        return {"name": name, "present": False, "path": None, "card": str(card_path), "error": str(error)}
    path = file_of(card, card_path)
    found = {"present": path is not None, "path": str(path) if path else None, "card": str(card_path)}
    # In the list, a card goes by the name that finds it, whatever it calls itself.
    return {**card.model_dump(), "name": name, **found, "urls": [shown(url) for url in card.urls]}


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
    card_path = cards().get(name)
    if card_path is not None and not as_json and file_of(card := read_card(card_path), card_path) is None:
        _show_card(card, card_path, console)
        return
    located = locate(name)
    data = describe_as_data(describe(located, Session(located.path, "cpu")))
    data["file"] = str(located.path)
    data["card"] = str(located.card_path) if located.card_path else None
    if as_json:
        print(json_text(data))
        return
    table = Table(show_header=True, title=f"{data['name']}  ({data['file']})", title_justify="left")
    for heading in ("property", "value", "why"):
        table.add_column(heading, overflow="fold")
    spec, reasons = data["input"], dict(data["reasons"])
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
        "labels": listed(data["labels"], 6),
        "thresholds": f"conf {data['conf_threshold']}, iou {data['iou_threshold']}",
        "classes": len(data["labels"]),
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


def _show_card(card: ModelCard, card_path: Path, console: Console) -> None:
    """What there is to say of a model whose file is not here yet."""
    table = Table(title=f"{card.name}  ({card_path})", title_justify="left")
    for heading in ("property", "value"):
        table.add_column(heading, overflow="fold")
    left_out = {"name", "input", "params", "urls", "accuracy"}
    parts = card.model_dump(exclude_none=True, exclude=left_out), card.input.model_dump(exclude_none=True)
    for indent, part in zip(("", "  ", "  "), (*parts, card.params), strict=True):
        for key, value in part.items():
            listed = isinstance(value, list | tuple)
            table.add_row(f"{indent}{key}", ", ".join(map(str, value)) if listed else str(value))
    if card.accuracy is not None:
        measured = card.accuracy
        ap50 = f", AP50 {measured.ap50:.3f}" if measured.ap50 is not None else ""
        how = f": {measured.protocol}" if measured.protocol else ""
        table.add_row("accuracy", f"AP {measured.ap:.3f}{ap50} on {measured.dataset}{how}")
    for url in card.urls:
        table.add_row("url", shown(url))
    console.print(table)
    console.print(f"its file is not here yet: framerail models pull {card_path.stem} downloads it")


def verify(name: str, provider: str, console: Console) -> None:
    """Hash, load, run on a frame of the bundled clip; say what was found."""
    located = locate(name)
    stated = located.card.sha256 if located.card is not None else None
    verdict = "as its card says" if stated else "(no card states one to compare with)"
    if stated not in (None, located.sha256):
        verdict += f", which is of the file alone; with its weights beside it {located.sha256}"
    console.print(f"sha256 {stated or located.sha256}  {verdict}", soft_wrap=True)
    detector = Detector(name, provider=provider)
    session = detector.model.session
    nodes = ", ".join(f"{count} nodes on {where}" for where, count in session.nodes.items())
    console.print(f"runs on {session.active}: {nodes}")
    if detector.model.family.task == "classify":
        classes = detector.classify(_picture())
        best = zip(classes.labels, classes.confidence.tolist(), strict=True)
        guesses = ", ".join(f"{printable(label)} {sure:.2f}" for label, sure in best)
        console.print(f"a frame of the bundled clip: {guesses}")
        return
    found = detector.detect(_picture())
    if not np.isfinite(found.xyxy).all():
        raise ModelError(f"model {name!r} gives boxes that are not finite")
    console.print(f"a frame of the bundled clip: {len(found)} detections")
    for box, confidence, _, label in found:
        console.print(f"  {printable(label)} {confidence:.2f} at {[round(float(edge)) for edge in box]}")


def _picture() -> Image:
    """A frame of the bundled clip, two seconds in, when something is to be seen."""
    with open_source(parse_source("sample:"), StreamConfig(source="sample:"), threading.Event()) as source:
        for picture in islice(source, 50, None):
            if isinstance(picture, Picture):
                return picture.image
    raise ModelError("the bundled clip cannot be read; reinstall framerail")
