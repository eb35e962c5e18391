"""A TensorFlow.js graph model as plain NCHW ONNX: the operators that NanoDet-g is made of.

Such a graph was once ONNX: a converter wrapped each operator into an NHWC one with a Transpose on
either side and a Pad before it. Here the tensors stay NCHW, a Transpose only renames axes, and a
Pad is done by the Conv or MaxPool behind it, so nothing of the wrapping is left in the result.

A graph that steps outside what is known here raises ValueError with the node's name; nothing is
guessed. Needs numpy and onnx.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Json = dict[str, Any]
Array = np.ndarray[Any, Any]

NCHW = (0, 1, 2, 3)
NHWC = (0, 2, 3, 1)
NO_PADS = ((0, 0),) * 4


@dataclass(frozen=True)
class Tensor:
    """A tensor of the source graph, as it stands in the ONNX graph, where it is always NCHW.

    ``order[i]`` is the ONNX axis that is axis i of the source: a Transpose in the source changes
    this and costs nothing. ``pads`` (begin and end of each ONNX axis) is a Pad that the next
    Conv or MaxPool will do itself.
    """

    name: str
    shape: tuple[int, ...]
    order: tuple[int, ...] = NCHW
    pads: tuple[tuple[int, int], ...] = NO_PADS
    pad_value: float = 0.0


Value = Tensor | Array


def expect(condition: bool, what: str, node: Json) -> None:
    if not condition:
        raise ValueError(f"{node['op']} {node['name']!r}: this converter knows only {what}")


def attribute(node: Json, key: str) -> Any:
    """An attribute of a TensorFlow.js node as a Python value; None where it is not given."""
    value = node.get("attr", {}).get(key, {})
    if "s" in value:
        return base64.b64decode(value["s"]).decode()
    if "i" in value:
        return int(value["i"])
    if "list" in value:
        return [int(item) for item in value["list"].get("i", [])]
    return value.get("f", value.get("b"))


class Converter:
    """One TensorFlow.js graph on its way to ONNX: a method for each operator."""

    def __init__(self, topology: Json, weights: dict[str, Array]) -> None:
        self._sources: dict[str, Json] = {node["name"]: node for node in topology["node"]}
        self._uses = Counter(name for node in topology["node"] for name in node.get("input", []))
        self._values: dict[str, Value] = dict(weights)
        self._nodes: dict[str, onnx.NodeProto] = {}
        self._initialisers: dict[str, onnx.TensorProto] = {}

    def convert(
        self, inputs: Mapping[str, tuple[str, tuple[int, ...]]], outputs: Mapping[str, str], graph_name: str
    ) -> onnx.ModelProto:
        """``inputs``: source name → (ONNX name, NCHW shape); ``outputs``: ONNX name → source name."""
        for source, (name, shape) in inputs.items():
            self._values[source] = Tensor(name, shape)
        dependencies = {
            name: [operand.split(":")[0] for operand in node.get("input", [])]
            for name, node in self._sources.items()
        }
        for name in TopologicalSorter(dependencies).static_order():
            if name not in self._values:
                self._convert_node(self._sources[name])
        results = [self._output(name, self._values[source]) for name, source in outputs.items()]
        graph = helper.make_graph(
            list(self._nodes.values()),
            graph_name,
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.values()],
            results,
            list(self._initialisers.values()),
        )
        # Opset 17 and IR 8 are old enough for every ONNX Runtime since 1.12.
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _convert_node(self, node: Json) -> None:
        if node["op"] not in OPERATORS:
            raise ValueError(f"no rule for operator {node['op']} of {node['name']!r}; known: {[*OPERATORS]}")
        result = OPERATORS[node["op"]](self, node, *(self._values[name] for name in node["input"]))
        for index, value in enumerate(result if isinstance(result, list) else [result]):
            self._values[f"{node['name']}:{index}" if index else node["name"]] = value

    def _emit(self, op: str, operands: Sequence[str], results: list[str], **attributes: Any) -> None:
        self._nodes[results[0]] = helper.make_node(op, operands, results, **attributes)

    def _constant(self, name: str, values: Array) -> str:
        self._initialisers[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _output(self, name: str, tensor: Value) -> onnx.ValueInfoProto:
        if not isinstance(tensor, Tensor):
            raise ValueError(f"output {name!r} does not depend on the input")
        self._emit("Transpose", [tensor.name], [name], perm=tensor.order)
        shape = [tensor.shape[axis] for axis in tensor.order]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def transpose(self, _node: Json, x: Tensor, permutation: Array) -> Tensor:
        return replace(x, order=tuple(x.order[axis] for axis in permutation))

    def pad(self, node: Json, x: Tensor, amounts: Array, value: Array | None = None) -> Tensor:
        expect(x.pads == NO_PADS, "one Pad at a time", node)
        pads = dict(zip(x.order, (tuple(pair) for pair in amounts.tolist()), strict=True))
        expect(pads[0] == pads[1] == (0, 0), "padding of height and width", node)
        return replace(x, pads=tuple(pads[axis] for axis in NCHW), pad_value=float(value or 0))

    def _window(self, node: Json, x: Tensor, size: tuple[int, int]) -> tuple[tuple[int, int], Json]:
        """Output height and width, and the ONNX attributes, of a window that slides over x."""
        valid = attribute(node, "padding") == "VALID" and attribute(node, "data_format") == "NHWC"
        expect(valid and x.order == NHWC, "VALID padding and NHWC", node)
        expect(set(attribute(node, "dilations") or [1]) == {1}, "dilation 1", node)
        strides, (rows, columns) = attribute(node, "strides")[1:3], x.pads[2:]
        height = (x.shape[2] + sum(rows) - size[0]) // strides[0] + 1
        width = (x.shape[3] + sum(columns) - size[1]) // strides[1] + 1
        pads = [rows[0], columns[0], rows[1], columns[1]]
        return (height, width), {"kernel_shape": list(size), "strides": strides, "pads": pads}

    def convolution(self, node: Json, x: Tensor, kernel: Array) -> Tensor:
        height, width, taken, given = kernel.shape
        expect(taken == x.shape[1] and x.pad_value == 0, "one group and padding with 0", node)
        size, window = self._window(node, x, (height, width))
        weights = self._constant(node["name"] + "/weight", kernel.transpose(3, 2, 0, 1))
        self._emit("Conv", [x.name, weights], [node["name"]], **window)
        return Tensor(node["name"], (1, given, *size), NHWC)

    def max_pool(self, node: Json, x: Tensor) -> Tensor:
        # ONNX pads a MaxPool with minus infinity, never with a number.
        expect(x.pads == NO_PADS or x.pad_value == -np.inf, "padding with -inf", node)
        kernel = attribute(node, "ksize")
        size, window = self._window(node, x, (kernel[1], kernel[2]))
        self._emit("MaxPool", [x.name], [node["name"]], **window)
        return Tensor(node["name"], (1, x.shape[1], *size), NHWC)

    def add(self, node: Json, x: Value, y: Any) -> Value:
        if not isinstance(x, Tensor):
            expect(not isinstance(y, Tensor), "tensor + constant, in this order", node)
            total: Array = np.add(x, y)
            return total
        if not isinstance(y, Tensor):
            return self._bias(node, x, y)
        alike = x.order == y.order and x.shape == y.shape and x.pads == y.pads == NO_PADS
        expect(alike, "tensors of one shape and layout", node)
        self._emit("Add", [x.name, y.name], [node["name"]])
        return replace(x, name=node["name"])

    def _bias(self, node: Json, x: Tensor, bias: Array) -> Tensor:
        made_by = self._nodes.get(x.name)
        if made_by is None or made_by.op_type != "Conv" or len(made_by.input) != 2:
            raise ValueError(f"{node['op']} {node['name']!r}: a constant can only be added to a Conv")
        alone = node["input"][0] == x.name and self._uses[x.name] == 1
        expect(alone and bias.shape == (x.shape[1],), "a bias of a Conv that nothing else reads", node)
        made_by.input.append(self._constant(x.name + "/bias", bias))
        return x

    def elementwise(self, node: Json, x: Tensor) -> Tensor:
        expect(x.pads == NO_PADS, "tensors that are not padded", node)
        alpha = {"alpha": attribute(node, "alpha")} if node["op"] == "LeakyRelu" else {}
        self._emit(node["op"], [x.name], [node["name"]], **alpha)
        return replace(x, name=node["name"])

    def concat(self, node: Json, *operands: Any) -> Tensor:
        tensors: Sequence[Tensor] = operands[:-1]
        first, onnx_axis = tensors[0], tensors[0].order[int(operands[-1])]
        alike = all(t.order == first.order and t.pads == NO_PADS for t in tensors)
        expect(alike and onnx_axis == 1, "channels of tensors of one layout", node)
        self._emit("Concat", [t.name for t in tensors], [node["name"]], axis=1)
        channels = sum(t.shape[1] for t in tensors)
        return replace(first, name=node["name"], shape=(1, channels, *first.shape[2:]))

    def split(self, node: Json, x: Tensor, sizes: Array, axis: Array) -> list[Tensor]:
        expect(x.order[int(axis)] == 1 and x.pads == NO_PADS, "a Split of channels", node)
        names = [f"{node['name']}/{index}" for index in range(len(sizes))]
        self._emit("Split", [x.name, self._constant(node["name"] + "/sizes", sizes)], names, axis=1)
        pairs = zip(names, sizes.tolist(), strict=True)
        return [replace(x, name=name, shape=(1, size, *x.shape[2:])) for name, size in pairs]

    def resize(self, node: Json, x: Tensor, size: Array) -> Tensor:
        half_pixel = attribute(node, "half_pixel_centers") and not attribute(node, "align_corners")
        expect(half_pixel and x.order == NHWC and x.pads == NO_PADS, "half-pixel centres and NHWC", node)
        scales = np.array([1, 1, size[0] / x.shape[2], size[1] / x.shape[3]], np.float32)
        operands = [x.name, "", self._constant(node["name"] + "/scales", scales)]
        mode = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        self._emit("Resize", operands, [node["name"]], **mode)
        return replace(x, name=node["name"], shape=(*x.shape[:2], *size.tolist()))

    def reshape(self, node: Json, x: Tensor, shape: Array) -> Tensor:
        expect(x.order == NCHW and x.pads == NO_PADS, "a Reshape of NCHW", node)
        result = np.empty(x.shape, np.bool_).reshape(shape).shape
        self._emit(
            "Reshape", [x.name, self._constant(node["name"] + "/shape", np.array(result))], [node["name"]]
        )
        return Tensor(node["name"], result, tuple(range(len(result))))

    def sparse_to_dense(
        self, node: Json, indices: Array, shape: Array, values: Array, default: Array
    ) -> Array:
        expect(not isinstance(values, Tensor), "constants", node)
        dense = np.full(shape, default)
        dense[tuple(indices.T)] = values
        return dense

    def identity(self, _node: Json, x: Value) -> Value:
        return x


OPERATORS: dict[str, Callable[..., Value | list[Tensor]]] = {
    "Add": Converter.add,
    "AddV2": Converter.add,
    "ConcatV2": Converter.concat,
    "Conv2D": Converter.convolution,
    "Identity": Converter.identity,
    "LeakyRelu": Converter.elementwise,
    "MaxPool": Converter.max_pool,
    "Pad": Converter.pad,
    "PadV2": Converter.pad,
    "Reshape": Converter.reshape,
    "ResizeBilinear": Converter.resize,
    "Sigmoid": Converter.elementwise,
    "SparseToDense": Converter.sparse_to_dense,
    "SplitV": Converter.split,
    "Transpose": Converter.transpose,
}
