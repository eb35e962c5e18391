"""Layers that take up earlier ones: route, shortcut, sam, scale_channels.

Each function adds a layer's nodes behind ``came`` and returns what it hands on; ``earlier`` are the
outputs of the layers before it, None for a detection head. Formulas after the ``forward_*`` of
Darknet's file of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.convert.activations import activate
from pipeline.convert.cfg import Section
from pipeline.convert.graph import Feature, Graph

Earlier = Sequence[Feature | None]


def named(layer: Section, earlier: Earlier, key: str) -> list[Feature]:
    """Return the layers that ``key`` names: by number, or counted back from here where it is negative."""
    numbers = layer.integers(key)
    if not numbers:
        raise layer.error(f"expected {key}= with the numbers of layers", key)
    found = []
    for number in numbers:
        index = number if number >= 0 else layer.index + number
        if not 0 <= index < len(earlier):
            raise layer.error(f"{key}: expected layers before this one; got {number}", key)
        feature = earlier[index]
        if feature is None:
            raise layer.error(f"{key}: layer {index} is a detection head, which hands nothing on", key)
        found.append(feature)
    return found


def route(graph: Graph, layer: Section, came: Feature, earlier: Earlier) -> Feature:  # noqa: ARG001
    """Return the channels of layers one after the other; with ``groups``, one part of each of them."""
    parts = named(layer, earlier, "layers")
    groups, group = layer.integer("groups", 1, 1), layer.integer("group_id", 0)
    if len({part.chw[1:] for part in parts}) != 1 or len({part.flat for part in parts}) != 1:
        sizes = ", ".join(f"{part.w}x{part.h}" for part in parts)
        raise layer.error(f"expected layers of one height and width; got {sizes}", "layers")
    if group >= groups or any(part.c % groups for part in parts):
        channels = ", ".join(str(part.c) for part in parts)
        raise layer.error(f"cannot take part {group} of {groups} of {channels} channels", "groups")
    names = [
        part.name
        if groups == 1
        else graph.slice(part.name, {1: (group * part.c // groups, (group + 1) * part.c // groups, 1)})
        for part in parts
    ]
    name = names[0] if len(names) == 1 else graph.add("Concat", names, axis=1)
    first = parts[0]
    return Feature(name, sum(part.c for part in parts) // groups, first.h, first.w, first.flat)


def shortcut(graph: Graph, layer: Section, came: Feature, earlier: Earlier) -> Feature:
    """Add an earlier layer: the channels that both have, every ``stride``-th place of a larger one.

    As ``shortcut_cpu`` of blas.c: alpha · x + beta · other where both are, else x alone.
    """
    weights_type = layer.text("weights_type", "none")
    if weights_type != "none":
        raise layer.unsupported(f"weights_type={weights_type}", "weights_type")
    alpha, beta = layer.number("alpha", 1.0), layer.number("beta", 1.0)
    others = named(layer, earlier, "from")
    if (alpha, beta) != (1.0, 1.0) and (len(others) > 1 or others[0].chw != came.chw):
        raise layer.unsupported("alpha or beta other than 1 with layers of different shapes", "alpha")
    name = came.name if alpha == 1.0 else graph.add("Mul", [came.name, graph.constant(alpha)])
    for other in others:
        if other.flat != came.flat:
            raise layer.error("expected from= a layer of the same kind; one of them has no shape", "from")
        term = _fitted(graph, layer, came, other)
        if beta != 1.0:
            term = graph.add("Mul", [term, graph.constant(beta)])
        name = graph.add("Add", [name, term])
    return Feature(activate(graph, name, layer, "linear"), *came.chw, flat=came.flat)


def _fitted(graph: Graph, layer: Section, came: Feature, other: Feature) -> str:
    """Return of ``other`` what is added to ``came``, with zeros where it has nothing."""
    name = other.name
    step = max(1, other.w // came.w)
    if (step * came.h, step * came.w) != (other.h, other.w):
        sizes = f"{other.w}x{other.h} to {came.w}x{came.h}"
        raise layer.unsupported(f"adding {sizes}, which is no whole multiple of it,", "from")
    axes = {}
    if other.c > came.c:
        axes[1] = (0, came.c, 1)
    if step > 1:
        axes |= {2: (0, other.h, step), 3: (0, other.w, step)}
    if axes:
        name = graph.slice(name, axes)
    if other.c < came.c:
        ends = [0, came.c - other.c] if came.flat else [0, came.c - other.c, 0, 0]
        name = graph.add("Pad", [name, graph.constant([0] * len(ends) + ends, np.int64)])
    return name


def sam(graph: Graph, layer: Section, came: Feature, earlier: Earlier) -> Feature:
    """Return the product with an earlier layer, value by value (sam_layer.c of AlexeyAB's Darknet)."""
    other = named(layer, earlier, "from")[0]
    if other.chw != came.chw:
        raise layer.error(f"expected from= a layer of shape {came.chw}; got {other.chw}", "from")
    name = graph.add("Mul", [graph.map(came).name, graph.map(other).name])
    return Feature(activate(graph, name, layer, "linear"), *came.chw)


def scale_channels(graph: Graph, layer: Section, came: Feature, earlier: Earlier) -> Feature:
    """Multiply each channel of an earlier layer by a value of this one; with ``scale_wh`` each place.

    After scale_channels_layer.c of AlexeyAB's Darknet.
    """
    other = named(layer, earlier, "from")[0]
    whole = (1, other.h, other.w) if layer.integer("scale_wh", 0) else (other.c, 1, 1)
    if came.chw != whole:
        raise layer.error(f"expected {whole} (channels, height, width) before it; got {came.chw}")
    name = graph.add("Mul", [graph.map(came).name, graph.map(other).name])
    return Feature(activate(graph, name, layer, "linear"), *other.chw)
