"""What was detected in one frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from pipeline.classification import Labels


class Rle(TypedDict):
    """A mask as COCO writes it: ``size`` [height, width] and the run lengths as text."""

    size: list[int]
    counts: str


class Masks(Protocol):
    """N masks of one frame, each computed when it is asked for."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        """One mask: bool [height, width] of the frame."""

    def crop(self, index: int) -> tuple[int, int, NDArray[np.bool_]]:
        """The part of a mask within its box: left and top in pixels of the frame, and bool [h, w]."""

    def rle(self, index: int) -> Rle:
        """One mask in COCO's compressed run lengths."""


@dataclass(frozen=True, slots=True, eq=False)
class ChosenMasks:
    """Some of ``masks``, those of the numbers ``chosen`` [K], each computed when it is asked for."""

    masks: Masks
    chosen: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        return self.masks[int(self.chosen[index])]

    def crop(self, index: int) -> tuple[int, int, NDArray[np.bool_]]:
        """As of :class:`Masks`."""
        return self.masks.crop(int(self.chosen[index]))

    def rle(self, index: int) -> Rle:
        """As of :class:`Masks`."""
        return self.masks.rle(int(self.chosen[index]))


Choice = int | slice | Sequence[int] | Sequence[bool] | NDArray[np.integer[Any]] | NDArray[np.bool_]
"""What chooses some of N: a number, a slice, numbers, or a truth value for each."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """N detections of one frame, by falling confidence.

    ``detections[detections.confidence > 0.5]`` are some of them, see ``__getitem__``.

    ``xyxy`` float32 [N, 4]: left, top, right, bottom in pixels of the frame, clipped to it.
    ``confidence`` float32 [N] in 0..1. ``class_id`` int32 [N], an index into ``names``. What
    only some models say is None elsewhere. Raises ValueError when they do not have the same
    length or the wrong shape.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int32]
    names: Sequence[str] = ()
    second: Labels | None = None
    """What a second model took each of them for."""
    keypoints: NDArray[np.float32] | None = None
    """[N, K, 3]: x and y in pixels of the frame, clipped to it; how surely the point is seen, 0..1."""
    polygons: NDArray[np.float32] | None = None
    """[N, 4, 2]: the corners of rotated boxes in order, in pixels of the frame, not clipped."""
    rotated: NDArray[np.float32] | None = None
    """[N, 5]: centre x, centre y, width, height in pixels of the frame; the angle of the width in
    radians, clockwise. A picture scaled unequally makes a rotated box a parallelogram, which only
    ``polygons`` says exactly: this then has the lengths and the angle of its sides."""
    masks: Masks | None = None

    def __post_init__(self) -> None:
        count = len(self.xyxy)
        if (
            self.xyxy.shape != (count, 4)
            or self.confidence.shape != (count,)
            or self.class_id.shape != (count,)
        ):
            raise ValueError(
                f"expected xyxy [N, 4], confidence [N] and class_id [N]; got {self.xyxy.shape}, "
                f"{self.confidence.shape} and {self.class_id.shape}"
            )
        if not (self.keypoints is None and self.polygons is None and self.rotated is None):
            self._check_further(count)
        if self.masks is not None and len(self.masks) != count:
            raise ValueError(f"expected {count} masks; got {len(self.masks)}")

    def _check_further(self, count: int) -> None:
        kinds = (("keypoints", 3, (-1, 3)), ("polygons", 3, (4, 2)), ("rotated", 2, (5,)))
        for name, rank, sizes in kinds:
            part: NDArray[np.float32] | None = getattr(self, name)
            if part is None:
                continue
            fits = part.ndim == rank and all(
                size in (-1, is_) for size, is_ in zip(sizes, part.shape[1:], strict=True)
            )
            if len(part) != count or not fits:
                expected = ", ".join("K" if size == -1 else str(size) for size in sizes)
                raise ValueError(f"expected {name} [{count}, {expected}]; got {part.shape}")

    @classmethod
    def empty(cls, names: Sequence[str] = ()) -> Detections:
        """No detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), names)

    @property
    def labels(self) -> list[str]:
        """The N class names; ``class 7`` where the model has no name for 7."""
        return [self.label_of(int(class_id)) for class_id in self.class_id]

    def label_of(self, class_id: int) -> str:
        """The name of a class, ``class 7`` where the model has none."""
        return self.names[class_id] if 0 <= class_id < len(self.names) else f"class {class_id}"

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, choice: Choice) -> Detections:
        """Return some of them, in the order chosen, with all that belongs to each.

        ``choice`` is a number (which gives the Detections of one), a slice, an array or list of
        numbers, or a mask bool [N]. Raises IndexError for a number beyond N and for whatever else.
        """
        chosen = np.atleast_1d(np.arange(len(self))[choice])
        if chosen.ndim != 1:
            expected = f"a number, a slice, numbers or a mask bool [{len(self)}]"
            raise IndexError(f"expected {expected}; got {choice!r}")
        second, masks = self.second, self.masks
        return Detections(
            self.xyxy[chosen],
            self.confidence[chosen],
            self.class_id[chosen],
            self.names,
            second=second and Labels(second.class_id[chosen], second.confidence[chosen], second.names),
            keypoints=None if self.keypoints is None else self.keypoints[chosen],
            polygons=None if self.polygons is None else self.polygons[chosen],
            rotated=None if self.rotated is None else self.rotated[chosen],
            masks=None if masks is None else ChosenMasks(masks, chosen),
        )

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], float, int, str]]:
        """Box (float32 [4]), confidence, class_id and label of each."""
        for box, confidence, class_id in zip(
            self.xyxy, self.confidence.tolist(), self.class_id.tolist(), strict=True
        ):
            yield box, confidence, class_id, self.label_of(class_id)

    def __repr__(self) -> str:
        return f"Detections({len(self)}: {', '.join(self.labels[:4])}{', …' if len(self) > 4 else ''})"
