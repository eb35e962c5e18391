"""A model whose file fixes its input, opened for pictures as small as they need to be."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.decoders.contract import image_input
from pipeline.errors import ModelError
from pipeline.runtime.anysize import any_size, refused
from pipeline.runtime.trial import seen_by
from pipeline.vision.blobber import Blobber
from pipeline.vision.boxes import iou_matrix

if TYPE_CHECKING:
    from pipeline.decoders import Candidates
    from pipeline.runtime.model import Model

log = logging.getLogger(__name__)

_LEAST_AGREEMENT = 0.5
"""Rectangles move scores a little, and what is near the threshold; another geometry leaves nothing."""
_SEEN, _AGAIN = 0.4, 0.1
"""Scores from which a box counts, and from which its like does."""
_LEAST_IOU = 0.7


def content_for_any_size(model: Model) -> bytes:
    """A file's content for any size, of ``model``, whose file takes one. Raises ModelError."""
    spec, image = model.spec, image_input(model.session.inputs)
    assert image is not None  # or it would not have been identified
    if spec.resize != "letterbox":
        raise refused(model.session.path, f"its pictures are not letterboxed ({spec.resize})")
    return any_size(model.session.path, image, (spec.height, spec.width), spec.layout)


def check_size(fixed: Model, size: tuple[int, int]) -> None:
    """Raise ModelError where height and width are more than the file's, beyond which its constants end."""
    (height, width), most = size, (fixed.spec.height, fixed.spec.width)
    if height > most[0] or width > most[1]:
        raise ModelError(
            f"model {fixed.name!r}: asked for input {width}x{height} (width x height), but with rect it "
            f"takes {most[1]}x{most[0]} at most, as its file says"
        )


def check_freed(fixed: Model, free: Model) -> None:
    """Raise ModelError where ``free``, which is ``fixed`` for any size, does not answer as that does.

    Warns where the photograph that it is tried on does not tell.
    """
    path = fixed.session.path
    if free.spec.stride is None:
        raise refused(path, free.reasons["stride"])
    share = _agreement(fixed, free)
    if share is None:
        log.warning(
            "model %s sees nothing in the photograph that it is tried on: whether rectangles change its "
            "answers is not known (framerail tune measures it)",
            fixed.name,
        )
    elif share < _LEAST_AGREEMENT:
        raise refused(path, f"fed so, it sees {share:.0%} of what it sees in its own size")
    log.info(
        "model %s is fed rectangles (rect): its file fixes %dx%d, its graph now takes any size up to that",
        fixed.name,
        fixed.spec.width,
        fixed.spec.height,
    )


def _agreement(fixed: Model, free: Model) -> float | None:
    """The share of what one sees in the photograph that the other sees, too; None where that is nothing."""
    seen, again = _boxes(fixed, _SEEN), _boxes(free, _AGAIN)
    if not len(seen):
        return None
    same_class = seen.class_id[:, None] == again.class_id[None, :]
    alike = same_class & (iou_matrix(seen.xyxy, again.xyxy) >= _LEAST_IOU)
    return float(np.mean(alike.any(axis=1)))


def _boxes(model: Model, conf_threshold: float) -> Candidates:
    """What it sees before NMS; boxes in pixels of the photograph."""
    picture = seen_by(model.spec)
    spec = model.spec.for_picture(*picture.shape[:2])
    blob, box = Blobber(spec)(picture)
    model.session.feed_size((spec.height, spec.width))
    found = model.decode(model.session.run(blob), conf_threshold, (spec.height, spec.width))
    return replace(found, xyxy=box.unletterbox(found.xyxy, clip=False))
