"""Which of DETR's kin a model is: told from its columns, the names of its outputs, and a trial run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.activation import looks_like_logits
from pipeline.decoders.candidates import cell_count
from pipeline.decoders.family import COCO_CLASSES, Match, View
from pipeline.decoders.tf_names import RAW, bare

_GRIDS = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64))
_MOST_QUERIES = 2000
"""A model with queries has no more of them than this; a grid has more cells."""
_ORDERED = 0.95
"""Of the queries: so many with the far corner beyond the near one are no accident."""
COCO_IDS = 91
"""COCO's own category numbers reach 90, with gaps; 0 is none (``labels/coco91.txt``)."""


@dataclass(frozen=True, slots=True)
class Kin:
    """What tells one of the kin from the others.

    ``columns``: of logits in a model of COCO. ``names``: of its outputs, where no other has those.
    ``spare``: whether the last column is no class, always or in models of one's own classes.
    """

    columns: int
    names: frozenset[str] = frozenset()
    softmax: bool = False
    spare: bool = False
    one_output: bool = False


DETR = Kin(COCO_IDS + 1, softmax=True, spare=True)
RT = Kin(COCO_CLASSES, one_output=True)
RF = Kin(COCO_IDS, frozenset({"dets", "labels"}), spare=True)
_KIN = (DETR, RT, RF)


def recognise(view: View, kin: Kin) -> Match | None:
    """Two outputs [1, Q, classes] and [1, Q, 4], or one [1, Q, 4 + classes], boxes in parts of the input."""
    places = _places(view, kin)
    fitting = None if places is None else _fits(view, kin, places[2])
    if places is None or fitting is None:
        return None
    index, boxes, columns = places
    classes, certain = fitting
    probabilities, single = False, index == boxes
    if view.tried:
        logits = view.arrays[index][..., 4 if single else 0 :]
        probabilities = not looks_like_logits(logits)
        if not _in_parts(view.arrays[boxes][..., :4]) or not logits.size or (probabilities and kin.softmax):
            return None
        told = None if certain or view.stated or probabilities else _has_no_object(logits)
        if told is not None and kin.softmax != told:
            return None
    activation = "softmax" if kin.softmax else "none" if probabilities else "sigmoid"
    said = {
        "softmax": "logits for a softmax, the last one of no object",
        "sigmoid": "logits for a sigmoid",
        "none": "probabilities",
    }[activation]
    holds = [f"{said}, {columns} columns"] * len(view.outputs)
    params: dict[str, Any] = {"activation": activation}
    form = "xyxy" if view.tried and _corners(view.arrays[boxes][..., :4]) else "cxcywh"
    holds[boxes] = f"boxes, {form} in parts of the input" + (f", and {holds[boxes]}" if single else "")
    if form != "cxcywh":
        params["boxes"] = form
    if columns == 4 and boxes == 0 and not single:
        params["boxes_first"] = True
    if not kin.softmax and classes < columns:
        params["classes"] = classes
    seen = " and ".join(map(str, view.outputs))
    doubt = f"nothing confirms that it has {classes} classes: any table of such numbers looks alike"
    return Match(
        classes,
        params,
        f"{seen} = {said}, and boxes, of each query",
        certain,
        tuple(holds),
        usual=not kin.names or {output.name for output in view.outputs} == kin.names,
        doubt=f"{doubt}; name them in a card" if single and not (certain or view.stated) else None,
    )


def _places(view: View, kin: Kin) -> tuple[int, int, int] | None:
    """Return which output has the classes and which the boxes, and how many class columns there are."""
    shapes = view.shapes
    if (
        view.extra_inputs
        or set(bare(view)) & set(RAW)
        or len(shapes) not in (1, 2)
        or any(len(shape) != 3 for shape in shapes)
    ):
        return None
    queries = {shape[1] for shape in shapes}
    grids = {n * cell_count(view.input_hw, strides) for strides in _GRIDS for n in (1, 3)}
    if len(queries) != 1 or queries & grids or any(q is not None and q > _MOST_QUERIES for q in queries):
        return None
    if len(shapes) == 1:
        columns = shapes[0][2]
        # A map of depths or the like has the picture's own sides, or equal ones.
        if shapes[0][1] == columns or shapes[0][1:] == view.input_hw:
            return None
        if not kin.one_output or columns is None or not 4 < columns <= _MOST_QUERIES or columns in grids:
            return None
        return 0, 0, columns - 4
    boxes = [index for index, shape in enumerate(shapes) if shape[2] == 4]
    if len(boxes) == 2:  # four columns of classes, too
        named = [i for i in boxes if "box" in (name := view.outputs[i].name) or name == "dets"]
        # Without a run they are the second, as most write them; numbers in 0..1 tell, where names do not.
        boxes = named or ([i for i in boxes if _in_parts(view.arrays[i])] if view.tried else [1])
    if len(boxes) != 1 or (columns := shapes[1 - boxes[0]][2]) is None or columns < 1 + kin.softmax:
        return None
    return 1 - boxes[0], boxes[0], columns


def _fits(view: View, kin: Kin, columns: int) -> tuple[int, bool] | None:
    """Return how many classes so many columns are, and whether that is certain; None where it cannot be.

    DETR has a column more than classes, for no object. RF-DETR has one for each of COCO's numbers, but
    with classes of one's own one too many, which it never answers with.
    """
    names = {output.name for output in view.outputs}
    if any(names == other.names for other in _KIN if other is not kin):
        return None
    named, known = names == kin.names, view.num_classes
    classes = columns - 1 if kin.softmax else columns
    if known is None:
        if any(columns == other.columns for other in _KIN if other is not kin) and not named:
            return None
        return classes, named or columns == kin.columns
    if kin.spare and known == columns - 1:
        return known, named
    return (known, named) if known == columns and not kin.softmax else None


def _in_parts(boxes: NDArray[Any]) -> bool:
    """Whether boxes are centre and size in parts of the input: nearly all numbers are of that size."""
    finite = boxes[np.isfinite(boxes).all(axis=-1)]
    return len(finite) > 0 and bool(((finite >= -0.05) & (finite <= 1.5)).mean() > 0.98)


def _corners(boxes: NDArray[Any]) -> bool:
    """Whether boxes are corners; few boxes are larger than their centre is far from the edges at 0."""
    finite = boxes[np.isfinite(boxes).all(axis=-1)]
    ordered = (finite[:, 2:] >= finite[:, :2]).all(axis=1)
    return len(finite) > 0 and bool(ordered.mean() > _ORDERED)


def _has_no_object(logits: NDArray[Any]) -> bool | None:
    """Whether most queries say no object, by their last column; None where that column may be a class.

    A sigmoid's queries deny every class, the last one too; so it has no object only where it is affirmed.
    """
    last = logits[..., -1]
    if logits.shape[-1] < 2 or float((logits.argmax(axis=-1) == logits.shape[-1] - 1).mean()) <= 0.5:
        return False
    return True if float((last > 0).mean()) > 0.5 else None
