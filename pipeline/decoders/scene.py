"""What stands in the photograph that models are tried on, and how well boxes agree with it.

Fed in a wrong way a model can still give boxes of sound sizes, in hundreds; they just do not lie
where anything is. So of two ways of feeding, that one is right whose boxes lie on the person and
the cat, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.candidates import Candidates

_PHOTO_HW = (720, 1280)
# The person and the cat of sample/photo.jpg, xyxy in its pixels, from three detectors that agree.
_OBJECTS = np.array([[711, 146, 1012, 577], [60, 342, 480, 655]], np.float32)


def may_show(names: Sequence[str]) -> bool:
    """Return whether the photograph shows what classes of these ``names`` are: a person or a cat.

    True where there are no names to tell it by.
    """
    return not names or not {"person", "cat"}.isdisjoint(name.casefold() for name in names)


def objects_in(input_hw: tuple[int, int], resize: str, align: str) -> NDArray[np.float32]:
    """Return the photograph's objects, xyxy [2, 4] in pixels of an input of that size fed so.

    ``resize`` and ``align`` as in an InputSpec. None for a crop, which cuts the objects: it is for
    classifiers, of which boxes say nothing.
    """
    scales = np.array([input_hw[1] / _PHOTO_HW[1], input_hw[0] / _PHOTO_HW[0]])
    if resize == "stretch":
        return np.asarray(_OBJECTS * np.tile(scales, 2), np.float32)
    if resize != "letterbox":
        return np.zeros((0, 4), np.float32)
    scale = scales.min()
    free = np.array(input_hw[::-1]) - scale * np.array(_PHOTO_HW[::-1])
    offset = free / 2 if align == "center" else np.zeros(2)
    return np.asarray(_OBJECTS * scale + np.tile(offset, 2), np.float32)


def agreement(found: Candidates, objects: NDArray[np.float32]) -> float:
    """Return how well boxes agree with ``objects`` [K, 4], 0..1, whatever their classes.

    The Dice coefficient with squares, 2 Σ p·g / (Σ p² + Σ g²) (Milletari and others, V-Net, 2016),
    in which an object counts the best score × IoU of any box, and each box its squared score.
    """
    if not len(found):
        return 0.0
    sure = found_by(found, objects)
    return 2 * sum(sure) / (len(objects) + float(np.square(found.scores, dtype=np.float64).sum()))


def found_by(found: Candidates, objects: NDArray[np.float32]) -> list[float]:
    """Return how surely each of ``objects`` [K, 4] is found, 0..1: the best score × IoU of any box.

    Unlike ``agreement`` it does not mind what else is found.
    """
    if not len(found):
        return [0.0] * len(objects)
    return [float((found.scores * overlap(found.xyxy, one)).max()) for one in objects]


def overlap(boxes: NDArray[np.float32], one: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the IoU of each of ``boxes`` [N, 4] with ``one`` [4], xyxy of some size: [N]."""
    left, top, right, bottom = one.astype(np.float64)
    corners = boxes.astype(np.float64)
    width = np.minimum(corners[:, 2], right) - np.maximum(corners[:, 0], left)
    height = np.minimum(corners[:, 3], bottom) - np.maximum(corners[:, 1], top)
    common = np.clip(width, 0, None) * np.clip(height, 0, None)
    own = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return np.asarray(common / (own + (right - left) * (bottom - top) - common), np.float64)
