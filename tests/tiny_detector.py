"""A convolutional detector in a few kilobytes, in the layout of YOLOv8: it answers to what is bright.

Needs the package ``onnx``. Three convolutions, two activations, and a tail that decodes boxes: enough for
what quantisation has to tell apart.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, STRIDE = 64, 8
NAMES = ("red", "green", "blue")


def coloured(seed: int) -> np.ndarray:
    """A picture with something for it: coloured cells on black; uint8 [SIZE, SIZE, 3], BGR."""
    random = np.random.default_rng(seed)
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    for row, column in {(int(a), int(b)) for a, b in random.integers(0, 3, (4, 2))}:
        cell = np.s_[8 + row * 16 : 16 + row * 16, 8 + column * 16 : 16 + column * 16]
        image[cell][..., int(random.integers(3))] = random.integers(170, 256)
    return image


def write_coloured(folder: Path, count: int = 12) -> Path:
    """So many of them, as PNG."""
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:02}.png"), coloured(index))
    return folder


def write_tiny_detector(
    path: Path,
    *,
    outlier: float = 0.0,
    everywhere: bool = False,
    opset: int = 17,
    names: bool = True,
) -> Path:
    """Write it. A cell of 8×8 pixels that is red, green or blue is an object of 24 pixels a side there.

    With an ``outlier`` one channel of the second convolution is so large that 256 steps over it leave
    nothing of the others, and the third takes no notice of it: its quantisation alone does harm. With one
    ``everywhere`` the first has it, too: whichever layer is quantised does. Without ``names`` some nodes
    have none.
    """
    grid = SIZE // STRIDE
    # The mean of a cell's colours, each in a channel of its own.
    first = np.zeros((4, 3, STRIDE, STRIDE), np.float32)
    first[range(3), range(3)] = 1 / STRIDE**2
    second = np.zeros((4, 4, 1, 1), np.float32)
    second[range(3), range(3)] = 1
    # A colour speaks for its class and against the others: logits of -6 to 6.
    third = np.zeros((7, 4, 1, 1), np.float32)
    third[4:, :3, 0, 0] = 24 * np.eye(3) - 12
    bias = np.array([1, 1, 1, 1, -6, -6, -6], np.float32)
    middle = np.zeros(4, np.float32)
    middle[3] = outlier
    start = middle * everywhere
    centres = (np.stack(np.meshgrid(np.arange(grid), np.arange(grid))).reshape(2, -1) + 0.5) * STRIDE
    weights = {
        "w1": first, "b1": start, "w2": second, "b2": middle, "w3": third, "b3": bias,
        "centres": np.asarray(centres[None], np.float32), "reach": np.array(12, np.float32),
        "flat": np.array([0, 7, -1], np.int64), "sides": np.array([2, 2, 3], np.int64),
        "others": np.repeat(np.array([[[8], [8], [16], [16], [0], [0], [0]]], np.float32), 20, axis=2),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["images", "w1", "b1"], ["c1"], name="first", strides=[STRIDE, STRIDE]),
        helper.make_node("Relu", ["c1"], ["a1"], name="first/relu" if names else ""),
        helper.make_node("Conv", ["a1", "w2", "b2"], ["c2"], name="second"),
        helper.make_node("Relu", ["c2"], ["a2"], name="second/relu" if names else ""),
        helper.make_node("Conv", ["a2", "w3", "b3"], ["c3"], name="third"),
        # The tail: what is before the centre, what is behind it, in pixels.
        helper.make_node("Reshape", ["c3", "flat"], ["cells"]),
        helper.make_node("Split", ["cells", "sides"], ["before", "behind", "logits"], axis=1),
        helper.make_node("Add", ["before", "behind"], ["spread"]),
        helper.make_node("Mul", ["spread", "reach"], ["size"]),
        helper.make_node("Sub", ["behind", "before"], ["moved"]),
        helper.make_node("Add", ["centres", "moved"], ["centre"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["centre", "size", "scores"], ["stride8"], axis=1),
        # A head of one stride: the cells of the others are empty.
        helper.make_node("Concat", ["stride8", "others"], ["output0"], axis=2),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 7, grid * grid + 20])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(
        model, {"task": "detect", "names": repr(dict(enumerate(NAMES))), "stride": "8", "author": "tests"}
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
