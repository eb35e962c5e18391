"""Whether a model wants its pictures fed otherwise than its family's models usually do.

The layout of the outputs does not show it: a model whose graph scales the pixels itself, or that was
trained on BGR, answers a picture fed in the usual way too, only worse. So the photograph is fed in
the other usual ways as well, and what counts is how surely the person and the cat in it are found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.decoders.readings import Reading, Trial
from pipeline.decoders.scene import found_by, may_show, objects_in
from pipeline.errors import ModelError

_SCALES: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "0..1": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "-1..1": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "0..255": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "ImageNet's mean and deviation": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
_LOOK = 0.05
_SEEN = 0.15
"""How surely each of both has to be found by the better way for a warning: one alone says little, and the
astronaut of the photograph is found more surely with colours exchanged by one that wants them as usual."""
_BETTER = 1.15
"""By what factor. Of 12 real models none does better than as it should be fed; with colours exchanged, or
another mean, the right way is better by 1.2 to 2.2."""
_FAR_BETTER, _SURE = 2.0, 0.4
"""By what factor, and how surely one is found, for another scale to be spoken of; it is taken where both are:
scaled twice, all is dark, but one box of something else may lie on one of them by chance."""


@dataclass(frozen=True, slots=True)
class Feeding:
    """What the trial run says of how a model is fed.

    ``input`` as it is to be instead, where that leaves no doubt; ``doubt``: the warning of that, or of what
    is likely; ``color``: what is said of the colours' order; each None where there is nothing to say.
    """

    input: dict[str, Any] | None = None
    doubt: str | None = None
    color: str | None = None
    color_told: bool = True
    """Whether the trial run tells the colours' order, where it was asked."""
    better: dict[str, Any] | None = None
    """The input of which ``doubt`` speaks, taken or not."""


def better_fed(reading: Reading, trial: Trial, stated: Mapping[str, Any], labels: Sequence[str]) -> Feeding:
    """Return whether a model wants to be fed otherwise than its family's usually are.

    What ``stated`` holds is not questioned. Faces, rotated boxes and classes are not on the photograph, nor
    are things of other ``labels`` (none: nothing names them).
    """
    if reading.family.task not in ("detect", "segment", "pose") or reading.family.labels:
        return Feeding()
    if not may_show(labels):
        return Feeding(doubt=_pixels_doubt(reading, stated, "shows nothing that it knows"))
    usual = sum(_surely(reading, reading.input, trial))
    if usual * _BETTER > 2:
        return Feeding()  # it cannot be better
    best, way, change, colors, sums = [0.0], "", {}, None, {}
    for text, other in _others(reading.input, stated):
        found = _surely(reading, {**reading.input, **other}, trial)
        sums[text] = sum(found)
        colors = sum(found) if "color" in other else colors
        if sum(found) > sum(best):
            best, way, change = found, text, other
    told_colors, color_told, doubt = _colors(reading, stated, usual, colors)
    compared = f"{sum(best) / 2:.0%}, to {usual / 2:.0%} as {reading.family.name} usually is"
    near = [
        f"{text}: {each / 2:.0%}" for text, each in sums.items() if text != way and each * _BETTER > sum(best)
    ]
    compared += f" (nearly as well {', '.join(near)})" if near else ""
    told = f"fed {way} it finds the person and the cat of the trial run to {compared}"
    otherwise = {**reading.input, **change}
    far = "mean" in change and sum(best) >= _FAR_BETTER * usual and max(best) >= _SURE
    if far and min(best) >= _SEEN:
        return Feeding(otherwise, f"{told}: so it is fed {way}", better=otherwise)
    if not far and (min(best) < _SEEN or sum(best) < _BETTER * usual):
        return Feeding(doubt=doubt, color=told_colors, color_told=color_told)
    card = ", ".join(f"{key} = {_toml(value)}" for key, value in change.items())
    doubt = f"{told}; if detections are poor, a card says it under [input]: {card}"
    return Feeding(doubt=doubt, better=otherwise)


def _colors(
    reading: Reading, stated: Mapping[str, Any], usual: float, other: float | None
) -> tuple[str | None, bool, str | None]:
    """Return what the trial run says of the colours' order, whether it tells, and the doubt."""
    if other is None:
        return None, True, None
    now, turned = reading.input["color"], _other_color(reading.input)
    compared = f"{usual / 2:.0%} as {now}, {other / 2:.0%} as {turned}"
    if usual >= _BETTER * other and usual > _LOOK:
        return f"and as {now} it finds the person and the cat of the trial run better: {compared}", True, None
    doubt = _pixels_doubt(reading, stated, f"does not tell: {compared}")
    return f"the trial run does not tell: {compared}", False, doubt


def _pixels_doubt(reading: Reading, stated: Mapping[str, Any], why: str) -> str | None:
    """The doubt about a graph that takes the pixels themselves: it may exchange the colours, too."""
    if "color" in stated or reading.input["dtype"] != "uint8":
        return None
    now, turned = reading.input["color"], _other_color(reading.input)
    return (
        "its input takes the pixels themselves, so its graph may exchange the colours, too, and the trial "
        f"run {why}; fed as {now}, as {reading.family.name} usually is; a card says otherwise under [input]: "
        f'color = "{turned}"'
    )


def _other_color(fed: Mapping[str, Any]) -> str:
    return "BGR" if fed["color"] == "RGB" else "RGB"


def _others(fed: Mapping[str, Any], stated: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    ways: list[tuple[str, dict[str, Any]]] = []
    if "color" not in stated:
        other = _other_color(fed)
        ways.append((f"as {other}", {"color": other}))
    if fed["dtype"] != "uint8" and not {"mean", "std"} & stated.keys():
        now = tuple(fed["mean"]), tuple(fed["std"])
        ways += [
            (text, {"mean": mean, "std": std}) for text, (mean, std) in _SCALES.items() if (mean, std) != now
        ]
    return ways


def _surely(reading: Reading, fed: Mapping[str, Any], trial: Trial) -> list[float]:
    hw = fed["height"], fed["width"]
    try:
        found = reading.family.decode(trial(fed), hw, _LOOK, reading.match.params)
    except ModelError:
        return [0.0]
    return found_by(found, objects_in(hw, fed["resize"], fed["align"]))


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(list(value))
