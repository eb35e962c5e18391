"""Whether a first column is an objectness, by columns as trained detectors give them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.decoders.objectness import objectness_first


def table(kind: str) -> np.ndarray:
    generator = np.random.default_rng(3)
    there = np.zeros((1000, 1))
    there[:20] = generator.random((20, 1)) * 0.5 + 0.4
    likely = generator.random((1000, 3)) * 0.3
    if kind == "conditional":
        return np.hstack([there + 1e-4, likely])
    if kind == "held already":
        return np.hstack([there, there * likely])
    return there * likely  # classes alone


@pytest.mark.parametrize(
    ("kind", "told"), [("conditional", True), ("held already", None), ("classes alone", False)]
)
def test_what_stands_first(kind, told):
    assert objectness_first(table(kind)) is told


def test_one_column_tells_nothing():
    assert objectness_first(table("conditional")[:, :1]) is None
