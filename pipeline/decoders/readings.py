"""How each family reads a model, and which reading to go by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from pipeline.decoders.contract import literal, spatial
from pipeline.decoders.family import Family, Match, TensorInfo, View, classes_text
from pipeline.decoders.judge import SANE, Verdict, judge
from pipeline.decoders.scene import may_show
from pipeline.errors import ModelError

Trial = Callable[[Mapping[str, Any]], Sequence[NDArray[Any]]]
"""Runs the model on a photograph fed as the arguments of an InputSpec say; the raw outputs for it."""

_STRIDE, _MOST_STRIDE = 32, 256
_MARGIN = 0.25
"""By how much one reading's boxes must make more sense than another's."""
_AGREES, _CLEARLY = 0.1, 1.2
"""Where they make as much sense: how well, and by what factor better, one's must lie on what is seen."""


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

    @property
    def agreement(self) -> float:
        """How well its answer agrees with what stands in the photograph."""
        return self.verdict.agreement if self.verdict is not None else 0.0

    @property
    def saw_nothing(self) -> bool:
        """Whether the trial run gave no answer to judge by."""
        return self.verdict is not None and self.verdict.score == 0.5

    @property
    def sane(self) -> bool:
        """Whether its boxes make sense, or there was nothing to see."""
        return self.verdict is None or self.verdict.score >= SANE or self.verdict.score == 0.5

    def __str__(self) -> str:
        said = f"; {self.verdict.reason}" if self.verdict is not None else ""
        return f"{self.family.name} with {classes_text(self.match.num_classes)} ({self.match.reason}{said})"


@dataclass(frozen=True, slots=True)
class Choice:
    """The reading to go by, or the ``problem`` where there is none; ``doubt`` where it is but likelier."""

    reading: Reading | None
    runner_up: Reading | None = None
    problem: str = ""
    doubt: str | None = None
    candidates: tuple[Reading, ...] = ()
    """Where none is taken: those that it could be."""


