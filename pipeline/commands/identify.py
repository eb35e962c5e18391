"""``framerail models identify``: what a model is, how it is fed, what it answers, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.classification import listed
from pipeline.decoders import DECODERS
from pipeline.decoders.contract import image_input
from pipeline.decoders.family import classes_text
from pipeline.errors import UnknownLayoutError
from pipeline.printable import json_text, printable
from pipeline.runtime.catalog import Located, locate
from pipeline.runtime.model import Model, describe
from pipeline.runtime.session import Session
from pipeline.runtime.soundness import complaints
from pipeline.runtime.trial import Trial, photograph

_FAINT = 0.02
"""The best score for a picture with a person and a cat in it; a detector that stays below sees nothing."""
_MANY = 1000
"""Candidates of which a detector is never sure of half."""


def identify(name: str, out: Console, *, as_json: bool) -> None:
    """Print what was found out about a model. Raises ModelError.

    For a model that is not recognised, what to write into a card is printed instead (with ``as_json`` the
    error and the card), and UnknownLayoutError is raised.
    """
    located = locate(name)
    session = Session(located.path, "cpu")
    try:
        model = describe(located, session)
    except UnknownLayoutError as error:
        card = card_skeleton(located, session, error.candidates)
        both = {"error": str(error), "card": card}
        print(json_text(both) if as_json else printable(card, "\n"))
        raise
    data = as_data(model, located)
    if as_json:
        print(json_text(data))
    else:
        _show(data, out)


def as_data(model: Model, located: Located) -> dict[str, Any]:
    """What was found, each property with its reason."""
    spec, found, reasons = model.spec, model.found, model.reasons
    assert found is not None
    contract: dict[str, Any] = {
        "height": spec.height,
        "width": spec.width,
        "layout": spec.layout,
        "dtype": str(spec.dtype),
        "color": spec.color,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "resize": spec.resize,
        "align": spec.align,
        "pad": spec.pad,
        "stride": spec.stride,
        "batch": model.max_batch or "any",
    }
    holds = found.holds or ("",) * len(model.session.outputs)
    return {
        "name": model.name,
        "file": str(located.path),
        "sha256": model.sha256,
        "family": model.family.name,
        "task": model.family.task,
        "stated": model.stated,
        "classes": len(model.labels),
        "labels": list(model.labels),
        "input": contract,
        "inputs": [str(tensor) for tensor in model.session.inputs],
        "outputs": [
            {"tensor": str(tensor), "holds": held}
            for tensor, held in zip(model.session.outputs, holds, strict=True)
        ],
        "params": {key: _plain(value) for key, value in model.params.items()},
        "thresholds": {"conf": model.conf_threshold, "iou": model.iou_threshold, "nms": model.family.nms},
        "reasons": {
            **reasons,
            "size": reasons["size"],
            "batch": f"the model's input, {image_input(model.session.inputs)}"
            if found.batched
            else "its outputs have no batch axis",
        },
        "evidence": found.evidence,
        "runner_up": found.runner_up and asdict(found.runner_up),
        "warnings": [*filter(None, [found.doubt]), *broken(model)],
    }


def broken(model: Model) -> Iterator[str]:
    """Yield what makes a model look broken, or unfit for what it is tried on. Runs it twice."""
    trial = Trial(model.session)
    outputs = trial.run(model.spec)
    yield from (f"it looks broken: {each}" for each in complaints(model.session.outputs, outputs))
    other = trial.run(model.spec, np.ascontiguousarray(255 - photograph()[::-1]))
    if all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(outputs, other, strict=True)):
        yield "it looks broken: it gives the same answer to two different pictures"
    scores = model.decode(outputs, 0.0).scores
    best = float(scores.max(initial=0.0))
    if len(scores) > 1 and np.ptp(scores) == 0:
        yield f"it looks broken: all its scores are the same ({best:.3g})"
    elif best < _FAINT:
        yield (
            f"it sees nothing in a picture with a person and a cat (best score {best:.2g}): made "
            "for other things, fed in a wrong way, or broken"
        )
    elif model.family.task != "classify" and len(scores) >= _MANY and float((scores > 0.5).mean()) > 0.5:
        sure = int((scores > 0.5).sum())
        yield f"it looks broken: it is sure of {sure} of its {len(scores)} candidates in one picture"


def card_skeleton(located: Located, session: Session, candidates: Sequence[tuple[str, int]] = ()) -> str:
    """The card that a user would have to complete, TOML with comments; ``candidates``: what it could be."""
    image = image_input(session.inputs)
    known = " or ".join(f"{family} ({classes_text(count)})" for family, count in candidates)
    known = known or f"one of: {', '.join(DECODERS)}"
    likely = candidates[0][0] if len(candidates) == 1 else ""
    lines = [
        f"# {located.path.stem}.toml, beside the model: complete it, then identify again",
        f'name = "{located.path.stem}"',
        f'file = "{located.path.name}"',
        f'family = "{likely}"      # {known}',
        "labels = []      # the class names in the order of the outputs",
        "",
        "[input]",
        '# color = "RGB"  # or BGR; mean, std, resize, align, pad: see docs/models.md',
    ]
    if image is not None and None in image.shape[1:]:
        lines.append("# size = [640, 640]  # height, width: the file leaves them open")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    return list(map(_plain, value)) if isinstance(value, list | tuple) else value


def _show(data: dict[str, Any], out: Console) -> None:
    table = Table(title=f"{data['name']}  ({data['file']})", title_justify="left")
    for heading in ("property", "value", "why"):
        table.add_column(heading, overflow="fold")
    reasons = data["reasons"]
    table.add_row("family", f"{data['family']} ({data['task']})", reasons["family"])
    if data["evidence"]:
        table.add_row("", "", data["evidence"])
    other = data["runner_up"]
    if other is not None:
        table.add_row("runner-up", f"{other['family']} ({classes_text(other['num_classes'])})", other["why"])
        table.add_row("", "told apart by", other["apart"])
    elif data["stated"]:
        table.add_row("runner-up", "not looked for", "the family is stated")
    else:
        table.add_row("runner-up", "none", "no other family reads it")
    table.add_row("labels", listed(data["labels"], 5), reasons["labels"])
    contract = data["input"]
    table.add_row("input", f"{contract['width']}x{contract['height']}", reasons["size"])
    for key in ("stride", "batch", "layout", "dtype", "color", "mean", "std", "resize", "align", "pad"):
        if contract[key] is not None:
            table.add_row(f"  {key}", str(contract[key]), reasons.get(key, ""))
    for tensor in data["inputs"]:
        table.add_row("takes", tensor, "the file")
    for output in data["outputs"]:
        table.add_row("gives", output["tensor"], output["holds"])
    for key, value in data["params"].items():
        table.add_row(f"params.{key}", str(value), reasons.get(key, "see family"))
    limits = data["thresholds"]
    nms = f", iou {limits['iou']}" if limits["nms"] else ", no NMS needed"
    table.add_row("thresholds", f"conf {limits['conf']}{nms}", reasons["thresholds"])
    out.print(table)
    for warning in data["warnings"]:
        out.print(f"WARNING: {warning}", style="bold", highlight=False, soft_wrap=True)
