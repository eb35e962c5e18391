"""An ONNX graph while nodes of it are replaced: who makes what, who uses it, and its constants."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.onnx_messages import NodeMessage

_INT, _TENSOR, _INTS = 2, 4, 7  # of AttributeProto.AttributeType
_FLOAT, _INT64 = 1, 7  # of TensorProto.DataType
_TYPES = {np.dtype(np.float32): _FLOAT, np.dtype(np.int64): _INT64}


class Edit:
    """One pass over a graph: ask, ``replace``, ``write``. Until then it speaks of the graph as it was.

    ``nodes`` are the graph's nodes of ONNX's own operators, in order.
    """

    def __init__(self, graph: Any) -> None:
        """``graph``: a GraphProto, as in ``onnx_messages``."""
        self._graph = graph
        self._all = list(graph.node)  # held, since they are told apart by identity
        self.nodes = [node for node in self._all if node.domain in ("", "ai.onnx")]
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._cuts: dict[tuple[str | int, ...], list[Any]] = {}
        self._taken = set(_names(graph))
        self._count = 0
        self._instead: dict[int, list[Any]] = {}
        self._maker = {name: node for node in self.nodes for name in node.output}
        self._uses = Counter(_names_used(graph))
        self._users: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self._users.setdefault(name, []).append(node)

    def maker(self, name: str) -> Any | None:
        """The node that makes ``name``; None for inputs and constants."""
        return self._maker.get(name)

    def users(self, name: str) -> list[Any]:
        """The nodes that use ``name``, each once; of subgraphs see :meth:`only_used_by`."""
        return list({id(node): node for node in self._users.get(name, [])}.values())

    def only_used_by(self, name: str, *users: Any) -> bool:
        """Whether no other node, no subgraph uses ``name``, nor is it an output."""
        found = self._users.get(name, [])
        return self._uses[name] == len(found) and {id(node) for node in found} == {id(node) for node in users}

    def transposition_of(self, name: str) -> Any | None:
        """The transposition that alone uses ``name``; None where there is none."""
        for node in self._users.get(name, [])[:1]:
            if node.op_type == "Transpose" and self.only_used_by(name, node):
                return node
        return None

    def shape(self, name: str) -> list[int] | None:
        """That of a constant that is in the file; None where ``name`` is none."""
        tensor = self._constants.get(name)
        return None if tensor is None or not tensor.raw_data else list(tensor.dims)

    def integers(self, name: str) -> list[int] | None:
        """The values of a constant of int64; None where ``name`` is no such constant."""
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type != _INT64 or not tensor.raw_data:
            return None
        return [int(value) for value in np.frombuffer(tensor.raw_data, "<i8")]

    def floats(self, name: str) -> list[float] | None:
        """The values of a constant of float32; None where ``name`` is no such constant."""
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type != _FLOAT or not tensor.raw_data:
            return None
        return [float(value) for value in np.frombuffer(tensor.raw_data, "<f4")]

    def cut(self, name: str, sizes: Sequence[int], axis: int = 0) -> list[str] | None:
        """Names of the parts of a constant, cut along ``axis``; None where it cannot be cut so."""
        shape = self.shape(name)
        if shape is None or len(shape) <= axis or shape[axis] != sum(sizes):
            return None
        key: tuple[str | int, ...] = (name, axis, *sizes)
        if key not in self._cuts:
            tensor = self._constants[name]
            rows = math.prod(shape[:axis])
            values = np.frombuffer(tensor.raw_data, np.uint8).reshape(rows, shape[axis], -1)
            starts = [sum(sizes[:n]) for n in range(len(sizes))]
            self._cuts[key] = [
                type(tensor)(
                    name=self.fresh(f"{name}/{start}"),
                    data_type=tensor.data_type,
                    dims=[*shape[:axis], count, *shape[axis + 1 :]],
                    raw_data=values[:, start : start + count].tobytes(),
                )
                for start, count in zip(starts, sizes, strict=True)
            ]
        return [part.name for part in self._cuts[key]]

    def fresh(self, name: str) -> str:
        """``name``, or that with a number where something has it, be it in a subgraph: each is made once."""
        chosen = next(each for n in count() if (each := f"{name}/{n}" if n else name) not in self._taken)
        self._taken.add(chosen)
        return chosen

    def is_replaced(self, node: Any) -> bool:
        """Whether ``node`` is gone already, so that what it said holds no more."""
        return id(node) in self._instead

    def replace(self, old: Sequence[Any], new: Sequence[Any]) -> None:
        """``new`` stands where the last of ``old`` stood."""
        self._instead.update({id(node): [] for node in old})
        self._instead[id(old[-1])] = list(new)
        self._count += 1

    def drop(self, *nodes: Any) -> None:
        """Nobody uses what they make any more."""
        self._instead.update({id(node): [] for node in nodes})

    def write(self) -> int:
        """Put what was replaced into the graph; constants that nobody uses any more go. Returns how many."""
        nodes = [new for node in self._all for new in self._instead.get(id(node), [node])]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        used = set(_names_used(self._graph))
        parts = chain.from_iterable(self._cuts.values())
        constants = [tensor for tensor in (*self._graph.initializer, *parts) if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(constants)
        return self._count


def like(node: Any, inputs: Sequence[str], output: str, **attributes: int | list[int]) -> Any:
    """A copy of ``node`` between other names; ``attributes`` are put in the place of its own.

    It has no name, as none is needed and ONNX Runtime refuses two nodes of one name.
    """
    copy = type(node)(op_type=node.op_type, domain=node.domain, input=inputs, output=[output])
    copy.attribute.extend(each for each in node.attribute if each.name not in attributes)
    for name, value in attributes.items():
        if isinstance(value, int):
            copy.attribute.add(name=name, type=_INT, i=value)
        else:
            copy.attribute.add(name=name, type=_INTS, ints=value)
    return copy


def made(
    operator: str, inputs: Sequence[str], output: str, **attributes: int | list[int] | NDArray[Any]
) -> Any:
    """A node of one of ONNX's own operators; an array is of float32 or int64."""
    new = NodeMessage(name=output, op_type=operator, input=inputs, output=[output])
    for name, value in attributes.items():
        if isinstance(value, int):
            new.attribute.add(name=name, type=_INT, i=value)
        elif isinstance(value, np.ndarray):
            held = new.attribute.add(name=name, type=_TENSOR).t
            held.dims.extend(value.shape)
            held.data_type, held.raw_data = _TYPES[value.dtype], value.tobytes()
        else:
            new.attribute.add(name=name, type=_INTS, ints=value)
    return new


def stated(node: Any, name: str) -> Any | None:
    """The attribute of that name; None where the node does not state it."""
    return next((each for each in node.attribute if each.name == name), None)


def subgraphs(graph: Any) -> Iterator[Any]:
    """``graph`` and all within it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from subgraphs(inner)


def _names(graph: Any) -> Iterator[str]:
    for each in subgraphs(graph):
        for node in each.node:
            yield from (*node.input, *node.output)
        for named in (*each.initializer, *each.input, *each.output, *each.value_info):
            yield named.name


def _names_used(graph: Any) -> Iterator[str]:
    for each in subgraphs(graph):
        yield from (output.name for output in each.output)
        for node in each.node:
            yield from node.input