def read(
    family: Family,
    view: View,
    fed: dict[str, Any],
    size_reason: str,
    params: Mapping[str, Any],
    trial: Trial | None,
) -> Reading | None:
    """Return how a family reads the model fed in its way; None where it is not its layout.

    ``params`` are what a card says. Raises ModelError for a model that does not run so.
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
    if params:
        match = replace(match, params={**match.params, **params})
        if not params.keys().isdisjoint(match.settled_by):
            match = replace(match, doubt=None)
    verdict = judge(family, view.arrays, view.input_hw, match.params, fed) if view.tried else None
    return Reading(family, match, fed, size_reason, verdict)


def stride_of(chosen: Reading, image: TensorInfo, view: View, trial: Trial | None) -> tuple[int | None, str]:
    """Return the stride of an input that takes any size, and why it is taken to; None where it doesn't.

    Many files declare free sizes and yet hold constants of one size: an oblong picture tells.
    """
    fed = chosen.input
    if None not in spatial(image):
        return None, f"input shape {image}"
    if trial is None or fed["resize"] != "letterbox":
        return None, "a fixed size: the picture is not letterboxed, or the model was not tried"
    metadata = literal(view.metadata.get("stride", ""))
    stride = max([_STRIDE, *chosen.match.params.get("strides", ())])
    stride = max(stride, metadata) if isinstance(metadata, int) and metadata <= _MOST_STRIDE else stride
    oblong = max(stride, fed["height"] // 2 // stride * stride)
    size = f"{fed['width']}x{oblong}"
    try:
        again = read(chosen.family, view, {**fed, "height": oblong}, "", {}, trial)
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


def choose(readings: Sequence[Reading]) -> Choice:
    """Choose among what several families read: the certain one, else the one whose answer makes sense.

    Where several make as much sense, the one that clearly agrees best with the photograph. Readings
    that differ only in how the model is fed are one layout: the likeliest is taken, with a doubt.
    """
    ranked = sorted(readings, key=lambda reading: reading.rank, reverse=True)
    sane = [reading for reading in ranked if reading.sane]
    if not sane:
        problem = f"its outputs look like {ranked[0]}, but that makes no sense"
        return Choice(None, problem=problem, candidates=tuple(ranked))
    rivals = [
        reading
        for reading in sane
        if reading.match.certain == sane[0].match.certain
        and (sane[0].rank[1] - reading.rank[1] < _MARGIN or _unseen(reading, sane[0]))
    ]
    # Boxes that lie nowhere speak less for a way of feeding than none at all.
    rivals.sort(key=lambda one: (max(one.agreement, _AGREES), one.saw_nothing, one.agreement), reverse=True)
    best = rivals[0]
    other = next((reading for reading in [*rivals[1:], *ranked] if reading is not best), None)
    rivals = [best, *(rival for rival in rivals[1:] if not _beaten(rival, best))]
    if len(rivals) == 1:
        return Choice(best, other, doubt=_blind(best))
    unlike = next((rival for rival in rivals if _layout(rival) != _layout(best)), None)
    if unlike is not None:
        problem = f"its outputs could be {best} or {unlike}: say which in a model card (family = …)"
        return Choice(None, unlike, problem, candidates=tuple(rivals))
    if all(rival.input == best.input for rival in rivals):
        return Choice(best, other, doubt=_blind(best))  # the graph itself sees to how it is fed
    rivals.sort(key=lambda rival: rival.match.usual, reverse=True)
    best, other = rivals[:2]
    ways = " or ".join(rival.family.name for rival in rivals)
    doubt = (
        f"the file does not tell how it is fed ({ways}); taken: {best.family.name}; "
        f'where that is wrong, a card says it: family = "{rivals[1].family.name}"'
    )
    return Choice(best, other, doubt=doubt)


def _beaten(rival: Reading, best: Reading) -> bool:
    """Whether the best one agrees so much better with the photograph that the other cannot be right."""
    enough = 2 * _AGREES if rival.saw_nothing else _AGREES
    return best.agreement >= max(enough, _CLEARLY * rival.agreement)


def _layout(reading: Reading) -> tuple[object, object]:
    """What two readings share that differ only in how the model is fed: a softmax is no sigmoid."""
    return reading.family.decode, reading.match.params.get("activation")


def _unseen(other: Reading, best: Reading) -> bool:
    """Whether a reading that saw nothing is refuted by nothing the best one saw: noise is no evidence."""
    return other.saw_nothing and best.agreement < 2 * _AGREES


def _blind(best: Reading) -> str | None:
    """The doubt about a reading whose many boxes lie nowhere."""
    if best.verdict is None or not best.verdict.blind:
        return None
    return (
        f"taken to be {best.family.name}, but {best.verdict.reason}: read or fed in another way, or made for "
        "other things? Look at its boxes; a card settles it"
    )


def told_apart(best: Reading, other: Reading) -> str:
    """What speaks for one reading and against another."""
    if best.match.certain != other.match.certain:
        return "what the model's names, its card or its outputs' own names confirm"
    if best.rank[1] - other.rank[1] >= _MARGIN:
        return f"how much sense the boxes make: {best.rank[1]:.0%} against {other.rank[1]:.0%}"
    told = f"how the answer agrees with the photograph: {best.agreement:.0%} against {other.agreement:.0%}"
    if best.agreement >= max(_AGREES, _CLEARLY * other.agreement):
        return told
    return f"nothing clearly ({told}): a card with family, or with mean and std, settles it"


def confirm(reading: Reading, names: Sequence[str]) -> Choice:
    """Take the reading of the family that a card states, unless the trial run refutes it.

    ``names`` of its classes, where they are known.
    """
    if reading.verdict is not None and reading.verdict.score == 0:
        problem = f"its card says family {reading.family.name}, but {reading.verdict.reason}"
        return Choice(None, reading, problem, candidates=(reading,))
    return Choice(reading, doubt=_contradicted(reading, names))


def _contradicted(reading: Reading, names: Sequence[str]) -> str | None:
    """The doubt about a stated family whose answer to the photograph is none."""
    if reading.verdict is None:
        return None
    # Boxes of bolts lie on neither: where the names say so, that is no sign of anything.
    blind = reading.verdict.blind and may_show(names)
    if reading.sane and not blind:
        return None
    return (
        f"stated is the family {reading.family.name}, but {reading.verdict.reason}: are color, mean and std "
        "(of pixels in 0..255), resize and params right?"
    )
