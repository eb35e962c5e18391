"""Picture to blob, and boxes back: the geometry is a value with an inverse.

``InputSpec`` is the input contract of a model. ``Letterbox`` is where a picture of a given size
lands in that input; ``letterbox`` and ``unletterbox`` map boxes there and back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.vision.boxes import Boxes

_CHOICES = {
    "color": ("RGB", "BGR"),
    "resize": ("letterbox", "stretch", "crop"),
    "interpolation": ("linear", "area"),
    "align": ("center", "top-left"),
    "layout": ("NCHW", "NHWC"),
}
_FLOAT32, _FLOAT16, _UINT8 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.uint8)
_DTYPES = (_FLOAT32, _FLOAT16, _UINT8)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model wants to be fed: a blob [1, 3, height, width], or [1, height, width, 3].

    A value of the blob is (pixel - ``mean``) / ``std`` with the pixel in 0..255; ``mean`` and
    ``std`` are in the model's own order of channels, ``color``. ``resize``: "letterbox" keeps the
    aspect ratio and fills the rest with the grey level ``pad`` (0..255, before normalisation),
    "stretch" does neither, "crop" fills the input with the middle of the
    picture, as much of it as ``crop`` (a share of the shorter side) says. ``interpolation``: "linear",
    or "area" where the picture is made smaller, which is what pictures resized by Pillow look like.
    ``align``: where a letterboxed picture stands. ``dtype``: float32,
    float16 or uint8. ``layout``: "NCHW" or "NHWC". ``stride``: for a model that takes any size; its
    input is then as small as the letterboxed picture needs, each side a multiple of it and at most
    ``height`` and ``width`` (see ``for_picture``). Raises ValueError for anything else (which a
    card's reader turns into its own error).
    """

    height: int
    width: int
    color: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    resize: Literal["letterbox", "stretch", "crop"] = "letterbox"
    align: Literal["center", "top-left"] = "center"
    pad: int = 114
    dtype: np.dtype[Any] = _FLOAT32
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    stride: int | None = None
    interpolation: Literal["linear", "area"] = "linear"
    crop: float = 0.875

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"expected an input of at least 1x1; got {self.width}x{self.height}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {choices}; got {getattr(self, name)!r}")
        for name in ("mean", "std"):
            # Tuples of floats, whatever sequence came in: a spec is the key of a cache.
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3 or not np.isfinite(values).all() or (name == "std" and 0.0 in values):
                kind = "finite numbers" if name == "mean" else "finite numbers other than 0"
                raise ValueError(f"{name}: expected three {kind}; got {getattr(self, name)!r}")
            object.__setattr__(self, name, values)
        if not 0 <= self.pad <= 255:
            raise ValueError(f"pad: expected a grey level in 0..255; got {self.pad!r}")
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype: expected float32, float16 or uint8; got {self.dtype}")
        if self.dtype == _UINT8 and (self.mean, self.std) != ((0.0,) * 3, (1.0,) * 3):
            raise ValueError("mean and std: a uint8 input takes the pixels themselves; expected 0 and 1")
        if not 0 < self.crop <= 1:
            raise ValueError(f"crop: expected a share of the picture, over 0 and up to 1; got {self.crop!r}")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"stride: expected a whole number from 1; got {self.stride!r}")

    @property
    def blob_shape(self) -> tuple[int, int, int, int]:
        """(1, 3, height, width), or (1, height, width, 3)."""
        if self.layout == "NHWC":
            return (1, self.height, self.width, 3)
        return (1, 3, self.height, self.width)

    def for_picture(self, source_height: int, source_width: int) -> InputSpec:
        """Return the input for a picture of that size: this one, or where it may be smaller, that one.

        16:9 in a square letterbox is 44 % padding, which costs as much as the picture does.
        """
        if self.stride is None or self.resize != "letterbox":
            return self
        return _fitted(self, source_height, source_width)


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a picture lands in a model's input, in pixels.

    The picture of ``source_height`` × ``source_width`` is resized to ``height`` × ``width`` and
    stands at (``left``, ``top``) in the input of ``input_height`` × ``input_width``.
    """

    source_height: int
    source_width: int
    input_height: int
    input_width: int
    height: int
    width: int
    top: int
    left: int
    _scales: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    _offsets: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    _limits: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Made once, since a letterbox serves every frame of its size.
        for name, values in (
            ("_scales", (self.scale_x, self.scale_y)),
            ("_offsets", (self.left, self.top)),
            ("_limits", (self.source_width, self.source_height)),
        ):
            object.__setattr__(self, name, np.array(values * 2, np.float32))

    @staticmethod
    def of(source_height: int, source_width: int, spec: InputSpec) -> Letterbox:
        """Return the letterbox of a picture of that size; cached. Raises ValueError for an empty picture.

        Sizes and pads are rounded as Ultralytics' LetterBox rounds them, whose models are judged
        with it; a side is at least 1 pixel, and small pictures are enlarged.
        """
        return _letterbox_of(source_height, source_width, spec)

    @property
    def scale_x(self) -> float:
        """Input pixels for a pixel of the picture. Not quite ``scale_y``: sides are whole pixels."""
        return self.width / self.source_width

    @property
    def scale_y(self) -> float:
        """Input pixels for a pixel of the picture."""
        return self.height / self.source_height

    def letterbox(self, boxes_xyxy: Boxes) -> Boxes:
        """Map boxes [N, 4] from pixels of the picture to pixels of the input: a new float32 array."""
        return (boxes_xyxy * self._scales + self._offsets).astype(np.float32, copy=False)

    def unletterbox(self, boxes_xyxy: Boxes, *, clip: bool = True) -> Boxes:
        """Map boxes [N, 4] from pixels of the input to pixels of the picture, clipped to it where ``clip``.

        Returns a new float32 array. The inverse of ``letterbox`` for boxes inside the picture.
        """
        boxes = ((boxes_xyxy - self._offsets) / self._scales).astype(np.float32, copy=False)
        if not clip:
            return boxes
        np.minimum(boxes, self._limits, out=boxes)
        return np.maximum(boxes, 0, out=boxes)

    def unletterbox_points(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Map points [..., 2] (x, y) from pixels of the input to pixels of the picture, not clipped.

        Returns a new float32 array.
        """
        return np.asarray((points - self._offsets[:2]) / self._scales[:2], np.float32)


