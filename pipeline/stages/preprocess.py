"""Frames to blobs: resize, letterbox, colour order, normalisation, layout."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Frame, Prepared
from pipeline.vision.letterbox import Blobber, InputSpec


class BlobPool:
    """Blobs to write into again.

    A fresh multi-megabyte array per frame is page-faulted in each time, which costs about as much
    as filling it. A blob that is never given back (a cancelled run) is simply collected.
    """

    def __init__(self, spec: InputSpec) -> None:
        self.shape = spec.blob_shape
        self.dtype = spec.dtype
        self._free: deque[NDArray[Any]] = deque()

    def take(self) -> NDArray[Any]:
        """A blob with unspecified contents."""
        try:
            return self._free.pop()
        except IndexError:
            return np.empty(self.shape, self.dtype)

    def give_back(self, blob: NDArray[Any]) -> None:
        """``blob`` has been read; it may be overwritten."""
        self._free.append(blob)


class Preprocess:
    """One per worker: it holds scratch pictures."""

    def __init__(self, spec: InputSpec, pool: BlobPool) -> None:
        self._blobber = Blobber(spec)
        self._pool = pool

    def __call__(self, frames: list[Frame]) -> list[Prepared]:
        """Frames to Prepared, one each."""
        return [self._prepare(frame) for frame in frames]

    def _prepare(self, frame: Frame) -> Prepared:
        blob, letterbox = self._blobber(frame.image, self._pool.take())
        return Prepared(frame, blob, letterbox)
