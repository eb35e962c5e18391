"""How a model that answers each object once writes its boxes: told from a trial run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.candidates import Candidates
from pipeline.decoders.family import InputDefaults, Param, flag, one_of
from pipeline.decoders.scene import agreement, found_by, objects_in

FORMS = ("xyxy", "yxyx", "cxcywh", "xywh")
_CLEARLY = 1.2
"""By what factor one form must agree better with the photograph than the usual one."""
_LIVE, _BOTH = 0.05, 0.3
_GUESSED = (
    "boxes are taken to be centre and size, because they are no corners, and nothing on the photograph "
    "tells more; a card can say boxes"
)
_LOST = 0.05
_NO_FORM = "they are written in another form, and those that are found are wrong; a card can say boxes"

PARAMS: Mapping[str, Param] = {
    "boxes": Param(
        one_of(FORMS),
        "how a box is written: xyxy (default), yxyx, cxcywh, or xywh from left and top",
    ),
    "normalised": Param(flag, "true: boxes in parts of the input; false (default): in its pixels"),
}


class Form(NamedTuple):
    """A form in words, and the doubt whether it is the right one."""

    text: str
    doubt: str | None


def corners(
    boxes: NDArray[np.float32], input_hw: tuple[int, int], params: Mapping[str, Any]
) -> NDArray[np.float32]:
    """Return boxes [N, 4], written as ``params`` say (see PARAMS), as xyxy in pixels of the input.

    What overflows is left to ``Candidates.checked``.
    """
    form = params.get("boxes", "xyxy")
    with np.errstate(over="ignore", invalid="ignore"):
        if form == "yxyx":
            boxes = boxes[:, [1, 0, 3, 2]]
        elif form == "cxcywh":
            half_size = boxes[:, 2:] * np.float32(0.5)
            boxes = np.concatenate([boxes[:, :2] - half_size, boxes[:, :2] + half_size], axis=1)
        elif form == "xywh":
            boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        if params.get("normalised"):
            boxes = boxes * np.array([input_hw[1], input_hw[0]] * 2, np.float32)
    return boxes


def find_form(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    params: dict[str, Any],
    input_hw: tuple[int, int],
    fed: InputDefaults,
    forms: Sequence[str] = FORMS,
) -> Form | None:
    """Add to ``params`` how boxes [N, 4] with scores [N] are written; None where nothing scored.

    Parts of the input never exceed 1 by much. Of ``forms`` the first, or cxcywh where boxes would be
    inside out; another one where both objects of the photograph are found so, and clearly better: a
    single box of something else lies on one of them by chance in every third picture.
    """
    live = (scores > _LIVE) & np.isfinite(boxes).all(axis=1)
    boxes, scores = boxes[live].astype(np.float32), scores[live].astype(np.float32)
    if not len(boxes):
        return None
    if np.abs(boxes).max() <= 2:
        params["normalised"] = True
    weight = scores / scores.sum()
    inside_out = float(weight @ (boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    objects = objects_in(input_hw, fed.resize, fed.align)
    no_class = np.zeros(len(boxes), np.int32)
    good = {}
    for form in forms:
        xyxy = corners(boxes, input_hw, {**params, "boxes": form})
        good[form] = agreement(Candidates.checked(xyxy, scores, no_class), objects)
    best = max(good, key=lambda form: good[form])
    usual = "cxcywh" if inside_out >= 0.5 and "cxcywh" in forms else forms[0]
    xyxy = corners(boxes, input_hw, {**params, "boxes": best})
    both = min(found_by(Candidates.checked(xyxy, scores, no_class), objects), default=0.0)
    told = both >= _BOTH and good[best] > max(0.1, _CLEARLY * good[usual])
    taken = best if told else usual
    if taken != "xyxy":
        params["boxes"] = taken
    text = f"{taken} in {'parts of the input' if 'normalised' in params else 'input pixels'}"
    guessed = taken == "cxcywh" and len(forms) > 1 and not told and good[taken] < 0.1
    xyxy = corners(boxes, input_hw, {**params, "boxes": taken})
    lost = float(weight @ (xyxy[:, 2:] < xyxy[:, :2]).any(axis=1))
    if lost > _LOST:
        return Form(
            text, f"{lost:.0%} of the trial run's boxes are inside out when read as {taken}: {_NO_FORM}"
        )
    return Form(text, _GUESSED if guessed else None)
