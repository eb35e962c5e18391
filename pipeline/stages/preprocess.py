"""Frames to blobs: resize, letterbox, colour order, normalisation, layout."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Decoded, Frame, Image, Prepared
from pipeline.vision.blobber import Blobber
from pipeline.vision.letterbox import InputSpec


class BlobPool:
    """Blobs to write into again.

    A fresh multi-megabyte array per frame is page-faulted in each time, which costs about as much
    as filling it. A blob that is never given back (a cancelled run) is simply collected.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._free: defaultdict[tuple[int, ...], deque[NDArray[Any]]] = defaultdict(deque)

    def take(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """A blob of this shape with unspecified contents."""
        try:
            return self._free[shape].pop()
        except IndexError:
            return np.empty(shape, self.dtype)

    def give_back(self, blob: NDArray[Any]) -> None:
        """``blob`` has been read; it may be overwritten."""
        self._free[blob.shape].append(blob)


class Preprocess:
    """One per worker: it holds scratch pictures."""

    def __init__(
        self,
        spec: InputSpec,
        pool: BlobPool,
        *,
        keep: bool = False,
        serving: Callable[[], Any] = lambda: None,
    ) -> None:
        """``keep``: somebody further down wants the full-size picture too, so the one made here stays;
        ``serving`` says what the blobs are prepared for."""
        self._spec = spec
        self._keep = keep
        self._whole = Blobber(spec)
        self._fitted: dict[InputSpec, Blobber] = {}
        self._pool = pool
        self._serving = serving

    def __call__(self, frames: list[Frame]) -> list[Prepared]:
        """Frames to Prepared, one each."""
        return [self._prepare(frame) for frame in frames]

    def _prepare(self, frame: Frame) -> Prepared:
        blobber = self._whole if self._spec.stride is None else self._for_size(frame.height, frame.width)
        pixels = frame.pixels
        blob = self._pool.take(blobber.shape)
        if not isinstance(pixels, Decoded):
            blob, letterbox = blobber(pixels, blob)
        elif (small := self._reduced(frame, pixels, blobber)) is not None:
            blob, letterbox = blobber(small, blob, (frame.height, frame.width))
        else:
            blob, letterbox = blobber(pixels.bgr(keep=self._keep), blob)
        return Prepared(frame, blob, letterbox, self._serving())

    def _reduced(self, frame: Frame, pixels: Decoded, blobber: Blobber) -> Image | None:
        """The picture in its size in the blob, where the whole is not wanted and need not be made."""
        fitted = None if self._keep else blobber.fitted(frame.height, frame.width)
        return None if fitted is None else pixels.reduced(*fitted)

    def _for_size(self, height: int, width: int) -> Blobber:
        spec = self._spec.for_picture(height, width)
        if spec not in self._fitted:
            self._fitted[spec] = Blobber(spec)
        return self._fitted[spec]
