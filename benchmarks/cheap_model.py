"""A real ONNX model that costs next to nothing: what is left of a run is the line itself.

It has the output layout of a YOLOv8 export and answers every picture with the same boxes, so a
test knows what has to come out. Needs the package `onnx`, which only development needs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NAMES = tuple(f"thing{number}" for number in range(80))


def write_cheap_model(
    path: Path,
    *,
    size: int = 32,
    boxes_cxcywh: tuple[tuple[float, float, float, float], ...] = ((16.0, 16.0, 8.0, 8.0),),
    scores: tuple[float, ...] = (0.9,),
    dynamic_batch: bool = False,
    fixed_batch: int = 1,
    dtype: int = TensorProto.FLOAT,
    echo: float = 0.0,
) -> Path:
    """Write it. The n-th box (in input pixels) has class n; ``size`` is a multiple of 32.

    The first box lies ``echo`` × (the red of the input's middle pixel, 0..1) further right: so a
    frame that is given another one's answer is found out.
    """
    cells = sum((size // stride) ** 2 for stride in (8, 16, 32))
    output = np.zeros((1, 4 + len(NAMES), cells), np.float32)
    # A box in every cell, as a real model has; its score is 0.
    at = 0
    for stride in (8, 16, 32):
        middles = (np.arange(size // stride) + 0.5) * stride
        columns, rows = np.meshgrid(middles, middles)
        output[0, :4, at : at + columns.size] = [
            columns.ravel(),
            rows.ravel(),
            *[[stride] * columns.size] * 2,
        ]
        at += columns.size
    for index, (box, score) in enumerate(zip(boxes_cxcywh, scores, strict=True)):
        output[0, :4, index] = box
        output[0, 4 + index, index] = score
    output = output.astype(helper.tensor_dtype_to_np_dtype(dtype))
    batch = "batch" if dynamic_batch else fixed_batch
    shift = np.zeros_like(output)
    shift[0, 0, 0] = echo
    constants = {
        "starts": np.array([0, size // 2, size // 2], np.int64),
        "ends": np.array([1, size // 2 + 1, size // 2 + 1], np.int64),
        "axes": np.array([1, 2, 3], np.int64),
        "last": np.array([3], np.int64),
        "shift": shift,
        "answer": output,
    }
    # answer + shift × (one value of each picture): nodes that really run, as many answers as pictures.
    nodes = [
        helper.make_node("Slice", ["images", "starts", "ends", "axes"], ["middle"]),
        helper.make_node("Squeeze", ["middle", "last"], ["flat"]),
        helper.make_node("Mul", ["shift", "flat"], ["shifted"]),
        helper.make_node("Add", ["answer", "shifted"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "cheap",
        [helper.make_tensor_value_info("images", dtype, [batch, 3, size, size])],
        [helper.make_tensor_value_info("output0", dtype, [batch, *output.shape[1:]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    helper.set_model_props(
        model,
        {
            "task": "detect",
            "names": repr(dict(enumerate(NAMES))),
            "imgsz": f"[{size}, {size}]",
            "stride": "32",
        },
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