@lru_cache(maxsize=256)
def _fitted(spec: InputSpec, source_height: int, source_width: int) -> InputSpec:
    ratio = min(spec.height / source_height, spec.width / source_width)
    stride = spec.stride or 1
    # Room for the whole of a side that is rounded down later, or the other side would shrink for it.
    height, width = (
        max(1, math.ceil(side * ratio / stride - 1e-9)) * stride for side in (source_height, source_width)
    )
    return replace(spec, height=min(height, spec.height), width=min(width, spec.width), stride=None)


@lru_cache(maxsize=256)
def _letterbox_of(source_height: int, source_width: int, spec: InputSpec) -> Letterbox:
    if source_height < 1 or source_width < 1:
        raise ValueError(f"expected a picture of at least 1x1; got {source_width}x{source_height}")
    height, width = spec.height, spec.width
    if spec.resize == "letterbox":
        ratio = min(spec.height / source_height, spec.width / source_width)
        height = max(1, round(source_height * ratio))
        width = max(1, round(source_width * ratio))
    elif spec.resize == "crop":
        ratio = max(spec.height / source_height, spec.width / source_width) / spec.crop
        height, width = round(source_height * ratio), round(source_width * ratio)
    top = left = 0
    if spec.align == "center" or spec.resize == "crop":
        # An odd rest leaves the extra row or column at the bottom or right.
        top, left = (spec.height - height) // 2, (spec.width - width) // 2
    return Letterbox(source_height, source_width, spec.height, spec.width, height, width, top, left)
