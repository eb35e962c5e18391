"""What a model's declared inputs say of how it is fed: which one is the picture, its size and layout,
and what the others want."""

from __future__ import annotations

import ast
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.family import Family, TensorInfo

# CPython 3.11 counts the depth of an AST that it converts once for the whole interpreter. Garbage may be
# collected in the middle, whose __del__ lets another thread run: where that one converts, too, the first
# finds the count changed, and raises SystemError. A model may be reloaded while another is opened afresh.
_CONVERTING = threading.Lock()
_MOST = 8192
"""Pixels a side that metadata are believed."""
IMAGE_DTYPES = ("float32", "float16", "uint8")
# Input beside the picture → its value for one picture, from the input's height and width: so boxes
# come out in pixels of the input. DETR and its kin (RT-DETR, D-FINE, DEIM): width, height. Paddle's
# exports (PP-YOLOE, PicoDet): height, width, and how much the picture was scaled, which is ours to undo.
_EXTRAS: Mapping[str, Any] = {
    "orig_target_sizes": lambda height, width: (width, height),
    "orig_size": lambda height, width: (width, height),
    "target_sizes": lambda height, width: (height, width),
    "im_shape": lambda height, width: (height, width),
    "image_shape": lambda height, width: (height, width),
    "scale_factor": lambda _height, _width: (1, 1),
}


def image_input(inputs: Sequence[TensorInfo]) -> TensorInfo | None:
    """Return the input that takes the picture, the one of rank 4 or [3, H, W]; None where there is none."""
    images = [tensor for tensor in inputs if len(tensor.shape) == 4] or [
        tensor for tensor in inputs if len(tensor.shape) == 3 and tensor.shape[0] == 3
    ]
    return images[0] if len(images) == 1 else None


def layout_of(image: TensorInfo) -> Literal["NCHW", "NHWC"]:
    """Return the order of a picture input's axes; without the batch axis they go as NCHW."""
    if len(image.shape) == 3:
        return "NCHW"
    return "NHWC" if image.shape[3] == 3 and image.shape[1] != 3 else "NCHW"


def spatial(image: TensorInfo) -> tuple[int | None, int | None]:
    """Return a picture input's declared height and width; None where they are free."""
    height, width = image.shape[-3:-1] if layout_of(image) == "NHWC" else image.shape[-2:]
    return height, width


def input_size(
    image: TensorInfo, metadata: Mapping[str, str], family: Family
) -> tuple[tuple[int, int], str, Literal["NCHW", "NHWC"]]:
    """Return height and width of the input, where they come from, and its layout."""
    layout = layout_of(image)
    height, width = spatial(image)
    if height is not None and width is not None:
        return (height, width), f"input shape {image}", layout
    stated = literal(metadata.get("imgsz", ""))
    if type(stated) is int:
        stated = [stated, stated]
    sane = isinstance(stated, list) and all(type(side) is int and 0 < side <= _MOST for side in stated)
    if sane and len(stated) == 2:
        reason = f"metadata imgsz {stated}; the input is dynamic"
        return (height or stated[0], width or stated[1]), reason, layout
    default = family.input_hw
    reason = f"default of the family {family.name}; the input is dynamic"
    return (height or default[0], width or default[1]), reason, layout


def extra_feeds(inputs: Sequence[TensorInfo], input_hw: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Return for each input beside the picture its value for one picture, [1, 2]."""
    image = image_input(inputs)
    return {
        tensor.name: np.array([_EXTRAS[tensor.name](*input_hw)], tensor.dtype)
        for tensor in inputs
        if tensor is not image
    }


def unknown_extra(inputs: Sequence[TensorInfo]) -> TensorInfo | None:
    """Return an input beside the picture that nobody knows how to feed."""
    image = image_input(inputs)
    for tensor in inputs:
        known = tensor.name in _EXTRAS and len(tensor.shape) == 2 and tensor.shape[1] in (2, None)
        if tensor is not image and not known:
            return tensor
    return None


def literal(text: str) -> Any:
    """Return the value of a Python literal; None for text that is none."""
    try:
        with _CONVERTING:
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
