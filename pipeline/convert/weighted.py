"""Layers that have weights: convolutional, connected, local, batchnorm.

How their values stand in the file, and what they compute, after the ``load_*_weights`` of Darknet's
parser.c and the ``forward_*`` of the layer's own file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.convert.activations import activate
from pipeline.convert.cfg import Section
from pipeline.convert.graph import Feature, Graph
from pipeline.convert.weights import WeightsFile

# Keys of Darknet's forks that change what a layer answers.
_REFUSED = (
    "binary", "xnor", "bin_output", "antialiasing", "assisted_excitation", "share_index", "coordconv", "sway",
    "rotate", "stretch", "stretch_sway", "reverse", "cbn", "dontload", "dontloadscales", "numload",
)  # fmt: skip


def refuse(layer: Section, keys: tuple[str, ...]) -> None:
    """Raise ModelError where one of ``keys`` is there and not 0."""
    for key in keys:
        if layer.number(key, 0.0):
            raise layer.unsupported(f"{key}={layer.text(key, '')}", key)


def image(layer: Section, feature: Feature) -> None:
    """Raise ModelError where what comes in has no height and width."""
    if feature.flat:
        raise layer.error(f"expected a feature map before it; got {feature.size} values without a shape")


def window(layer: Section, side: int, size: int, stride: int, padding: int) -> int:
    """Return how often a window of ``size`` fits into a padded side. Raises ModelError where never."""
    if side + padding < size:
        raise layer.error(f"its window of {size} does not fit into {side} with a padding of {padding}")
    return (side + padding - size) // stride + 1


def _folded(
    layer: Section, weights: WeightsFile, bias: NDArray[Any], *shape: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return [filters, …] and biases, the batch normalisation folded into both.

    With it, y = (w·x - mean) · factor + bias = (factor · w)·x + (bias - mean · factor).
    """
    if not layer.integer("batch_normalize", 0):
        return weights.take(layer, "weights", *shape), bias
    factor, mean = weights.take_norm(layer, shape[0])
    values = weights.take(layer, "weights", *shape)
    return values * factor.reshape(-1, *[1] * (len(shape) - 1)), bias - mean * factor


def convolutional(graph: Graph, layer: Section, came: Feature, weights: WeightsFile) -> Feature:
    """Convolution [filters, c / groups, size, size] with ``padding``, or size // 2 where ``pad`` is set."""
    image(layer, came)
    refuse(layer, _REFUSED)
    filters, size = layer.integer("filters", 1, 1), layer.integer("size", 1, 1)
    stride = layer.integer("stride", 1, 1)
    stride_y, stride_x = layer.integer("stride_y", stride, 1), layer.integer("stride_x", stride, 1)
    groups = layer.integer("groups", 1, 1)
    dilation = layer.integer("dilation", 1, 1) if size > 1 else 1
    padding = size // 2 if layer.integer("pad", 0) else layer.integer("padding", 0)
    if came.c % groups or filters % groups:
        raise layer.error(f"groups={groups} do not divide its {came.c} channels and {filters} filters")
    reach = dilation * (size - 1) + 1
    height = window(layer, came.h, reach, stride_y, 2 * padding * dilation)
    width = window(layer, came.w, reach, stride_x, 2 * padding * dilation)
    channels = came.c // groups
    bias = weights.take(layer, "biases", filters)
    if layer.integer("flipped", 0):
        # Stored with the filters last, as a matrix [c · size · size, filters].
        norm = weights.take_norm(layer, filters) if layer.integer("batch_normalize", 0) else (1.0, 0.0)
        rows = weights.take(layer, "weights", channels * size * size, filters).T
        factor, mean = norm
        kernel: NDArray[Any] = (rows * np.reshape(factor, (-1, 1))).reshape(filters, channels, size, size)
        shift: NDArray[Any] = bias - mean * factor
    else:
        kernel, shift = _folded(layer, weights, bias, filters, channels, size, size)
    name = graph.add(
        "Conv",
        [came.name, graph.constant(kernel), graph.constant(shift)],
        kernel_shape=[size, size],
        strides=[stride_y, stride_x],
        pads=[padding * dilation] * 4,
        dilations=[dilation, dilation],
        group=groups,
    )
    return Feature(activate(graph, name, layer, "logistic"), filters, height, width)


