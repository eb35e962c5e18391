"""Layers of one input and without weights: pooling, upsample, reorg, softmax, crop, activation.

Each function adds a layer's nodes behind ``came`` and returns what it hands on. Formulas after the
``forward_*`` of Darknet's file of the same name.
"""

from __future__ import annotations

from pipeline.convert.activations import activate
from pipeline.convert.cfg import Section
from pipeline.convert.graph import Feature, Graph
from pipeline.convert.hierarchy import Hierarchy
from pipeline.convert.weighted import image, refuse, window


def _pool(graph: Graph, layer: Section, came: Feature, op: str) -> Feature:
    """Windows begin at -(padding // 2) and may hang over the end; what lies outside does not count.

    ``padding`` is size - 1 unless stated, for both sides together (maxpool_layer.c).
    """
    image(layer, came)
    refuse(layer, ("maxpool_depth", "antialiasing", "maxpool_zero_nonmax"))
    stride = layer.integer("stride", 1, 1)
    strides = [layer.integer("stride_y", stride, 1), layer.integer("stride_x", stride, 1)]
    size = layer.integer("size", stride, 1)
    padding = layer.integer("padding", size - 1)
    if padding - padding // 2 >= size > 1 or (size == 1 and padding):
        raise layer.unsupported(f"padding={padding} with size={size}", "padding")
    height, width = (
        window(layer, side, size, step, padding) for side, step in zip((came.h, came.w), strides, strict=True)
    )
    begin, end = padding // 2, padding - padding // 2
    name = graph.add(
        op, [came.name], kernel_shape=[size, size], strides=strides, pads=[begin, begin, end, end]
    )
    return Feature(name, came.c, height, width)


def maxpool(graph: Graph, layer: Section, came: Feature) -> Feature:
    """Return the largest value of each window."""
    return _pool(graph, layer, came, "MaxPool")


def local_avgpool(graph: Graph, layer: Section, came: Feature) -> Feature:
    """Return the mean of what is inside of each window."""
    return _pool(graph, layer, came, "AveragePool")


def avgpool(graph: Graph, layer: Section, came: Feature) -> Feature:
    """Return the mean of each channel."""
    image(layer, came)
    return Feature(graph.add("GlobalAveragePool", [came.name]), came.c, 1, 1)


def upsample(graph: Graph, layer: Section, came: Feature) -> Feature:
    """Repeat each value ``stride`` times in both directions, times ``scale``."""
    image(layer, came)
    stride = layer.integer("stride", 2, 1)
    factors = graph.constant([1.0, 1.0, stride, stride])
    name = graph.add(
        "Resize",
        [came.name, "", factors],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    scale = layer.number("scale", 1.0)
    if scale != 1.0:
        name = graph.add("Mul", [name, graph.constant(scale)])
    return Feature(name, came.c, came.h * stride, came.w * stride)


def reorg(graph: Graph, layer: Section, came: Feature) -> Feature:
    """Darknet's own space to depth, as YOLOv2 was trained with it.

    ``reorg_cpu`` of blas.c reads [c, h, w] as if it were [c / s², h · s, w · s], moves each s×s
    block into s² groups of channels [s², c / s², h, w], and hands that on as [c · s², h / s, w / s].
    """
    image(layer, came)
    refuse(layer, ("flatten", "extra"))
    stride = layer.integer("stride", 1, 1)
    (c, h, w), square = came.chw, stride * stride
    if c % square:
        raise layer.error(f"stride={stride}: expected channels in multiples of {square}; got {c}", "stride")
    if layer.integer("reverse", 0):
        name = graph.shape(came.name, stride, stride, c // square, h, w)
        name = graph.add("Transpose", [name], perm=[0, 3, 4, 1, 5, 2])
        after = Feature("", c // square, h * stride, w * stride)
    elif h % stride or w % stride:
        raise layer.error(f"stride={stride} does not divide {w}x{h}", "stride")
    else:
        name = graph.shape(came.name, c // square, h, stride, w, stride)
        name = graph.add("Transpose", [name], perm=[0, 3, 5, 1, 2, 4])
        after = Feature("", c * square, h // stride, w // stride)
    return Feature(graph.shape(name, *after.chw), *after.chw)


def softmax(graph: Graph, layer: Section, came: Feature, hierarchy: Hierarchy | None = None) -> Feature:
    """exp(x / temperature) / Σ, over all values, in each of ``groups``, or down a ``tree`` of classes."""
    if layer.integer("spatial", 0) and came.h * came.w > 1:
        raise layer.unsupported("spatial=1 on a feature map", "spatial")
    groups, temperature = layer.integer("groups", 1, 1), layer.number("temperature", 1.0)
    if came.size % groups or temperature <= 0:
        raise layer.error(f"cannot take groups={groups}, temperature={temperature:g} of {came.size} values")
    name = graph.flat(came).name
    if temperature != 1.0:
        name = graph.add("Div", [name, graph.constant(temperature)])
    if hierarchy is not None and "tree" in layer.options:
        hierarchy.check(layer, came.size)
        name = hierarchy.leaves(graph, name)
    elif groups == 1:
        name = graph.add("Softmax", [name], axis=1)
    else:
        name = graph.add("Softmax", [graph.shape(name, groups, came.size // groups)], axis=2)
        name = graph.shape(name, came.size)
    return Feature(name, came.size, 1, 1, flat=True)


def crop(graph: Graph, layer: Section, came: Feature) -> Feature:
    """Return the middle of the picture, as 2 · x - 1 unless ``noadjust``; it moves only in training."""
    image(layer, came)
    height, width = layer.integer("crop_height", 1, 1), layer.integer("crop_width", 1, 1)
    if height > came.h or width > came.w:
        raise layer.error(f"cannot crop {width}x{height} from {came.w}x{came.h}")
    top, left = (came.h - height) // 2, (came.w - width) // 2
    name = graph.slice(came.name, {2: (top, top + height, 1), 3: (left, left + width, 1)})
    if not layer.integer("noadjust", 0):
        name = graph.add("Mul", [name, graph.constant(2.0)])
        name = graph.add("Sub", [name, graph.constant(1.0)])
    return Feature(name, came.c, height, width)


def activation(graph: Graph, layer: Section, came: Feature) -> Feature:
    """Return the activation alone."""
    return Feature(activate(graph, came.name, layer, "linear"), *came.chw, flat=came.flat)
