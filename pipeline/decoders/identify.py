"""Which family a model belongs to and how it is fed, with reasons.

Told from what its file declares and, where the caller can run the model, from what it answers to
a photograph. Every family looks at the model fed in that family's own way; of those that know the
layout the one that is certain wins, else the one whose boxes make sense, and where two remain
nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from numpy.typing import NDArray

from pipeline.decoders.contract import image_input, input_size, layout_of, literal
from pipeline.decoders.family import Family, Match, TensorInfo, View
from pipeline.decoders.judge import SANE, Verdict, judge
from pipeline.decoders.refusals import input_problem, output_problem, task_problem
from pipeline.decoders.table import DECODERS
from pipeline.errors import ModelError, UnknownLayoutError

Trial = Callable[[Mapping[str, Any]], Sequence[NDArray[Any]]]
"""Runs the model on a photograph fed as the arguments of an InputSpec say; the raw outputs for it."""

_STRIDE = 32
_MARGIN = 0.25
"""By how much one reading's boxes must make more sense than another's."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A family that knows the layout, how it reads it, and what the trial run says of that."""

    family: Family
    match: Match
    input: dict[str, Any]
    size_reason: str
    verdict: Verdict | None

    @property
    def rank(self) -> tuple[bool, float]:
        """The higher the better."""
        return self.match.certain, self.verdict.score if self.verdict is not None else 0.5

    def __str__(self) -> str:
        said = f"; {self.verdict.reason}" if self.verdict is not None else ""
        return f"{self.family.name} with {self.match.num_classes} classes ({self.match.reason}{said})"


@dataclass(frozen=True, slots=True)
class Identification:
    """What was found out about a model.

    ``input`` are the arguments of a ``vision.InputSpec``: height, width, color, mean, std, resize,
    align, pad, dtype, layout, stride. ``params`` is for the family's ``decode``. ``labels`` are the
    model's own, empty where it has none. ``reasons`` says where each came from: family, classes,
    labels, size, dtype, color, mean, std, resize, align, pad. ``evidence`` is what the trial run
    says, ``holds`` what each output holds, ``runner_up`` the next best reading, each None or empty
    where there is none.
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
    runner_up: str | None = None


def identify(
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    metadata: Mapping[str, str],
    *,
    family: str | None = None,
    num_classes: int | None = None,
    stated: Mapping[str, Any] | None = None,
    trial: Trial | None = None,
) -> Identification:
    """Identify a model by its declared inputs, outputs and metadata, and by a trial run.

    ``family``, ``num_classes`` and ``stated`` (arguments of an InputSpec) are what a card says;
    they decide where the file alone is ambiguous. Raises UnknownLayoutError, with the shapes seen
    and the families known, when no family fits or several do; ModelError for a ``family`` that
    doesn't exist.
    """
    if family is not None and family not in DECODERS:
        raise ModelError(f"unknown family {family!r}; known: {', '.join(DECODERS)}")
    problem = input_problem(inputs) or task_problem(metadata)
    if problem is not None:
        raise _refusal(problem, inputs, outputs)
    labels, labels_reason = _labels(metadata)
    known_classes = num_classes if num_classes is not None else len(labels) or None
    image = image_input(inputs)
    assert image is not None  # or there would have been a problem

    view = View(
        outputs=tuple(outputs),
        input_hw=(0, 0),
        num_classes=known_classes,
        metadata=metadata,
        extra_inputs=tuple(tensor.name for tensor in inputs if tensor is not image),
    )
    readings, failure = [], None
    for candidate in DECODERS.values() if family is None else (DECODERS[family],):
        fed, size_reason = _fed(image, metadata, candidate, stated or {})
        try:
            reading = _read(candidate, view, fed, size_reason, trial)
        except ModelError as error:
            # Another family's size may suit it: free sizes are often free in name only.
            failure = error
        else:
            if reading is not None:
                readings.append(reading)
    if failure is not None and not readings:
        raise failure
    chosen, runner_up, problem = _choose(readings, family, known_classes)
    if (chosen is None or not (chosen.match.certain or family or trial)) and (
        known := output_problem(outputs, _size_of(image, metadata), known_classes)
    ) is not None:
        # An uncertain reading must not win over a known layout that is none of ours.
        chosen, problem = None, known
    if chosen is None:
        raise _refusal(problem, inputs, outputs)

    stride, stride_reason = _stride(chosen, image, view, trial)
    if stride is not None:
        chosen.input["stride"] = stride
    default = f"default of the family {chosen.family.name}"
    reasons = {
        "family": chosen.match.reason,
        "classes": "the outputs' sizes, and the names or the card agree"
        if known_classes
        else "the outputs' sizes",
        "labels": labels_reason,
        "size": chosen.size_reason,
        "dtype": f"the model's input, {image}",
        "layout": f"the model's input, {image}",
        "stride": stride_reason,
    }
    reasons |= dict.fromkeys(asdict(chosen.family.input), default)
    if image.dtype == "uint8":
        reasons["mean"] = reasons["std"] = "the model's input takes the pixels themselves (uint8)"
    return Identification(
        family=chosen.family,
        num_classes=chosen.match.num_classes,
        labels=labels,
        input=chosen.input,
        params=dict(chosen.match.params),
        reasons=reasons,
        batched=chosen.match.batched,
        holds=chosen.match.holds,
        evidence=chosen.verdict.reason if chosen.verdict is not None else None,
        runner_up=str(runner_up) if runner_up is not None else None,
    )


def _fed(
    image: TensorInfo, metadata: Mapping[str, str], family: Family, stated: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Return the arguments of an InputSpec for a family's model, and where its size comes from."""
    (height, width), reason, layout = input_size(image, metadata, family)
    fed: dict[str, Any] = {"height": height, "width": width, **asdict(family.input), "dtype": image.dtype}
    if layout == "NHWC":
        fed["layout"] = layout
    if image.dtype == "uint8":
        # The graph scales the pixels itself.
        fed |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return {**fed, **stated}, reason


