"""Class numbers that count a background, and what a trial run says of whose numbers they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.family import Numbers, Param, flag, whole
from pipeline.errors import ModelError

COCO_IDS = 91
"""COCO's own category numbers reach 90, with gaps; 0 is the background (``labels/coco91.txt``)."""
COCO_NUMBERS = 80, 0, 15
"""COCO's classes counted without gaps: how many, and the numbers of a person and of a cat."""
UNSEEN = 1000
"""How many classes are allowed for where nothing tells: their labels are numbers."""
_SURE = 0.3

BACKGROUND_LABEL = Param(
    flag,
    "true (default): the labels begin with the background, as COCO's 91 do; false: with class 1",
)
CLASSES = Param(whole, "how many labels there are; a class beyond them is an error")


def numbered(labels: NDArray[Any], classes: Any, name: str) -> NDArray[np.int32]:
    """Return labels [K], finite numbers, as int32. Raises ModelError for others than 0..classes - 1.

    ``classes`` None allows any that int32 can hold.
    """
    limit = int(classes) if classes is not None else np.iinfo(np.int32).max
    wrong = (labels < 0) | (labels >= limit) | (labels != np.floor(labels))
    if wrong.any():
        got = labels[wrong.argmax()]
        raise ModelError(
            f"{name}: expected classes that are whole numbers from 0 to {limit - 1}; got {got:g}; "
            f"name as many labels as the model has in its card, or the right family"
        )
    return labels.astype(np.int32)


def whose_numbers(
    known: int | None,
    labels: NDArray[Any] | None,
    scores: NDArray[Any] | None,
    *,
    coco: tuple[int, int, int],
) -> Numbers:
    """Return whose class numbers a model has whose outputs' sizes do not say it.

    ``coco``: the number of COCO's classes, and the numbers of a person and of a cat among them.
    ``labels`` and ``scores`` are the trial run's answer to a picture of both; None where there was none.
    """
    count, person, cat = coco
    if known is not None:
        return Numbers(known, f"{known} classes, as its names or card say")
    if labels is None or scores is None:
        return Numbers(count, f"taken for COCO's {count} class numbers")
    with np.errstate(invalid="ignore"):
        seen = set(labels[scores > _SURE].tolist())
        highest = labels[scores > 0].max(initial=-1)
    found = [what for number, what in ((person, "a person"), (cat, "a cat")) if number in seen]
    if highest >= count:
        why = f"class numbers that nothing names: the trial run gave {highest:g}, which is none of COCO's"
        return Numbers(UNSEEN, why, counted=False)
    if not found:
        why = "class numbers that nothing names: the trial run found neither person nor cat as COCO's"
        return Numbers(UNSEEN, why, counted=False)
    doubt = None
    # Faint answers are of any class that a model has: numbers beyond the half say that there are so many.
    if found == ["a person"] and highest < count // 2:
        doubt = (
            f"its class numbers are taken for COCO's {count} for nothing but a person found under number "
            f"{person}, the first that anyone gives: where they are others, name them in a card"
        )
    return Numbers(
        count,
        f"COCO's {count} class numbers: the trial run found {' and '.join(found)} under COCO's number",
        doubt=doubt,
    )
