"""Scores that a model gives as logits: found out, compared as they are, and made probabilities last."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders.family import Param, flag

SIGMOID = Param(flag, "true: scores are logits and still need a sigmoid; false (default): probabilities")


def looks_like_logits(scores: NDArray[Any]) -> bool:
    """Whether any of ``scores`` is no probability: float16 and 8-bit models reach a little over 0..1."""
    finite = scores[np.isfinite(scores)]
    return bool(len(finite) and (finite.min() < -0.05 or finite.max() > 1.05))


def logit(probability: float) -> float:
    """Return what a logit must exceed for its sigmoid to exceed ``probability``: log(p / (1 - p))."""
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)), float32."""
    with np.errstate(over="ignore"):
        exponentials = np.exp(-logits.astype(np.float32))
    return np.asarray(1 / (1 + exponentials), np.float32)
