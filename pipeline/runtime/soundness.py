"""Signs that a model is broken: answers that are no numbers, all zero, or the same to every picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import TensorInfo


def complaints(outputs: Sequence[TensorInfo], arrays: Sequence[NDArray[Any]]) -> Iterator[str]:
    """Yield what is wrong with a model's answer to a photograph, as the end of a sentence."""
    floating = [
        (tensor.name, array)
        for tensor, array in zip(outputs, arrays, strict=True)
        if np.issubdtype(array.dtype, np.floating)
    ]
    for name, array in floating:
        if not np.isfinite(array).all():
            yield f"output {name} is not finite for a photograph"
        elif array.size > 1 and not array.any():
            yield f"output {name} is all zeros for a photograph"
