"""Whether a model wants its pictures fed otherwise than its family's models usually do.

The layout of the outputs does not show it: a model whose graph scales the pixels itself, or that was
trained on BGR, answers a picture fed in the usual way too, only worse. So the photograph is fed in
the other usual ways as well, and what counts is how surely the person and the cat in it are found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.decoders.readings import Reading, Trial
from pipeline.decoders.scene import found_by, may_show, objects_in
from pipeline.errors import ModelError

_SCALES: Mapping[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "0..1": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
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


def better_fed(
    reading: Reading, trial: Trial, stated: Mapping[str, Any], labels: Sequence[str]
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the input as it is to be instead, where the trial run leaves no doubt, and the warning.

    What ``stated`` holds is not questioned. Faces, rotated boxes and classes are not on the photograph, nor
    are things of other ``labels`` (none: nothing names them).
    """
    if reading.family.task not in ("detect", "segment", "pose") or reading.family.labels:
        return None, None
    if not may_show(labels):
        return None, None
    usual = sum(_surely(reading, reading.input, trial))
    if usual * _BETTER > 2:
        return None, None  # it cannot be better
    best, way, change = [0.0], "", {}
    for text, other in _others(reading.input, stated):
        found = _surely(reading, {**reading.input, **other}, trial)
        if sum(found) > sum(best):
            best, way, change = found, text, other
    compared = f"{sum(best) / 2:.0%}, to {usual / 2:.0%} as {reading.family.name} usually is"
    told = f"fed {way} it finds the person and the cat of the trial run to {compared}"
    far = "mean" in change and sum(best) >= _FAR_BETTER * usual and max(best) >= _SURE
    if far and min(best) >= _SEEN:
        return {**reading.input, **change}, f"{told}: so it is fed {way}"
    if not far and (min(best) < _SEEN or sum(best) < _BETTER * usual):
        return None, None
    card = ", ".join(f"{key} = {_toml(value)}" for key, value in change.items())
    return None, f"{told}; if detections are poor, a card says it under [input]: {card}"


def _others(fed: Mapping[str, Any], stated: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    ways: list[tuple[str, dict[str, Any]]] = []
    if "color" not in stated:
        other = "BGR" if fed["color"] == "RGB" else "RGB"
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