def connected(graph: Graph, layer: Section, came: Feature, weights: WeightsFile) -> Feature:
    """Matrix [outputs, inputs] and biases; in the file before its batch normalisation."""
    refuse(layer, _REFUSED)
    outputs = layer.integer("output", 1, 1)
    bias: NDArray[Any] = weights.take(layer, "biases", outputs)
    stored = (came.size, outputs) if weights.transposed else (outputs, came.size)
    matrix: NDArray[Any] = weights.take(layer, "weights", *stored)
    matrix = matrix if weights.transposed else matrix.T
    if layer.integer("batch_normalize", 0):
        factor, mean = weights.take_norm(layer, outputs)
        matrix, bias = matrix * factor, bias - mean * factor
    name = graph.add("Gemm", [graph.flat(came).name, graph.constant(matrix), graph.constant(bias)])
    return Feature(activate(graph, name, layer, "logistic"), outputs, 1, 1, flat=True)


def local(graph: Graph, layer: Section, came: Feature, weights: WeightsFile) -> Feature:
    """A convolution with weights of its own at each place: [places, filters, c · size · size].

    Biases are [filters · places]. Darknet pads by 1 where ``pad`` is set, whatever the size.
    """
    image(layer, came)
    filters, size = layer.integer("filters", 1, 1), layer.integer("size", 1, 1)
    stride, pad = layer.integer("stride", 1, 1), 1 if layer.integer("pad", 0) else 0
    height, width = ((side - (1 if pad else size)) // stride + 1 for side in (came.h, came.w))
    if min(came.h, came.w) + 2 * pad < size or (pad and size != 3):
        raise layer.unsupported(f"size={size} with pad={pad} on {came.w}x{came.h}", "size")
    places = height * width
    bias = weights.take(layer, "biases", filters, places).reshape(1, filters, height, width)
    kernel = weights.take(layer, "weights", places, filters, came.c * size * size)
    name = came.name
    if pad:
        name = graph.add("Pad", [name, graph.constant([0, 0, pad, pad, 0, 0, pad, pad], np.int64)])
    ends = [(side - 1) * stride + 1 for side in (height, width)]
    parts = [
        graph.slice(name, {2: (y, y + ends[0], stride), 3: (x, x + ends[1], stride)})
        for y in range(size)
        for x in range(size)
    ]
    shape = graph.constant([0, came.c, 1, places], np.int64)
    shifted = [graph.add("Reshape", [part, shape]) for part in parts]
    columns = shifted[0] if size == 1 else graph.add("Concat", shifted, axis=2)
    # [batch, c · size · size, places] to [places, batch, …], times [places, …, filters].
    columns = graph.add("Transpose", [graph.shape(columns, -1, places)], perm=[2, 0, 1])
    product = graph.add("MatMul", [columns, graph.constant(kernel.transpose(0, 2, 1))])
    product = graph.shape(graph.add("Transpose", [product], perm=[1, 2, 0]), filters, height, width)
    name = graph.add("Add", [product, graph.constant(bias)])
    return Feature(activate(graph, name, layer, "logistic"), filters, height, width)


def batchnorm(graph: Graph, layer: Section, came: Feature, weights: WeightsFile) -> Feature:
    """(x - mean) · factor for each channel; the file has no biases for it."""
    came = graph.map(came)
    factor, mean = weights.take_norm(layer, came.c)
    name = graph.add("Mul", [came.name, graph.constant(factor.reshape(1, -1, 1, 1))])
    name = graph.add("Add", [name, graph.constant((-mean * factor).reshape(1, -1, 1, 1))])
    return Feature(name, *came.chw)
