"""Which family a model belongs to and how it is fed, told from what its file declares, with reasons."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.decoders.family import Family, Match, TensorInfo
from pipeline.decoders.refusals import input_problem, output_problem, task_problem
from pipeline.decoders.table import DECODERS
from pipeline.errors import ModelError, UnknownLayoutError


@dataclass(frozen=True, slots=True)
class Identification:
    """What was found out about a model.

    ``input`` are the arguments of a ``vision.InputSpec``: height, width, color, mean, std, resize,
    align, pad, dtype. ``params`` is for the family's ``decode``. ``labels`` are the model's own,
    empty where it has none. ``reasons`` says where each came from: family, classes, labels, size,
    dtype, color, mean, std, resize, align, pad.
    """

    family: Family
    num_classes: int
    labels: tuple[str, ...]
    input: dict[str, Any]
    params: dict[str, Any]
    reasons: dict[str, str]


def identify(
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    metadata: Mapping[str, str],
    *,
    family: str | None = None,
    num_classes: int | None = None,
) -> Identification:
    """Identify a model by its declared inputs, outputs and metadata.

    ``family`` and ``num_classes`` are what a card says; they decide where the file alone is
    ambiguous. Raises UnknownLayoutError, with the shapes seen and the families known, when no
    family fits or several do; ModelError for a ``family`` that doesn't exist.
    """
    if family is not None and family not in DECODERS:
        raise ModelError(f"unknown family {family!r}; known: {', '.join(DECODERS)}")
    problem = input_problem(inputs) or task_problem(metadata)
    if problem is not None:
        raise _refusal(problem, inputs, outputs)
    labels, labels_reason = _labels(metadata)
    known_classes = num_classes if num_classes is not None else len(labels) or None

    readings = []
    for candidate in DECODERS.values() if family is None else (DECODERS[family],):
        input_hw, size_reason = _size(inputs[0], metadata, candidate)
        match = candidate.recognise(outputs, input_hw, known_classes)
        if match is not None:
            readings.append((candidate, match, input_hw, size_reason))
    certain = [reading for reading in readings if reading[1].certain]
    if not certain and (family is None or not readings):
        # An uncertain reading must not win over a known layout that is none of ours.
        problem = output_problem(outputs, _size(inputs[0], metadata, DECODERS["yolov8"])[0], known_classes)
    found = certain or readings
    if problem is not None or len(found) != 1:
        problem = problem or _why_not_one(
            [(reading[0], reading[1]) for reading in found], family, known_classes
        )
        raise _refusal(problem, inputs, outputs)

    chosen, match, (height, width), size_reason = found[0]
    default = f"default of the family {chosen.name}"
    reasons = {
        "family": match.reason,
        "classes": "the outputs' sizes, and the names or the card agree"
        if known_classes
        else "the outputs' sizes",
        "labels": labels_reason,
        "size": size_reason,
        "dtype": f"the model's input, {inputs[0]}",
    }
    fed = asdict(chosen.input)
    reasons |= dict.fromkeys(fed, default)
    return Identification(
        family=chosen,
        num_classes=match.num_classes,
        labels=labels,
        input={"height": height, "width": width, **fed, "dtype": inputs[0].dtype},
        params=dict(match.params),
        reasons=reasons,
    )


def _size(image: TensorInfo, metadata: Mapping[str, str], family: Family) -> tuple[tuple[int, int], str]:
    """Return height and width of the input, and where they come from."""
    height, width = image.shape[2:]
    if height is not None and width is not None:
        return (height, width), f"input shape {image}"
    stated = _literal(metadata.get("imgsz", ""))
    if isinstance(stated, int):
        stated = [stated, stated]
    if isinstance(stated, list) and len(stated) == 2 and all(isinstance(s, int) and s > 0 for s in stated):
        return (height or stated[0], width or stated[1]), f"metadata imgsz {stated}; the input is dynamic"
    default = family.input_hw
    return (
        height or default[0],
        width or default[1],
    ), f"default of the family {family.name}; the input is dynamic"


def _labels(metadata: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Return the names in Ultralytics' metadata, the repr of a dict or list, and where they come from."""
    text = metadata.get("names")
    if text is None:
        return (), "none: the model's metadata have no names"
    names = _literal(text)
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or sorted(names, key=str) != sorted(range(len(names)), key=str):
        return (), "none: the model's metadata have names, but not one for each class from 0"
    return tuple(str(names[index]) for index in range(len(names))), "metadata names"


def _literal(text: str) -> Any:
    """Return the value of a Python literal; None for text that is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _why_not_one(found: Sequence[tuple[Family, Match]], family: str | None, num_classes: int | None) -> str:
    if found:
        readings = " or ".join(f"{known.name} with {match.num_classes} classes" for known, match in found)
        return f"its outputs could be {readings}: say which in a model card (family = …)"
    named = f" with {num_classes} classes, as its names or card say" if num_classes else ""
    return (
        f"its outputs fit no known layout{named}"
        if family is None
        else f"it doesn't fit family {family}{named}"
    )


def _refusal(problem: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> UnknownLayoutError:
    families = "; ".join(f"{family.name} ({family.layout})" for family in DECODERS.values())
    return UnknownLayoutError(
        f"cannot use this model: {problem}. Inputs: {', '.join(map(str, inputs)) or 'none'}. "
        f"Outputs: {', '.join(map(str, outputs)) or 'none'}. Families known: {families}"
    )
