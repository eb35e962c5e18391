"""float16 for GPUs, by ONNX Runtime's own converter (``onnxruntime.transformers.float16``).

The picture goes in as float16: our blobs are filled from a table of 256 values in any type, so it costs
nothing, and half as many bytes are copied to the GPU. What comes out stays float32. So does the tail:
from 512 on, float16 has a step of half a pixel, and beyond 65504 it is infinite.
"""

from __future__ import annotations

import onnx
from onnx import helper
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from pipeline.errors import ModelError
from pipeline.quantization.prepared import Prepared
from pipeline.quantization.structure import WEIGHTED

_FLOAT32_ONLY = [*DEFAULT_OP_BLOCK_LIST, "GridSample", "ReduceMean", "Pow", "Exp", "Log"]
"""The converter's own list, what sums or squares beyond 65504, and what samples at coordinates."""


def half_copy(prepared: Prepared, picture: str) -> onnx.ModelProto:
    """A float16 copy; ``picture`` is the name of the input that becomes float16. Raises ModelError."""
    model = prepared.load()
    graph = model.graph
    kept = [tensor.name for tensor in (*graph.input, *graph.output) if tensor.name != picture]
    try:
        model = convert_float_to_float16(
            model,
            keep_io_types=kept,
            disable_shape_infer=True,
            op_block_list=_FLOAT32_ONLY,
            node_block_list=sorted(prepared.structure.tail(WEIGHTED)),
        )
    except (ValueError, RuntimeError, TypeError, KeyError, AssertionError) as error:
        raise ModelError(f"onnxruntime.transformers.float16 cannot convert the model: {error}") from None
    _join(model.graph)
    # Its casts stand at the end, wherever their results are needed.
    ONNXModel(model).topological_sort()
    # Types of tensors that no longer hold would be believed.
    del model.graph.value_info[:]
    copy: onnx.ModelProto = model
    return copy


def _join(graph: onnx.GraphProto) -> None:
    """Take out the casts to float16 and back that the converter puts between any two nodes that stay float32.

    They are no detour only: what goes through them is rounded to float16, the outputs too.
    """
    # Where several nodes take one tensor, each gets a cast of its own, by the same name.
    single = {(node.op_type, *node.output): node for node in graph.node}
    _keep(graph, list(single.values()))
    halved = {node.output[0]: node.input[0] for node in graph.node if _casts(node, onnx.TensorProto.FLOAT16)}
    back = {
        node.output[0]: halved[node.input[0]]
        for node in graph.node
        if _casts(node, onnx.TensorProto.FLOAT) and node.input[0] in halved
    }
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = back.get(name, name)
    outputs = {tensor.name for tensor in graph.output}
    for node in graph.node:
        if node.output and node.output[0] in outputs and node.output[0] in back:
            node.CopyFrom(helper.make_node("Identity", [back[node.output[0]]], node.output, name=node.name))
    # Of a pair the second is unused first, and then the first.
    for _ in range(2):
        used = outputs | {name for node in graph.node for name in node.input}
        kept = [node for node in graph.node if node.op_type != "Cast" or used.intersection(node.output)]
        _keep(graph, kept)


def _keep(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


def _casts(node: onnx.NodeProto, to: int) -> bool:
    """Whether it is a cast that the converter has put in, to that type."""
    ours = node.name.endswith(("_cast_to_fp32_node", "_cast_to_fp16_node")) or node.name.startswith(
        "graph_output_cast"
    )
    return node.op_type == "Cast" and ours and node.attribute[0].i == to
