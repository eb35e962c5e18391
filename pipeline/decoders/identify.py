"""Which family a model belongs to and how it is fed, with reasons.

Told from what its file declares and, where the caller can run the model, from what it answers to
a photograph. Every family looks at the model fed in that family's own way; of those that know the
layout the one that is certain wins, else the one whose boxes make sense, and where two remain
nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.decoders.coco import unlike_coco, unnamed
from pipeline.decoders.contract import image_input, layout_of
from pipeline.decoders.family import Family, Numbers, TensorInfo, View, classes_text
from pipeline.decoders.feeding import Feeding, better_fed
from pipeline.decoders.names import names_of
from pipeline.decoders.readings import Reading, Trial, choose, confirm, read, stride_of, told_apart
from pipeline.decoders.refusals import input_problem, output_problem, task_problem
from pipeline.decoders.table import DECODERS
from pipeline.decoders.ways import read_all, way_of
from pipeline.errors import ModelError, UnknownLayoutError


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """The next best reading: ``why`` it could be, and what told the one that was taken ``apart`` from it."""

    family: str
    num_classes: int
    why: str
    apart: str


@dataclass(frozen=True, slots=True)
class Identification:
    """What was found out about a model.

    ``input`` are the arguments of a ``vision.InputSpec``: height, width, color, mean, std, resize,
    align, pad, dtype, layout, stride. ``params`` is for the family's ``decode``. ``labels`` are the
    model's own, empty where it has none. ``reasons`` says where each came from: family, classes,
    labels, size, dtype, color, mean, std, resize, align, pad. ``evidence`` is what the trial run
    says, ``holds`` what each output holds, ``runner_up`` the next best reading, ``doubt`` what the
    file leaves open and was taken as likeliest; each None or empty where there is none.
    """

    family: Family
    num_classes: int
    labels: tuple[str, ...]
    input: dict[str, Any]
    params: dict[str, Any]
    reasons: dict[str, str]
    batched: bool = True
    holds: tuple[str, ...] = ()
    evidence: str | None = None
    runner_up: RunnerUp | None = None
    doubt: str | None = None
    numbers: Numbers | None = None
    """Whose class numbers a model answers with that gives those instead of a score for each class."""
    unlike_coco: str | None = None
    """What the trial run says against COCO's names, where as many classes are named by nothing."""

    @property
    def counted(self) -> bool:
        """Whether ``num_classes`` is how many there are; else it is a bound, because nothing tells."""
        return self.numbers is None or self.numbers.counted

    color_told: bool = True
    """Whether the colours' order is stated, beyond question, or told by the trial run."""


