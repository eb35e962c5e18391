"""Whether the first of a table's scores is an objectness or a class, told from a trial run.

[boxes, 5 + C] with an objectness and [boxes, 4 + (C + 1)] without one are the same numbers. Behind an
objectness stands how likely each class is *if* something is there, which nobody trained where nothing is:
on the photograph half of a real model's boxes give their best class more than .02. What is a score by
itself denies every class nearly everywhere: half of the boxes stay below .000001. (YOLOv5n and YOLOX-nano
with all, some or one of their classes, and YOLOv8n likewise, each fed as it should be.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_CONDITIONAL, _FINAL = 3e-3, 1e-4
"""The best class of half the boxes is above the one behind an objectness, below the other without one."""
_ABOVE, _NOISE = 1.01, 1e-6


def objectness_first(scores: NDArray[np.floating[Any]]) -> bool | None:
    """Return whether the first of ``scores`` [boxes, 1 + C], in 0..1, is an objectness; None: nothing tells.

    An objectness that the classes hold already is never exceeded by one of them.
    """
    if scores.shape[1] < 2:
        return None
    best = scores[:, 1:].max(axis=1)
    typical = float(np.median(best))
    if typical > _CONDITIONAL:
        return True
    return False if typical < _FINAL and exceeded(scores) else None


def exceeded(scores: NDArray[np.floating[Any]]) -> bool:
    """Return whether anywhere one of the others is likelier than the first of ``scores`` [boxes, 1 + C]."""
    return bool((scores[:, 1:] > _ABOVE * scores[:, :1] + _NOISE).any())
