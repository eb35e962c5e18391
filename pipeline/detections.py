"""What was detected in one frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.classification import Labels


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """N detections of one frame, by falling confidence.

    ``xyxy`` float32 [N, 4]: left, top, right, bottom in pixels of the frame, clipped to it.
    ``confidence`` float32 [N] in 0..1. ``class_id`` int32 [N], an index into ``names``.
    Raises ValueError when the three do not have the same length or the wrong shape.
    """

    xyxy: NDArray[np.float32]
    confidence: NDArray[np.float32]
    class_id: NDArray[np.int32]
    names: Sequence[str] = ()
    second: Labels | None = None
    """What a second model took each of them for."""

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

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], float, int, str]]:
        """Box (float32 [4]), confidence, class_id and label of each."""
        for box, confidence, class_id in zip(
            self.xyxy, self.confidence.tolist(), self.class_id.tolist(), strict=True
        ):
            yield box, confidence, class_id, self.label_of(class_id)

    def __repr__(self) -> str:
        return f"Detections({len(self)}: {', '.join(self.labels[:4])}{', …' if len(self) > 4 else ''})"
