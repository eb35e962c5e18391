"""Whether classes that nothing names can be COCO's: what the photograph shows, by their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.decoders.background import UNSEEN
from pipeline.decoders.readings import Reading, Trial
from pipeline.decoders.scene import objects_in, overlap
from pipeline.errors import ModelError

_PERSON, _CAT = "person", "cat"
_NUMBERS = {
    80: {_PERSON: {0}, _CAT: {*range(14, 24), 77}},
    91: {_PERSON: {1}, _CAT: {*range(16, 26), 88}},
}
"""Number of classes → what the person and the cat may be. A weak detector takes a cat for another animal,
or for a teddy bear; but neither for a bicycle."""
_SURE, _ON_IT = 0.3, 0.6


def unlike_coco(reading: Reading, trial: Trial, fed: Mapping[str, Any]) -> str | None:
    """Return what speaks against COCO's names for classes of COCO's number; None where nothing does.

    The surest box on the person, and on the cat, has to be of a class that it may be, where the model is
    ``fed`` as suits it best: with colours exchanged one takes a cat for something else.
    """
    allowed = _NUMBERS.get(reading.match.num_classes)
    if allowed is None or reading.family.labels or reading.family.task not in ("detect", "segment"):
        return None
    hw = fed["height"], fed["width"]
    try:
        seen = reading.family.decode(trial(fed), hw, _SURE, reading.match.params)
    except ModelError:
        return None
    for name, box in zip((_PERSON, _CAT), objects_in(hw, fed["resize"], fed["align"]), strict=False):
        on_it = np.flatnonzero(overlap(seen.xyxy, box) > _ON_IT)
        if not len(on_it):
            continue
        number = int(seen.class_id[on_it[seen.scores[on_it].argmax()]])
        if number not in allowed[name]:
            return (
                f"nothing names its classes, and they are not COCO's: the trial run found the {name} under "
                f"number {number}; labels are numbers, unless a card names them (labels = [...])"
            )
    return None


def unnamed(reading: Reading, why: str) -> Reading:
    """Return the reading without COCO's number of classes, where its outputs' sizes did not say it."""
    match = reading.match
    if match.numbers is None:
        return reading
    params = {key: UNSEEN if key == "classes" else value for key, value in match.params.items()}
    numbers = replace(match.numbers, count=UNSEEN, why=why, counted=False, doubt=None)
    return replace(reading, match=replace(match, num_classes=UNSEEN, params=params, numbers=numbers))
