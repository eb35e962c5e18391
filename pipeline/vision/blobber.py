"""A picture into a blob: resize, letterbox, colour order, normalisation and layout in three passes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.frame import Image
from pipeline.vision.letterbox import InputSpec, Letterbox

# OpenCV's tables have entries of any 8, 16 and 32 bits, but it knows no float16: as integers.
_AS_INTEGER: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.float32): np.dtype(np.int32),
    np.dtype(np.float16): np.dtype(np.int16),
    np.dtype(np.uint8): np.dtype(np.uint8),
}


class Blobber:
    """Makes blobs for one ``InputSpec``. Keeps scratch memory: one for each thread that uses it.

    The resized picture is split into planes of a canvas whose pads stay from call to call; each
    plane goes through a table of the 256 values it can take, straight into the blob. 1920×1080 to
    float32 on one thread, resize included, into 416×416 and 640×640 (µs; medians of 200 runs that
    took turns with each other, so that each found the caches cold, as in the line; OpenCV 5):

    ==================================================================  =====  =====
    this                                                                  455    605
    cv2.resize, cv2.copyMakeBorder, cv2.dnn.blobFromImage (a new array)  1674   3060
    ==================================================================  =====  =====

    In an earlier form that filled the pads of the blob at each call, cv2.LUT, cv2.addWeighted and
    numpy.multiply were equal within 10 %; cv2.dnn.blobFromImageWithParams was as fast at 416 and
    three times slower at 640. OpenCV's second thread speeds up the resize alone.

    Where the pixels themselves are wanted, there is no table: they are written into the blob at once, for
    NHWC and BGR by the resize itself (591 µs at 640, where float32 took 1043 and the resize alone 500).
    """

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec
        self.shape = spec.blob_shape
        self._pixels = np.empty(3 * spec.height * spec.width, np.uint8)
        # The letterboxed picture, laid out as the blob is; its pads stay from call to call. Where the pixels
        # themselves are wanted, the blob is it.
        self._as_is = spec.dtype == np.uint8
        self._canvas = np.empty(spec.blob_shape[1:], np.uint8)
        self._inside: list[NDArray[np.uint8]] = []
        self._rows = self._columns = slice(None)
        self._inside_hw = (0, 0)
        self._box: Letterbox | None = None
        self._integer = _AS_INTEGER[spec.dtype]
        tables = [
            ((np.arange(256) - mean) / std).astype(spec.dtype).view(self._integer)
            for mean, std in zip(spec.mean, spec.std, strict=True)
        ]
        # What goes through a table together: all values where the channels share one, else each
        # plane (rows of the blob), or all pixels with a table of three columns.
        whole = slice(None)
        self._flat: tuple[int, ...] = (spec.blob_shape[1] * spec.blob_shape[2], spec.blob_shape[3])
        if len(set(zip(spec.mean, spec.std, strict=True))) == 1:
            self._lookups = [(whole, tables[0])]
        elif spec.layout == "NCHW":
            self._lookups = [
                (slice(plane * spec.height, (plane + 1) * spec.height), tables[plane]) for plane in range(3)
            ]
        else:
            self._flat = spec.blob_shape[1:]
            self._lookups = [(whole, np.stack(tables, axis=-1)[None])]

    def fitted(self, height: int, width: int) -> tuple[int, int] | None:
        """Height and width to which a picture of this size is resized, bilinearly; None where it is not."""
        if self.spec.resize == "crop" or self.spec.interpolation == "area":
            return None
        box = Letterbox.of(height, width, self.spec)
        return (box.height, box.width) if (box.height, box.width) != (height, width) else None

    def __call__(
        self, image: Image, out: NDArray[Any] | None = None, of: tuple[int, int] | None = None
    ) -> tuple[NDArray[Any], Letterbox]:
        """Write ``image`` (uint8 [h, w, 3], BGR) into ``out``, or into a new array where it is None.

        ``of``: height and width of the picture that ``image`` was made from, as :meth:`fitted` says.
        ``out`` is C-contiguous, of the spec's ``blob_shape`` and dtype; every value of it is
        written. Returns the blob (``out`` itself) and where the picture lies in it. Raises
        ValueError for another image or ``out``.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected a BGR image, uint8 [h, w, 3]; got {image.dtype} {image.shape}")
        spec = self.spec
        if out is None:
            out = np.empty(self.shape, spec.dtype)
        elif out.shape != self.shape or out.dtype != spec.dtype or not out.flags.c_contiguous:
            order = "contiguous" if out.flags.c_contiguous else "strided"
            raise ValueError(
                f"expected a contiguous blob, {spec.dtype} {spec.blob_shape}; "
                f"got {order} {out.dtype} {out.shape}"
            )
        height, width = image.shape[:2] if of is None else of
        box = Letterbox.of(height, width, spec)
        if box is not self._box and box != self._box:  # nearly always the one that is kept for that size
            self._lay_out(box)
        if self._as_is:
            self._inside = self._within(out[0])
            self._pad(out[0])
        self._place(_middle(image, box) if spec.resize == "crop" else image)
        if self._as_is:
            return out, box
        canvas = self._canvas.reshape(self._flat)
        blob = out.reshape(self._flat).view(self._integer)
        for rows, table in self._lookups:
            cv2.LUT(canvas[rows], table, dst=blob[rows])
        return out, box

    def _place(self, image: Image) -> None:
        """Write the picture where it lies, in its size there."""
        height, width = self._inside_hw
        straight = self.spec.layout == "NHWC" and self.spec.color == "BGR"
        if (height, width) != image.shape[:2]:
            pixels = self._pixels[: 3 * height * width].reshape(height, width, 3)
            place = self._inside[0] if straight else pixels
            image = cv2.resize(image, (width, height), dst=place, interpolation=self._interpolation(image))
        elif straight:
            np.copyto(self._inside[0], image)
        if self.spec.layout == "NCHW" and image.flags.c_contiguous:
            cv2.split(image, self._inside)
        elif self.spec.layout == "NCHW":
            for channel, plane in enumerate(self._inside):
                np.copyto(plane, image[:, :, channel])
        elif not straight:
            np.copyto(self._inside[0], image)

    def _interpolation(self, image: Image) -> int:
        smaller = image.shape[0] > self._inside_hw[0]
        return int(cv2.INTER_AREA if self.spec.interpolation == "area" and smaller else cv2.INTER_LINEAR)

    def _lay_out(self, box: Letterbox) -> None:
        """Fill the pads, and find where the channels of a BGR picture go."""
        rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
        if self.spec.resize == "crop":
            rows = columns = slice(None)
        self._inside_hw = (
            len(range(*rows.indices(self.spec.height))),
            len(range(*columns.indices(self.spec.width))),
        )
        self._rows, self._columns, self._box = rows, columns, box
        if not self._as_is:
            self._canvas.fill(self.spec.pad)
            self._inside = self._within(self._canvas)

    def _within(self, canvas: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Where a BGR picture lies in a canvas: the whole of it, or each of its planes."""
        if self.spec.layout == "NHWC":
            inside = canvas[self._rows, self._columns]
            return [inside[:, :, ::-1] if self.spec.color == "RGB" else inside]
        planes = list(canvas[:, self._rows, self._columns])
        return planes[::-1] if self.spec.color == "RGB" else planes

    def _pad(self, canvas: NDArray[np.uint8]) -> None:
        """Fill what the picture does not reach."""
        rows, columns = (1, 2) if self.spec.layout == "NCHW" else (0, 1)
        for axis, lies in ((rows, self._rows), (columns, self._columns)):
            start, end, _ = lies.indices(canvas.shape[axis])
            sides = np.moveaxis(canvas, axis, 0)
            sides[:start] = self.spec.pad
            sides[end:] = self.spec.pad


def _middle(image: Image, box: Letterbox) -> Image:
    """Return the part of the picture that an input filled by its middle shows."""
    top, left = round(-box.top / box.scale_y), round(-box.left / box.scale_x)
    height, width = round(box.input_height / box.scale_y), round(box.input_width / box.scale_x)
    return image[top : top + max(height, 1), left : left + max(width, 1)]
