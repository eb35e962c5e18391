"""An ONNX graph while it grows: nodes, constants, and what flows between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ModelError

OPSET = 17
IR_VERSION = 8
_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Feature:
    """What a layer hands on: a tensor [batch, c, h, w], or [batch, c · h · w] where it is ``flat``."""

    name: str
    c: int
    h: int
    w: int
    flat: bool = False

    @property
    def size(self) -> int:
        """Values for one picture."""
        return self.c * self.h * self.w

    @property
    def chw(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.c, self.h, self.w


class Graph:
    """Collects nodes. ``scope`` stands before the names of what is added, so that a layer can be found."""

    def __init__(self) -> None:
        self.scope = "net"
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[Any, ...], str] = {}
        self._tensors: list[onnx.TensorProto] = []
        self._count = 0
        self._bytes = 0

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        return self.add_many(op, inputs, 1, **attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node; return the names of its outputs."""
        name = f"{self.scope}/{op}_{self._count}"
        self._count += 1
        names = [name if outputs == 1 else f"{name}.{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, name=name, **attributes))
        return names

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Add a constant tensor, once for equal ones; return its name. Raises ModelError beyond 2 GiB."""
        array: NDArray[Any] = np.ascontiguousarray(np.asarray(values, dtype))
        data = array.tobytes() if array.nbytes < 4096 else b""
        key = (array.shape, str(array.dtype), data) if data else (len(self._tensors),)
        if key not in self._constants:
            self._bytes += array.nbytes
            if self._bytes > _LIMIT:
                raise ModelError("its weights are over 2 GiB, which is more than one ONNX file can hold")
            name = f"{self.scope}/constant_{len(self._tensors)}"
            self._constants[key] = name
            self._tensors.append(numpy_helper.from_array(array, name))
        return self._constants[key]

    def shape(self, name: str, *sizes: int) -> str:
        """Reshape to [batch, sizes…]."""
        return self.add("Reshape", [name, self.constant([0, *sizes], np.int64)])

    def flat(self, feature: Feature) -> Feature:
        """Return a feature as [batch, values]."""
        if feature.flat:
            return feature
        return Feature(self.add("Flatten", [feature.name], axis=1), *feature.chw, flat=True)

    def map(self, feature: Feature) -> Feature:
        """Return a feature as [batch, c, h, w]."""
        if not feature.flat:
            return feature
        return Feature(self.shape(feature.name, *feature.chw), *feature.chw)

    def slice(self, name: str, axes: Mapping[int, tuple[int, int, int]]) -> str:
        """Return of each axis what lies between start and end, at a step."""
        starts, ends, steps = zip(*axes.values(), strict=True)
        ints = [self.constant(values, np.int64) for values in (starts, ends, list(axes), steps)]
        return self.add("Slice", [name, *ints])

    def split(self, name: str, axis: int, sizes: Sequence[int]) -> list[str]:
        """Return the parts of an axis."""
        return self.add_many("Split", [name, self.constant(sizes, np.int64)], len(sizes), axis=axis)

    def serialise(
        self,
        input_chw: tuple[int, int, int],
        result: str,
        shape: Sequence[int],
        metadata: Mapping[str, str],
        kinds: str | None = None,
    ) -> bytes:
        """Return the bytes of the model, equal ones for equal graphs. Raises ModelError beyond 2 GiB.

        One input ``images`` float32 [batch, …], one output ``output`` float32 [batch, …shape]; with
        ``kinds`` another one, ``classes`` int64 [batch, boxes], the last of shape.
        """
        nodes = [*self._nodes, helper.make_node("Identity", [result], ["output"], name="output")]
        outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", *shape])]
        if kinds is not None:
            nodes.append(helper.make_node("Identity", [kinds], ["classes"], name="classes"))
            outputs.append(helper.make_tensor_value_info("classes", TensorProto.INT64, ["batch", shape[-1]]))
        graph = helper.make_graph(
            nodes,
            "darknet",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *input_chw])],
            outputs,
            self._tensors,
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        model.producer_name = "framerail"
        helper.set_model_props(model, dict(sorted(metadata.items())))
        if model.ByteSize() > _LIMIT:
            raise ModelError("the model is over 2 GiB, which is more than one ONNX file can hold")
        return bytes(model.SerializeToString(deterministic=True))
