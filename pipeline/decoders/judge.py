"""How much sense a family's reading of a model makes, told from a trial run on a photograph.

Shapes alone cannot tell [N, 300, 6] with scores from [N, 300, 6] with class indices, pixels from
fractions, or probabilities from logits; what comes out of the decoder can. A right reading gives
boxes that lie in the picture, of sizes that things have, and few of them with high scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.candidates import Candidates
from pipeline.decoders.family import Family
from pipeline.decoders.scene import agreement, objects_in
from pipeline.errors import ModelError

SANE = 0.6
"""A reading below it is none."""
_IMAGENET_CATS, _IMAGENET_CLASSES = range(281, 286), 1000
_LOOK = 0.05
"""Scores above it are looked at."""
_SURE, _SHARE = 200, 0.25
"""So many boxes above .5, and so large a share of the candidates, cannot all be objects."""
_MANY, _NOTHING = 100, 0.02
"""So many boxes are many; so little agreement is none (right readings of real models have .18 and more)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """``score`` in 0..1: 0 where it cannot be, .5 where the picture says nothing, 1 where all is sound."""

    score: float
    reason: str
    agreement: float = 0.0
    """How well the boxes lie on what stands in the photograph, 0..1 (``scene.agreement``)."""
    blind: bool = False
    """Many boxes, and next to none of them lies on what stands there."""


def judge(
    family: Family,
    arrays: Sequence[NDArray[Any]],
    input_hw: tuple[int, int],
    params: Mapping[str, Any],
    fed: Mapping[str, Any],
) -> Verdict:
    """Decode the trial run's outputs and look at the boxes. Raises nothing.

    ``fed``: the arguments of an InputSpec, of which ``resize`` and ``align`` say where the picture lies.
    """
    try:
        found = family.decode(arrays, input_hw, 0.0 if family.task == "classify" else _LOOK, params)
    except ModelError as error:
        return Verdict(0.0, f"the trial run refutes it: {error}")
    if family.task == "classify":
        return _judge_classes(found)
    if not len(found):
        return Verdict(0.5, f"in the trial run nothing scored above {_LOOK}")
    sure = int((found.scores > 0.5).sum())
    if sure >= _SURE and sure > _SHARE * len(family.decode(arrays, input_hw, 0.0, params)):
        return Verdict(0.1, f"in the trial run it is sure of {sure} things at once: no detector's answer")
    agrees = agreement(found, objects_in(input_hw, fed["resize"], fed["align"]))
    # Faces are looked for where no face is.
    blind = not family.labels and len(found) >= _MANY and agrees < _NOTHING
    return replace(_judge_boxes(found, input_hw, agrees, shown=not family.labels), blind=blind)


def _judge_boxes(found: Candidates, input_hw: tuple[int, int], agrees: float, *, shown: bool) -> Verdict:
    """``shown``: whether the photograph shows what is looked for."""
    limits = np.array([input_hw[1], input_hw[0]], np.float32)
    center = (found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2
    size = found.xyxy[:, 2:] - found.xyxy[:, :2]
    weight = found.scores / found.scores.sum()
    inside = float(weight @ ((center > -0.1 * limits) & (center < 1.1 * limits)).all(axis=1))
    sized = float(weight @ ((size >= 1.5) & (size <= 1.5 * limits)).all(axis=1))
    # Boxes that all have one size, or one place, are no answer to a picture.
    varied = 1.0 if len(found) < 10 or (np.ptp(size, axis=0) > 1).any() else 0.3
    score = inside * sized * varied
    text = (
        f"the trial run gave {len(found)} candidates above {_LOOK}, the best {found.scores.max():.2f}; "
        f"{inside:.0%} of their weight lies in the picture, {sized:.0%} has a possible size"
    )
    if shown:
        text += (
            f"; they agree to {agrees:.0%} with the person and the cat in it "
            "(a detector that knows such things: 15 % and more)"
        )
    return Verdict(round(score, 3), text, agrees)


def _judge_classes(found: Candidates) -> Verdict:
    """A classifier is tried on the cat; where it has ImageNet's classes, theirs are known."""
    if not _IMAGENET_CATS.stop <= int(found.class_id.max(initial=0)) < _IMAGENET_CLASSES:
        return Verdict(0.5, "in the trial run there is nothing that its classes are known for")
    cats = float(found.scores[np.isin(found.class_id, _IMAGENET_CATS)].sum())
    return Verdict(0.5, f"in the trial run it gave {cats:.0%} to ImageNet's cats for a picture of one", cats)