def _read(
    family: Family, view: View, fed: dict[str, Any], size_reason: str, trial: Trial | None
) -> Reading | None:
    """Return how a family reads the model fed in its way; None where it is not its layout.

    Raises ModelError for a model that does not run so.
    """
    view = replace(view, input_hw=(fed["height"], fed["width"]))
    if trial is not None:
        if not _might_fit(family, view):
            return None
        arrays = tuple(trial(fed))
        view = replace(view, outputs=_completed(view.outputs, arrays), arrays=arrays)
    match = family.recognise(view)
    if match is None:
        return None
    verdict = judge(family, view.arrays, view.input_hw, match.params) if view.tried else None
    return Reading(family, match, fed, size_reason, verdict)


def _stride(chosen: Reading, image: TensorInfo, view: View, trial: Trial | None) -> tuple[int | None, str]:
    """Return the stride of an input that takes any size, and why it is taken to; None where it doesn't.

    Many files declare free sizes and yet hold constants of one size: an oblong picture tells.
    """
    fed = chosen.input
    if None not in (image.shape[2:] if layout_of(image) == "NCHW" else image.shape[1:3]):
        return None, f"input shape {image}"
    if trial is None or fed["resize"] != "letterbox":
        return None, "a fixed size: the picture is not letterboxed, or the model was not tried"
    metadata = literal(view.metadata.get("stride", ""))
    stride = max([_STRIDE, *chosen.match.params.get("strides", ())])
    stride = max(stride, metadata) if isinstance(metadata, int) else stride
    oblong = max(stride, fed["height"] // 2 // stride * stride)
    size = f"{fed['width']}x{oblong}"
    try:
        again = _read(chosen.family, view, {**fed, "height": oblong}, "", trial)
    except ModelError:
        return None, f"a fixed size: declared free, but it does not run on {size}"
    if again is None or again.match.num_classes != chosen.match.num_classes:
        return None, f"a fixed size: declared free, but its answer to {size} is another one"
    return stride, f"declared free, and it answers {size} in the same way"


def _might_fit(family: Family, view: View) -> bool:
    """Whether a run is worth it: with every size declared, what does not fit without one never will."""
    if any(None in output.shape[1:] or not output.shape for output in view.outputs):
        return True
    return family.recognise(view) is not None


def _completed(outputs: Sequence[TensorInfo], arrays: Sequence[NDArray[Any]]) -> tuple[TensorInfo, ...]:
    """The outputs with the sizes that a run gave them; the batch stays as it was declared."""
    completed = []
    for output, array in zip(outputs, arrays, strict=True):
        shape: tuple[int | None, ...] = tuple(array.shape)
        if shape and len(output.shape) == len(shape):
            shape = (output.shape[0], *shape[1:])
        completed.append(TensorInfo(output.name, shape, output.dtype))
    return tuple(completed)


def _choose(
    readings: Sequence[Reading], family: str | None, num_classes: int | None
) -> tuple[Reading | None, Reading | None, str]:
    """Return the reading to go by and the next best one; or None, the best one, and the problem."""
    ranked = sorted(readings, key=lambda reading: reading.rank, reverse=True)
    sane = [r for r in ranked if r.verdict is None or r.verdict.score >= SANE or r.verdict.score == 0.5]
    if family is not None and ranked:
        stated = ranked[0]
        if stated.verdict is not None and stated.verdict.score == 0:
            return None, stated, f"its card says family {family}, but {stated.verdict.reason}"
        return stated, None, ""
    if not sane:
        if not ranked:
            named = f" with {num_classes} classes, as its names or card say" if num_classes else ""
            fits = "its outputs fit no known layout" if family is None else f"it doesn't fit family {family}"
            return None, None, fits + named
        return None, None, f"its outputs look like {ranked[0]}, but that makes no sense"
    best = sane[0]
    other = next((reading for reading in ranked if reading is not best), None)
    if other is not None and other in sane:
        same = best.match.certain == other.match.certain
        if same and best.rank[1] - other.rank[1] < _MARGIN:
            return (
                None,
                other,
                f"its outputs could be {best} or {other}: say which in a model card (family = …)",
            )
    return best, other, ""


def _size_of(image: TensorInfo, metadata: Mapping[str, str]) -> tuple[int, int]:
    return input_size(image, metadata, DECODERS["yolov8"])[0]


def _labels(metadata: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Return the names in Ultralytics' metadata, the repr of a dict or list, and where they come from."""
    text = metadata.get("names")
    if text is None:
        return (), "none: the model's metadata have no names"
    names = literal(text)
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or sorted(names, key=str) != sorted(range(len(names)), key=str):
        return (), "none: the model's metadata have names, but not one for each class from 0"
    return tuple(str(names[index]) for index in range(len(names))), "metadata names"


def _refusal(problem: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> UnknownLayoutError:
    families = "; ".join(f"{family.name} ({family.layout})" for family in DECODERS.values())
    return UnknownLayoutError(
        f"cannot use this model: {problem}. Inputs: {', '.join(map(str, inputs)) or 'none'}. "
        f"Outputs: {', '.join(map(str, outputs)) or 'none'}. Families known: {families}"
    )
