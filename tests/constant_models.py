"""ONNX files that give the same answer to any picture: a whole model of any family, in a few bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def constant_model(
    path: Path,
    outputs: Mapping[str, np.ndarray],
    *,
    shape: tuple[int | str, ...] = (1, 3, 64, 96),
    dtype: int = TensorProto.FLOAT,
    beside: Mapping[str, tuple[int, ...]] | None = None,
    declared: Mapping[str, tuple[int | str, ...]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a model with one picture input, inputs ``beside`` it, and ``outputs`` as its answer.

    Each output is its constant plus nothing times the picture, so that the runtime cannot fold it away.
    """
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["float"], ["highest"], keepdims=0),
        helper.make_node("Mul", ["highest", "zero"], ["nothing"]),
    ]
    constants = [numpy_helper.from_array(np.float32(0), "zero")]
    infos = []
    for index, (name, value) in enumerate(outputs.items()):
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        constants.append(numpy_helper.from_array(value, f"answer{index}"))
        nodes.append(helper.make_node("Cast", ["nothing"], [f"nothing{index}"], to=kind))
        nodes.append(helper.make_node("Add", [f"answer{index}", f"nothing{index}"], [name]))
        infos.append(helper.make_tensor_value_info(name, kind, (declared or {}).get(name, value.shape)))
    inputs = [helper.make_tensor_value_info("image", dtype, shape)]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in (beside or {}).items()
    ]
    graph = helper.make_graph(nodes, "constant", inputs, infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path)
    return path
