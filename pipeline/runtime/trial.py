"""A model's answer to a photograph, fed in any way: what identification goes by where shapes don't tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelError
from pipeline.frame import Image
from pipeline.runtime.session import Session
from pipeline.runtime.soundness import complaints
from pipeline.sample import PHOTO
from pipeline.vision.blobber import Blobber
from pipeline.vision.letterbox import InputSpec


@lru_cache(maxsize=1)
def photograph() -> Image:
    """A street-sized picture with a person and a cat in it, uint8 [720, 1280, 3], BGR, not writable."""
    data = np.fromfile(PHOTO, np.uint8)
    picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    picture.setflags(write=False)
    return picture


def seen_by(spec: InputSpec) -> Image:
    """What of the photograph a model is tried on: all; a classifier, which takes one object, on the cat."""
    return photograph()[342:655, 60:480] if spec.resize == "crop" else photograph()


class Trial:
    """Runs a session on the photograph; each way of feeding it once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seen: dict[InputSpec, Sequence[NDArray[Any]]] = {}

    def __call__(self, fed: Mapping[str, Any]) -> Sequence[NDArray[Any]]:
        """Return the raw outputs for the photograph, fed as the arguments of an InputSpec say.

        Raises ModelError where the model cannot be fed so, or does not run.
        """
        try:
            spec = InputSpec(**fed)
        except ValueError as error:
            raise ModelError(f"model {self._session.path.name}: its input cannot be so: {error}") from None
        if spec not in self._seen:
            self._seen[spec] = self.run(spec)
        return self._seen[spec]

    def complaints(self) -> list[str]:
        """What is wrong with the answers so far, of whatever way of feeding; each once."""
        answers = self._seen.values()
        return list(
            dict.fromkeys(each for arrays in answers for each in complaints(self._session.outputs, arrays))
        )

    def run(self, spec: InputSpec, picture: Image | None = None) -> Sequence[NDArray[Any]]:
        """Run on ``picture`` (None: the photograph) in the input's full size. Raises ModelError."""
        self._session.feed_size((spec.height, spec.width))
        try:
            blob, _ = Blobber(replace(spec, stride=None))(seen_by(spec) if picture is None else picture)
            return self._session.run(blob)
        except Exception as error:
            raise ModelError(
                f"model {self._session.path.name} does not run on input {list(spec.blob_shape)} "
                f"{spec.dtype}: {error}"
            ) from None
