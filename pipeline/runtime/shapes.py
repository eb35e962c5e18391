"""Shapes within a graph that is being edited, found by running as much of it as makes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pipeline.errors import ModelError
from pipeline.runtime.gridnumbers import Size
from pipeline.runtime.onnx_messages import ModelMessage

_TYPES = {1: np.float32, 2: np.uint8, 6: np.int32, 7: np.int64, 10: np.float16, 11: np.float64}


class Shapes:
    """``model`` is a ModelProto whose input ``picture`` has its height and width on ``axes``."""

    def __init__(self, model: Any, picture: str, axes: tuple[int, int]) -> None:
        self._picture, self._axes = picture, axes
        self._inputs = model.graph.input
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        rest = ModelMessage.FromString(model.SerializeToString())
        graph = rest.graph
        for field in (graph.node, graph.initializer, graph.input, graph.output, graph.value_info):
            del field[:]
        self._rest = rest.SerializeToString()

    def of(self, names: Sequence[str], nodes: Sequence[Any], size: Size) -> dict[str, list[int]]:
        """Those of ``names`` for a picture of this height and width, as ``nodes`` make them.

        Nodes that they don't need are left out: these may not fit. Raises ModelError where they do not run.
        """
        names = list(dict.fromkeys(names))
        wanted, needed = set(names), list[Any]()
        for node in reversed(nodes):
            if not wanted.isdisjoint(node.output):
                needed.append(node)
                wanted.update(_read_by(node))
        part = ModelMessage.FromString(self._rest)
        part.graph.node.extend(reversed(needed))
        part.graph.initializer.extend(self._constants[name] for name in wanted & self._constants.keys())
        part.graph.input.extend(each for each in self._inputs if each.name not in self._constants)
        for name in names:
            part.graph.output.add(name=name)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # fatal only: errors reach us as exceptions, once
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        try:
            session = ort.InferenceSession(
                part.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            values = session.run(names, self._feeds(size))
        except Exception as error:
            why = shorten(str(error).partition("Status Message: ")[2] or str(error), 160)
            raise ModelError(f"it does not run on {size[1]}x{size[0]}: {why}") from None
        return {name: list(value.shape) for name, value in zip(names, values, strict=True)}

    def _feeds(self, size: Size) -> dict[str, NDArray[Any]]:
        """Nothing to be seen, of this height and width."""
        feeds = {}
        for each in self._inputs:
            if each.name in self._constants:
                continue
            shape = [side.dim_value or 1 for side in each.type.tensor_type.shape.dim]
            if each.name == self._picture:
                for axis, side in zip(self._axes, size, strict=True):
                    shape[axis] = side
            feeds[each.name] = np.zeros(shape, _TYPES.get(each.type.tensor_type.elem_type, np.float32))
        return feeds


def _read_by(node: Any) -> Iterator[str]:
    """What a node uses, and the subgraphs in it."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for each in inner.node:
                yield from _read_by(each)
