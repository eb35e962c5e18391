"""The second stage, second half: a classifier on the crops of the objects that are new."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.classifier import best
from pipeline.errors import ModelError
from pipeline.frame import Image, Result
from pipeline.runtime.model import Model
from pipeline.stages.match import Known, Matched, answered
from pipeline.vision.blobber import Blobber

log = logging.getLogger(__name__)

MOST_CROPS = 32
"""Crops in one run, where the model takes any number: more cost memory and win nothing."""


class Classify:
    """Asks ``model``, a classifier. One instance, one worker.

    Raises ModelError for a model whose answers are not one for each crop.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        # The crop is the object: its middle alone would lose the head or the wheels.
        self._spec = replace(model.spec, resize="stretch", stride=None)
        self._blobber = Blobber(self._spec)
        self._most = model.max_batch or MOST_CROPS
        self._warned = False
        self._blob = np.empty((self._most, *self._spec.blob_shape[1:]), self._spec.dtype)

    def __call__(self, items: list[Result | Matched]) -> list[Result]:
        """Results with what their objects are; crops of all of them go through the model together."""
        matched = [item for item in items if isinstance(item, Matched)]
        new: dict[int, tuple[Image, Known, NDArray[np.float32]]] = {}
        for item in matched:
            for known, box in item.unanswered():
                new.setdefault(id(known), (item.frame.image, known, box))
        asked = list(new.values())
        for start in range(0, len(asked), self._most):
            self._ask(asked[start : start + self._most])
        return [self.finished(item) for item in items]

    def finished(self, item: Result | Matched) -> Result:
        """The result with the answers that its objects have by now."""
        return answered(item.result, item.objects, self.model.labels) if isinstance(item, Matched) else item

    def _ask(self, new: Sequence[tuple[Image, Known, NDArray[np.float32]]]) -> None:
        for place, (image, _, box) in enumerate(new):
            self._blobber(_crop(image, box), out=self._blob[place : place + 1])
        outputs = self.model.session.run(self._blob[: len(new)])
        if outputs[0].shape[:1] != (len(new),):
            raise ModelError(
                f"model {self.model.name!r}: expected an answer for each of {len(new)} crops; got "
                f"{list(outputs[0].shape)}: is it a classifier?"
            )
        class_id, confidence = best(outputs[0], self.model.params)
        if (class_id < 0).any() and not self._warned:
            self._warned = True
            log.warning("model %s answers with what is no number; such objects get no label", self.model.name)
        # As where it classifies whole frames: what is not above its own threshold is no answer.
        unsure = confidence <= self.model.conf_threshold
        class_id[unsure], confidence[unsure] = -1, 0
        for (_, known, _), index, score in zip(new, class_id.tolist(), confidence.tolist(), strict=True):
            known.answer = index, score


def _crop(image: Image, box: NDArray[np.float32]) -> Image:
    """The pixels that a box touches, at least one."""
    height, width = image.shape[:2]
    left, top = min(int(box[0]), width - 1), min(int(box[1]), height - 1)
    right, bottom = max(math.ceil(box[2]), left + 1), max(math.ceil(box[3]), top + 1)
    return image[top:bottom, left:right]