def identify(
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    metadata: Mapping[str, str],
    *,
    family: str | None = None,
    labels: Sequence[str] = (),
    stated: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    trial: Trial | None = None,
) -> Identification:
    """Identify a model by its declared inputs, outputs and metadata, and by a trial run.

    ``family``, ``labels``, ``stated`` (arguments of an InputSpec) and ``params`` are what a
    card says; they decide where the file alone is ambiguous. Raises UnknownLayoutError, with the shapes seen
    and the families known, when no family fits or several do; ModelError for a ``family`` that
    doesn't exist.
    """
    if family is not None and family not in DECODERS:
        raise ModelError(f"unknown family {family!r}; known: {', '.join(DECODERS)}")
    problem = input_problem(inputs) or output_problem(outputs) or task_problem(metadata)
    if problem is not None:
        raise _refusal(problem, inputs, outputs)
    own_labels, labels_reason, nameless = names_of(metadata)
    names = labels or own_labels
    known_classes = len(names) or None
    image = image_input(inputs)
    assert image is not None  # or there would have been a problem

    view = View(
        outputs=tuple(outputs),
        input_hw=(0, 0),
        num_classes=known_classes,
        metadata=metadata,
        extra_inputs=tuple(tensor.name for tensor in inputs if tensor is not image),
        stated=family is not None,
    )
    candidates = [DECODERS[family]] if family is not None else _for_task(metadata.get("task"))
    ways = [way_of(candidate, image, metadata, stated or {}) for candidate in candidates]
    readings, view, trial = read_all(image, ways, view, params or {}, trial)
    if not readings:
        named = f" with {classes_text(known_classes)}, as its names or card say" if known_classes else ""
        fits = "its outputs fit no known layout" if family is None else f"it doesn't fit family {family}"
        raise _refusal(fits + named, inputs, outputs)
    choice = choose(readings) if family is None else confirm(readings[0], names)
    chosen = choice.reading
    if chosen is None:
        raise _refusal(choice.problem, inputs, outputs, choice.candidates)

    feeding = Feeding()
    if trial is not None:
        feeding = better_fed(chosen, trial, stated or {}, names)
        if feeding.input is not None:
            again = read(chosen.family, view, feeding.input, chosen.size_reason, params or {}, trial)
            if again is not None:
                match = replace(again.match, batched=chosen.match.batched)
                chosen = replace(again, match=match)
    best_fed = feeding.better or chosen.input
    unlike = unlike_coco(chosen, trial, best_fed) if trial is not None and not names else None
    stride, stride_reason = stride_of(chosen, image, view, trial)
    chosen = chosen if unlike is None else unnamed(chosen, unlike)
    if stride is not None:
        chosen.input["stride"] = stride
    default = f"default of the family {chosen.family.name}"
    reasons = {
        "family": chosen.match.reason,
        "classes": "the model's names, or the card" if known_classes else "as the family reads the outputs",
        "labels": labels_reason,
        "size": chosen.size_reason,
        "dtype": f"the model's input, {image}",
        "layout": _layout_reason(image, chosen),
        "stride": stride_reason,
    }
    reasons |= dict.fromkeys(asdict(chosen.family.input), default)
    if feeding.color is not None:
        reasons["color"] = f"{default}; {feeding.color}"
    elif feeding.doubt is not None:
        reasons |= dict.fromkeys(("color", "mean", "std"), feeding.doubt)
    if image.dtype == "uint8":
        reasons["mean"] = reasons["std"] = "the model's input takes the pixels themselves (uint8)"
    numbers = chosen.match.numbers
    doubts = (
        choice.doubt,
        chosen.match.doubt,
        feeding.doubt,
        None if labels else nameless,
        numbers.doubt if numbers is not None else None,
    )
    return Identification(
        family=chosen.family,
        num_classes=chosen.match.num_classes,
        labels=own_labels,
        input=chosen.input,
        params=dict(chosen.match.params),
        reasons=reasons,
        batched=chosen.match.batched,
        holds=chosen.match.holds,
        evidence=chosen.verdict.reason if chosen.verdict is not None else None,
        runner_up=_runner_up(chosen, choice.runner_up),
        doubt="; ".join(filter(None, doubts)) or None,
        numbers=numbers,
        unlike_coco=unlike,
        color_told=feeding.color_told or "color" in (stated or {}),
    )


def _layout_reason(image: TensorInfo, chosen: Reading) -> str:
    other = chosen.input.get("layout", "NCHW") != layout_of(image)
    return f"the model's input, {image}" + (", which runs so, but not as NCHW" if other else "")


def _runner_up(chosen: Reading, other: Reading | None) -> RunnerUp | None:
    if other is None:
        return None
    said = f"; {other.verdict.reason}" if other.verdict is not None else ""
    why = f"{other.match.reason}{said}"
    return RunnerUp(other.family.name, other.match.num_classes, why, told_apart(chosen, other))


def _for_task(task: str | None) -> Sequence[Family]:
    """The families for a task that the model's own metadata state; all where they state none."""
    return [family for family in DECODERS.values() if task in (None, "", family.task)]


def _refusal(
    problem: str,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    candidates: Sequence[Reading] = (),
) -> UnknownLayoutError:
    return UnknownLayoutError(
        f"cannot use this model: {problem}. Inputs: {', '.join(map(str, inputs)) or 'none'}. "
        f"Outputs: {', '.join(map(str, outputs)) or 'none'}. framerail models identify prints the card to "
        "complete",
        [(reading.family.name, reading.match.num_classes) for reading in candidates],
    )
