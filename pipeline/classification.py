"""What one picture, or one object in it, was taken for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.printable import printable


def short(label: str) -> str:
    """Return the first of a label's words: ImageNet's are several of one meaning, with commas."""
    return label.partition(",")[0].strip() or label


def listed(labels: Sequence[str], most: int) -> str:
    """The first of a model's labels in one line, for a terminal."""
    first = ", ".join(printable(short(label)) for label in labels[:most])
    return first + (f", … ({len(labels)})" if len(labels) > most else "")


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """The K most likely classes of a picture, by falling confidence.

    ``class_id`` int32 [K], an index into ``names``; ``confidence`` float32 [K] in 0..1, of all
    classes together at most 1.
    """

    class_id: NDArray[np.int32]
    confidence: NDArray[np.float32]
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.class_id.shape != (len(self.confidence),) or self.confidence.ndim != 1:
            got = f"{self.class_id.shape} and {self.confidence.shape}"
            raise ValueError(f"expected class_id [K] and confidence [K]; got {got}")

    @property
    def labels(self) -> list[str]:
        """The K class names; ``class 7`` where the model has no name for 7."""
        names = self.names
        return [names[i] if 0 <= i < len(names) else f"class {i}" for i in self.class_id.tolist()]

    def __len__(self) -> int:
        return len(self.class_id)

    def __repr__(self) -> str:
        best = f"{self.labels[0]} {self.confidence[0]:.2f}" if len(self) else "nothing"
        return f"Classification({best})"


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What a second model took each of N detections for.

    ``class_id`` int32 [N], an index into ``names``, -1 where it was not asked or gave no answer:
    nothing above its threshold, or no number; ``confidence`` float32 [N], 0 there.
    """

    class_id: NDArray[np.int32]
    confidence: NDArray[np.float32]
    names: Sequence[str] = ()

    @property
    def labels(self) -> list[str | None]:
        """The N names, None where there is none."""
        return [None if i < 0 else self.names[i] for i in self.class_id.tolist()]

    def __repr__(self) -> str:
        shown = ", ".join(label or "-" for label in self.labels[:4])
        return f"Labels({len(self.class_id)}: {shown}{', …' if len(self.class_id) > 4 else ''})"
