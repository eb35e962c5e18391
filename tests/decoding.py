"""What the tests of the decoders share: a small input, its cells, and how answers are compared."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.decoders import DECODERS, TensorInfo

HW = (64, 96)
"""The input of most tests, height and width: not square, so that exchanged axes show."""


def cells(input_hw, strides):
    return [
        (x, y, stride)
        for stride in strides
        for y in range(math.ceil(input_hw[0] / stride))
        for x in range(math.ceil(input_hw[1] / stride))
    ]


def table(rows):
    """Box, score and class of each candidate, sorted, to compare without regard to order."""
    return sorted((round(float(score), 5), int(kind), *(float(v) for v in box)) for box, score, kind in rows)


def assert_same(found, expected):
    assert found.xyxy.dtype == found.scores.dtype == np.float32 and found.class_id.dtype == np.int32
    assert found.xyxy.shape == (len(found), 4) and len(found.class_id) == len(found)
    got = table(zip(found.xyxy, found.scores, found.class_id, strict=True))
    assert len(got) == len(expected) > 0
    np.testing.assert_allclose(got, table(expected), rtol=1e-4, atol=2e-3)


def passing(scores, threshold, multi_label):
    """The classes of one box that are candidates."""
    above = [kind for kind, score in enumerate(scores) if score > threshold]
    return above if multi_label or not above else [max(above, key=lambda kind: (scores[kind], -kind))]


def random(seed, *shape):
    return np.random.default_rng(seed).random(shape, np.float32)


def module_of(name: str) -> str:
    """The module that decodes a family; several that are fed in other ways may share one."""
    return DECODERS[name].decode.__module__.rpartition(".")[2]


def named(name: str) -> str:
    """The name by which a family's decoder calls itself in errors: its module's."""
    return module_of(name).replace("_", "-")


def sound_outputs(name: str, dtype: Any = np.float32) -> list[np.ndarray]:
    """Outputs of a family for HW: every candidate scores .4 to .6, every box lies well inside."""
    return [
        output.astype(dtype) if output.dtype == np.float32 else output
        for output in importlib.import_module(f"tests.test_decoder_{module_of(name)}").sound_outputs()
    ]


def image(input_hw=(640, 640), dtype="float32", batch=1) -> TensorInfo:
    return TensorInfo("images", (batch, 3, *input_hw), dtype)


def output(*shape, name="output0", dtype="float32") -> TensorInfo:
    return TensorInfo(name, shape, dtype)


def infos(outputs: Sequence[np.ndarray], names: Sequence[str] = ()) -> list[TensorInfo]:
    """Arrays as a model would declare them."""
    return [
        TensorInfo(names[i] if names else f"output{i}", tuple(a.shape), str(a.dtype))
        for i, a in enumerate(outputs)
    ]
