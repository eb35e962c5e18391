"""The anchors and box formulas of YOLOv3 to YOLOv7: what a raw head cannot say of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.decoders.family import one_of
from pipeline.errors import ModelError

Sizes = tuple[tuple[float, float], ...]
Anchors = tuple[Sizes, ...]
"""Width and height of each anchor in input pixels, for each level from the finest."""
LEFT = ("all", "centres", "none")
"""What still needs a sigmoid: everything (but w and h of "exp"), x and y alone, nothing."""
FORMULAS = ("exp", "square")


@dataclass(frozen=True, slots=True)
class Version:
    """``scale_x_y`` of each level; ``square``: sizes are anchor · (2 σ)², else anchor · exp."""

    anchors: Anchors
    scale_x_y: tuple[float, ...]
    square: bool


def _levels(*numbers: float) -> Anchors:
    pairs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    return tuple(pairs[start : start + 3] for start in range(0, len(pairs), 3))


# yolov3.cfg and YOLOv5's models/yolov5s.yaml; yolov4.cfg and YOLOv7's cfg/deploy/yolov7.yaml.
_V3 = _levels(10, 13, 16, 30, 33, 23, 30, 61, 62, 45, 59, 119, 116, 90, 156, 198, 373, 326)
_V4 = _levels(12, 16, 19, 36, 40, 28, 36, 75, 76, 55, 72, 146, 142, 110, 192, 243, 459, 401)
# yolov3-tiny.cfg takes anchors 0 to 2 for its finer level, yolov4-tiny.cfg 1 to 3 of the same.
_V3_TINY = _levels(10, 14, 23, 27, 37, 58, 81, 82, 135, 169, 344, 319)
_V4_TINY = _levels(23, 27, 37, 58, 81, 82, 81, 82, 135, 169, 344, 319)
# YOLOv5's models/hub/yolov5s6.yaml and YOLOv7's cfg/deploy/yolov7-w6.yaml.
_P6 = _levels(
    *(19, 27, 44, 40, 38, 94, 96, 68, 86, 152, 180, 137),
    *(140, 301, 303, 264, 238, 542, 436, 615, 739, 380, 925, 792),
)  # fmt: skip
VERSIONS: Mapping[str, Version] = {
    "yolov3": Version(_V3, (1.0,) * 3, square=False),
    "yolov4": Version(_V4, (1.2, 1.1, 1.05), square=False),
    "yolov5": Version(_V3, (2.0,) * 3, square=True),
    "yolov7": Version(_V4, (2.0,) * 3, square=True),
    "yolov3-tiny": Version(_V3_TINY, (1.0,) * 2, square=False),
    "yolov4-tiny": Version(_V4_TINY, (1.05,) * 2, square=False),
    "yolov5-p6": Version(_P6, (2.0,) * 4, square=True),
}


def versions_of(levels: int) -> list[str]:
    """Names of the versions with so many levels, the default first."""
    return [name for name, version in VERSIONS.items() if len(version.anchors) == levels]


def formula(levels: int, params: Mapping[str, Any]) -> Version:
    """Return what ``params`` say for so many levels: a version, and what is stated instead of its own.

    Raises ModelError where they are for another number of levels, or say too little.
    """
    known = versions_of(levels)
    name = params.get("version") or (known[0] if known else None)
    base = VERSIONS[name] if name else None
    anchors = params.get("anchors") or (base.anchors if base else ())
    scales = params.get("scale_x_y") or (base.scale_x_y if base else (1.0,) * levels)
    scales = scales * levels if len(scales) == 1 else scales
    square = params["sizes"] == "square" if "sizes" in params else bool(base and base.square)
    for what, given in (("anchors", anchors), ("scale_x_y", scales)):
        if len(given) != levels:
            raise ModelError(
                f"yolo-anchors: expected {what} for each of {levels} levels; got {len(given)}: "
                f"state {what} in a model card"
            )
    return Version(anchors, scales, square)


accept_version = one_of(VERSIONS)


def accept_anchors(value: Any) -> Anchors:
    """Accept for each level, the finest first, three widths and heights: [[10, 13, 16, 30, 33, 23], …]."""
    levels = value if isinstance(value, (list, tuple)) else ()
    good = [
        len(level) == 6 and all(map(_positive, level)) for level in levels if isinstance(level, (list, tuple))
    ]
    if not levels or len(good) != len(levels) or not all(good):
        raise TypeError("a list for each level, the finest first, of three widths and heights above 0")
    return _levels(*(float(number) for level in levels for number in level))


def accept_scales(value: Any) -> tuple[float, ...]:
    """Accept one number from 1, or one for each level, the finest first."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values or not all(_positive(scale) and 1 <= scale <= 10 for scale in values):
        raise TypeError("a number in 1..10, or one for each level, the finest first")
    return tuple(float(scale) for scale in values)


accept_sizes = one_of(FORMULAS)


accept_sigmoid = one_of(LEFT)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e6
