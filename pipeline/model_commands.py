"""``framerail models list | info | verify | pull``."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich import progress
from rich.console import Console
from rich.table import Table

from pipeline.config import StreamConfig
from pipeline.detector import Detector
from pipeline.errors import ModelError
from pipeline.frame import Image
from pipeline.runtime.card import read_card, sha256_of
from pipeline.runtime.catalog import FOLDER_VARIABLE, cards, file_of, find_card, locate, user_dir
from pipeline.runtime.download import download, shown
from pipeline.runtime.model import Model, describe
from pipeline.runtime.partfile import FolderError
from pipeline.runtime.session import Session
from pipeline.sources import Picture, open_source, parse_source


def show_list(console: Console, *, as_json: bool) -> None:
    """Every card, and where its file is. A card that cannot be read is listed with what is wrong."""
    rows = [_listed(name, path) for name, path in cards().items()]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table()
    for heading in ("name", "family", "input", "AP", "size", "licence"):
        table.add_column(heading, no_wrap=True)
    table.add_column("here", overflow="fold")
    for row in rows:
        if "error" in row:
            table.add_row(row["name"], "", "", "", "", "", row["error"])
            continue
        size, accuracy = row["input"]["size"], row["accuracy"]
        table.add_row(
            row["name"],
            row["family"],
            f"{size[1]}x{size[0]}" if size else "",
            f"{accuracy['ap']:.3f}" if accuracy else "",
            f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else "",
            row["license"],
            row["path"] or ("no: framerail models pull" if row["urls"] else "no"),
        )
    console.print(table)


def _listed(name: str, card_path: Path) -> dict[str, Any]:
    try:
        card = read_card(card_path)
    except ModelError as error:
        return {"name": name, "present": False, "path": None, "card": str(card_path), "error": str(error)}
    path = file_of(card, card_path)
    found = {"present": path is not None, "path": str(path) if path else None, "card": str(card_path)}
    # In the list, a card goes by the name that finds it, whatever it calls itself.
    return {**card.model_dump(), "name": name, **found, "urls": [shown(url) for url in card.urls]}


def pull(names: Sequence[str], folder: str | None, out: Console, err: Console, *, as_json: bool) -> None:
    """Download the files of the named cards, or of ``all`` that have an address; say where each is.

    ``folder``: where to, None for the user's folder (``catalog.user_dir``). Every one is tried before what
    failed is raised: a ModelError, or a group of several. A folder that fails ends it at once. As JSON, the
    ``status`` of each is downloaded, present or failed (with ``error``).
    """
    where = user_dir(folder)
    rows, errors = [], []
    for name, path in _wanted(names, folder).items():
        try:
            rows.append(_pull(name, path, where, folder, err))
        except FolderError:
            raise
        except KeyboardInterrupt:
            err.print(f"{name}: what has come of it is kept; pulling it again goes on from there")
            raise
        except ModelError as error:
            errors.append(error)
            rows.append({"name": name, "status": "failed", "path": None, "error": str(error)})
        if not as_json and rows[-1]["path"] is not None:
            done = "was here already" if rows[-1]["status"] == "present" else "downloaded"
            out.print(f"{name}: {done}: {rows[-1]['path']}", soft_wrap=True, highlight=False)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    elif where != user_dir() and any(row["status"] == "downloaded" for row in rows):
        err.print(f"to have them found there, set {FOLDER_VARIABLE}={where}", soft_wrap=True, highlight=False)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(f"{len(errors)} models cannot be had", errors)


def _wanted(names: Sequence[str], folder: str | None) -> dict[str, Path]:
    """Cards by the names they were asked by. Raises ModelError for a name that is none."""
    if "all" not in names:
        return {name: find_card(name, folder) for name in names}
    every = cards(folder)
    return {name: path for name, path in every.items() if _is_for_download(path)} | {
        name: find_card(name, folder) for name in names if name != "all"
    }


def _is_for_download(card_path: Path) -> bool:
    try:
        return bool(read_card(card_path).urls)
    except ModelError:
        # Kept, so that pulling it says what is wrong with it.
        return True


def _pull(name: str, card_path: Path, where: Path, folder: str | None, err: Console) -> dict[str, Any]:
    card = read_card(card_path)
    here = file_of(card, card_path, folder)
    try:
        right = here is not None and card.sha256 in (None, sha256_of(here))
    except OSError as error:
        raise ModelError(f"model {name!r}: cannot read {here}: {error.strerror}") from None
    status = "present" if right else "downloaded"
    if not right and here is not None and here.parent != where:
        raise ModelError(
            f"model {name!r}: {here}, beside its card, is not the file that the card names; remove it first"
        )
    if not right:
        with progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        ) as bars:
            bar = bars.add_task(name, total=card.bytes)
            here = download(card, where, lambda done, total: bars.update(bar, completed=done, total=total))
    return {
        "name": name,
        "status": status,
        "path": str(here),
        "sha256": card.sha256,
        "bytes": here.stat().st_size if here else None,
    }


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
