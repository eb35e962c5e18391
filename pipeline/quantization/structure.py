"""What of a graph is quantised together, and what is kept in float: found from its nodes alone.

The *tail* turns feature maps into boxes and scores. It holds pixel coordinates up to the input's size, for
which 256 steps are too coarse (and float16, whose step is half a pixel from 512 on), and next to none of
the time. It is every node that no layer with weights comes after.

A *unit* is what is quantised or kept as a whole: a convolution and the activation that only it feeds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
WEIGHTED = CONVOLUTIONS | {"MatMul", "Gemm"}
_ACTIVATIONS = frozenset(
    {
        "Sigmoid", "Mul", "Relu", "LeakyRelu", "Clip", "HardSigmoid", "HardSwish", "PRelu", "Elu", "Tanh",
        "Softplus", "Div", "Add",
    }
)  # fmt: skip
"""Add and Div as in Hardswish's x · clip(x + 3, 0, 6) / 6; only with constants, or within the unit."""
_MOVING = frozenset(
    {"Flatten", "MaxPool", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""What gives the values that it gets: quantised with its neighbours, or not at all."""


@dataclass(frozen=True)
class Structure:
    """The nodes of a graph, each of which has a name of its own."""

    graph: onnx.GraphProto

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that makes a tensor."""
        return {name: node for node in self.graph.node for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that take a tensor."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def convolutions(self) -> tuple[onnx.NodeProto, ...]:
        """Those that hold what the network has learnt, in the order of the graph.

        Not so the one that Ultralytics' heads end in: the expectation over a softmax's bins, written as a
        convolution with the weights 0, 1, 2, … (``ultralytics/nn/modules/block.py``, ``DFL``).
        """
        found = [node for node in self.graph.node if node.op_type in CONVOLUTIONS]
        return tuple(node for node in found if not self._is_expectation(node))

    def tail(self, weighted: frozenset[str] = CONVOLUTIONS) -> set[str]:
        """Names of the nodes after which no node of these operators comes."""
        last = [
            node
            for node in self.graph.node
            if node.op_type in weighted and not (node.op_type in CONVOLUTIONS and self._is_expectation(node))
        ]
        body: set[str] = set()
        todo = last
        while todo:
            node = todo.pop()
            if node.name not in body:
                body.add(node.name)
                todo += [self.producers[name] for name in node.input if name in self.producers]
        return {node.name for node in self.graph.node} - body

    def units(self, operators: Collection[str]) -> list[tuple[str, ...]]:
        """Names of the nodes of each unit, the one that it is named by first; those of the tail are in none.

        Beside the convolutions' units each node of ``operators`` that computes is one by itself.
        """
        tail = self.tail()
        units = [
            tuple(name for name in self._unit(convolution) if name not in tail)
            for convolution in self.convolutions
        ]
        taken = tail.union(*units)
        computing = set(operators) - _MOVING
        return units + [
            (node.name,) for node in self.graph.node if node.op_type in computing and node.name not in taken
        ]

    def _unit(self, convolution: onnx.NodeProto) -> Iterator[str]:
        yield convolution.name
        inside, todo, taken = set(convolution.output), list(convolution.output), {convolution.name}
        while todo:
            for node in self.consumers.get(todo.pop(), ()):
                fed = [name for name in node.input if name and name in self.producers]
                if node.op_type in _ACTIVATIONS and node.name not in taken and inside.issuperset(fed):
                    taken.add(node.name)
                    inside.update(node.output)
                    todo += node.output
                    yield node.name

    def _is_expectation(self, convolution: onnx.NodeProto) -> bool:
        """Whether a softmax comes before it, with nothing that has weights between."""
        todo, seen = [convolution.input[0]], set[str]()
        while todo:
            node = self.producers.get(todo.pop())
            if node is None or node.name in seen:
                continue
            seen.add(node.name)
            if node.op_type == "Softmax":
                return True
            if node.op_type not in WEIGHTED:
                todo += node.input
        return False


def name_nodes(nodes: Sequence[onnx.NodeProto]) -> None:
    """Give each node a name of its own: nodes are told apart by name, which ONNX leaves optional."""
    taken: set[str] = set()
    for index, node in enumerate(nodes):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
        taken.add(node.name)
