"""Darknet's activations as ONNX nodes; the formulas are those of its activations.h."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.convert.cfg import Section
from pipeline.convert.graph import Graph

_Add = Callable[[Graph, str], str]


def _scaled(graph: Graph, x: str, factor: float, shift: float = 0.0) -> str:
    x = graph.add("Mul", [x, graph.constant(factor)])
    return graph.add("Add", [x, graph.constant(shift)]) if shift else x


def _clipped(graph: Graph, x: str, low: float, high: float) -> str:
    return graph.add("Clip", [x, graph.constant(low), graph.constant(high)])


def _loggy(graph: Graph, x: str) -> str:
    return _scaled(graph, graph.add("Sigmoid", [x]), 2.0, -1.0)


def _ramp(graph: Graph, x: str) -> str:
    return graph.add("Add", [graph.add("Relu", [x]), _scaled(graph, x, 0.1)])


def _plse(graph: Graph, x: str) -> str:
    """x / 8 + 1/2 in -4..4, and a hundredth of the slope 1 beyond."""
    inside = _clipped(graph, x, -4.0, 4.0)
    beyond = _scaled(graph, graph.add("Sub", [x, inside]), 0.01)
    return graph.add("Add", [_scaled(graph, inside, 0.125, 0.5), beyond])


def _lhtan(graph: Graph, x: str) -> str:
    inside = _clipped(graph, x, 0.0, 1.0)
    beyond = _scaled(graph, graph.add("Sub", [x, inside]), 0.001)
    return graph.add("Add", [inside, beyond])


def _swish(graph: Graph, x: str) -> str:
    return graph.add("Mul", [x, graph.add("Sigmoid", [x])])


def _mish(graph: Graph, x: str) -> str:
    return graph.add("Mul", [x, graph.add("Tanh", [graph.add("Softplus", [x])])])


def _hard_mish(graph: Graph, x: str) -> str:
    """x · clip((x + 2) / 2, 0, 1)."""
    return graph.add("Mul", [x, _clipped(graph, _scaled(graph, x, 0.5, 1.0), 0.0, 1.0)])


_SELU = {"alpha": 1.6732, "gamma": 1.0507}
_ACTIVATIONS: Mapping[str, _Add] = {
    "linear": lambda _graph, x: x,
    "logistic": lambda graph, x: graph.add("Sigmoid", [x]),
    "loggy": _loggy,
    "relu": lambda graph, x: graph.add("Relu", [x]),
    "relu6": lambda graph, x: _clipped(graph, x, 0.0, 6.0),
    "elu": lambda graph, x: graph.add("Elu", [x], alpha=1.0),
    "selu": lambda graph, x: graph.add("Selu", [x], **_SELU),
    "relie": lambda graph, x: graph.add("LeakyRelu", [x], alpha=0.01),
    "ramp": _ramp,
    "leaky": lambda graph, x: graph.add("LeakyRelu", [x], alpha=0.1),
    "tanh": lambda graph, x: graph.add("Tanh", [x]),
    "plse": _plse,
    "hardtan": lambda graph, x: _clipped(graph, x, -1.0, 1.0),
    "lhtan": _lhtan,
    "swish": _swish,
    "mish": _mish,
    "hard_mish": _hard_mish,
}
ACTIVATIONS = tuple(_ACTIVATIONS)


def activate(graph: Graph, x: str, layer: Section, default: str) -> str:
    """Add a layer's activation behind ``x``. Raises ModelError for one that is not known."""
    name = layer.text("activation", default)
    if name not in _ACTIVATIONS:
        raise layer.unsupported(f"activation {name!r} (known: {', '.join(ACTIVATIONS)})", "activation")
    return _ACTIVATIONS[name](graph, x)
