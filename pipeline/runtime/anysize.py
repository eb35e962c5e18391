"""The graph of a model that was exported for one size of picture, for pictures of any size up to it.

A letterboxed picture of 16:9 leaves 40 % of a square input empty, and most files have a square one. Beside
its input's declaration such a file states its size in three ways, all of them found by running the graph at
two smaller sizes and looking where shapes no longer fit:

- targets of Reshape (``[1, 4, 16, 8400]``): what varies is left to be inferred, or computed;
- sizes of Resize: computed;
- constants with a value for each cell of the grid (anchor points, strides), which meet what the grid has
  become in an addition or multiplication: cut. Cells of a smaller picture are the first ones of each row and
  column, because a grid's points count from the upper left corner. Constants whose values do not rise evenly
  along rows and columns are no such grid, and are refused.

What is computed comes from the shape of the picture. Whether answers are the same is not seen here: the graph
is identified anew afterwards, as any that declares its size free.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.decoders import TensorInfo
from pipeline.errors import ModelError
from pipeline.runtime.graph_edit import Edit, made
from pipeline.runtime.gridnumbers import Meaning, Size, is_even, meanings
from pipeline.runtime.onnx_messages import ModelMessage
from pipeline.runtime.optimised import write_optimised
from pipeline.runtime.readable import readable
from pipeline.runtime.shapes import Shapes

_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow"})
_UNIT = 32
_SMALLER = ((4, 5), (7, 3))
"""Rows and columns of the pictures that are tried, in units: enough cells for a choice of the 300 best."""
_FREE = "free side"
_LEAST_OPSET = 10
"""From here on Slice takes its ends as an input, which can be computed."""
_INT64 = 7  # of TensorProto.DataType
_FLOATS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2")}


def any_size(path: Path, image: TensorInfo, size: Size, layout: Literal["NCHW", "NHWC"]) -> bytes:
    """The model in ``path``, whose input ``image`` is fixed to height and width ``size``, for any up to that.

    Raises ModelError where the graph cannot be had for other sizes, with the reason.
    """
    readable(path, image.name, partial(refused, path), least_opset=_LEAST_OPSET)
    if len(image.shape) != 4:
        raise refused(path, f"its input has no batch axis: {image}")
    if min(size) < _UNIT:
        raise refused(path, f"its input is no larger than {size[1]}x{size[0]}")
    with tempfile.TemporaryDirectory(prefix="framerail-") as folder:
        plain = Path(folder) / "plain.onnx"
        write_optimised(path, plain)  # constants folded: what is computed of a fixed shape is one
        model = ModelMessage.FromString(plain.read_bytes())
    freed = _Freed(path, model, image.name, size, layout)
    freed.free()
    data: bytes = model.SerializeToString()
    return data


class _Freed:
    """The graph while it is freed, node by node in the order in which they run."""

    def __init__(self, path: Path, model: Any, picture: str, size: Size, layout: str) -> None:
        self._path, self._model, self._picture, self._size = path, model, picture, size
        self._graph = model.graph
        self._axes = (1, 2) if layout == "NHWC" else (2, 3)
        self._constants = {tensor.name: tensor for tensor in self._graph.initializer}
        self._fresh = Edit(self._graph).fresh
        self._numbers: dict[Meaning, str] = {}
        self._first: list[Any] = []
        self._shape = ""
        self._smaller = [_smaller(size, units) for units in _SMALLER]
        self._sizes = (size, *self._smaller)
        self._shapes = Shapes(model, picture, self._axes)

    def free(self) -> None:
        """Edit the graph. Raises ModelError where it cannot be."""
        nodes, done = list(self._graph.node), list[Any]()
        operands = [self._operand(node) for node in nodes]
        outputs = [each.name for each in self._graph.output]
        self._declare()
        whole = self._shapes_of([*filter(None, operands), *outputs], nodes, self._size)
        for node, operand in zip(nodes, operands, strict=True):
            if operand is not None:
                by_now = [*self._first, *done]
                tried = (self._shapes_of([operand], by_now, size) for size in self._smaller)
                done += self._edited(node, [shapes[operand] for shapes in (whole, *tried)])
            done.append(node)
        del self._graph.node[:]
        self._graph.node.extend([*self._first, *done])
        smaller = [self._shapes_of(outputs, list(self._graph.node), size) for size in self._smaller]
        for output in self._graph.output:
            self._settle(output, [shapes[output.name] for shapes in (whole, *smaller)])

    def _shapes_of(self, names: Sequence[str], nodes: Sequence[Any], size: Size) -> dict[str, list[int]]:
        try:
            return self._shapes.of(names, nodes, size)
        except ModelError as error:
            raise refused(self._path, str(error)) from None

    def _declare(self) -> None:
        """The picture's sides become free, and no shape that followed from them is declared any more."""
        pixels = next(each for each in self._graph.input if each.name == self._picture)
        for axis, name in zip(self._axes, ("height", "width"), strict=True):
            side = pixels.type.tensor_type.shape.dim[axis]
            side.ClearField("dim_value")
            side.dim_param = name
        del self._graph.value_info[:]
        for output in self._graph.output:
            for side in output.type.tensor_type.shape.dim:
                if side.dim_value:
                    side.ClearField("dim_value")
                    side.dim_param = self._fresh(_FREE)

    def _settle(self, output: Any, shapes: Sequence[Sequence[int]]) -> None:
        """What is the same for all sizes is declared again: identification goes by it."""
        for side, *values in zip(output.type.tensor_type.shape.dim, *shapes, strict=False):
            if side.dim_param.startswith(_FREE) and len(set(values)) == 1:
                side.ClearField("dim_param")
                side.dim_value = values[0]

    # What states a size ---------------------------------------------------------------------------

    def _operand(self, node: Any) -> str | None:
        """What a node that may state a size works on; None where it states none."""
        if node.op_type == "Reshape" and node.input[0] not in self._constants:
            target = self._integers(node.input[1])
            return node.input[0] if target is not None and self._may_vary(target) else None
        if node.op_type == "Resize" and len(node.input) > 3:
            sizes = self._integers(node.input[3])
            return node.input[0] if sizes is not None else None
        if node.op_type in _ELEMENTWISE and len(node.input) == 2:
            for constant, other in itertools.permutations(node.input):
                tensor = self._constants.get(constant)
                if tensor is not None and other not in self._constants and self._may_vary(tensor.dims):
                    return str(other)
        return None

    def _may_vary(self, numbers: Sequence[int]) -> bool:
        return any(number > 1 and self._meanings(number) for number in numbers)

    def _meanings(self, number: int) -> list[Meaning]:
        return meanings(number, self._size)

    def _edited(self, node: Any, shapes: Sequence[Sequence[int]]) -> list[Any]:
        """Change what states a size in ``node``, whose operand has these shapes at the sizes that are tried.

        Returns the nodes that have to come before it.
        """
        if node.op_type == "Reshape":
            return self._reshape(node, shapes)
        if node.op_type == "Resize":
            return self._resize(node)
        return self._elementwise(node, shapes)

    def _reshape(self, node: Any, shapes: Sequence[Sequence[int]]) -> list[Any]:
        target = self._integers(node.input[1])
        assert target is not None
        counts = [math.prod(shape) for shape in shapes]
        resolved = [shapes[0][axis] if side == 0 else side for axis, side in enumerate(target)]
        if -1 in target:
            open_axis = target.index(-1)
            rest = -math.prod(resolved)
            resolved[open_axis] = counts[0] // rest if rest else 0
        choice = self._assignment(resolved, counts)
        if choice is None:
            raise self._stuck(node, f"a target of {target}")
        varying = [axis for axis, meaning in enumerate(choice) if meaning is not None]
        open_axis = target.index(-1) if -1 in target else varying[-1] if varying else -1
        if all(axis == open_axis for axis in varying) and (-1 in target or not varying):
            return []
        parts: list[int | Meaning] = [
            -1 if axis == open_axis else meaning if meaning is not None else target[axis]
            for axis, meaning in enumerate(choice)
        ]
        node.input[1], before = self._integers_of(parts, node.input[1])
        return before

    def _assignment(self, numbers: Sequence[int], counts: Sequence[int]) -> tuple[Meaning | None, ...] | None:
        """Which of the numbers vary, and how, so that their products are ``counts``; the last in doubt."""
        options: list[list[Meaning | None]] = [
            [None, *(self._meanings(number) if number > 1 else [])] for number in numbers
        ]
        found = []
        for choice in itertools.product(*options):
            products = (
                math.prod(
                    number if meaning is None else meaning.at(size)
                    for number, meaning in zip(numbers, choice, strict=True)
                )
                for size in self._sizes
            )
            if all(product == count for product, count in zip(products, counts, strict=True)):
                found.append(choice)
        return max(found, key=lambda choice: [meaning is not None for meaning in choice][::-1], default=None)

    def _resize(self, node: Any) -> list[Any]:
        sizes = self._integers(node.input[3])
        assert sizes is not None
        parts: list[int | Meaning] = list(sizes)
        for axis, kind in zip(self._axes, ("rows", "columns"), strict=True):
            found = [each for each in self._meanings(sizes[axis]) if each.kind == kind]
            if not found:
                raise self._stuck(node, f"sizes of {sizes}")
            parts[axis] = found[0]
        node.input[3], before = self._integers_of(parts, node.input[3])
        return before

    def _elementwise(self, node: Any, shapes: Sequence[Sequence[int]]) -> list[Any]:
        place = next(place for place, name in enumerate(node.input) if name in self._constants)
        name = node.input[place]
        dims = list(self._constants[name].dims)
        cuts: dict[int, Meaning] = {}
        for axis, number in enumerate(dims):
            other = axis - len(dims) + len(shapes[0])
            met = [shape[other] for shape in shapes] if other >= 0 else [number]
            if number == 1 or met[0] == 1 or set(met) == {number}:
                continue
            found = [
                each for each in self._meanings(number) if [each.at(size) for size in self._sizes] == met
            ]
            if not found:
                raise self._stuck(node, f"a constant of {dims}")
            cuts[axis] = found[0]
        if not cuts:
            return []
        values = self._values(name)
        if values is None:
            raise self._stuck(node, f"a constant of {dims}, no floating point")
        if [meaning.kind for meaning in cuts.values()] == ["cells"]:
            ((axis, meaning),) = cuts.items()
            node.input[place], before = self._cut_cells(node, name, values, axis, meaning)
        elif all(meaning.kind != "cells" and is_even(values, axis) for axis, meaning in cuts.items()):
            node.input[place], before = self._cut(name, list(cuts), list(cuts.values()))
        else:
            raise self._stuck(node, f"a constant of {dims}, no even grid")
        return before

    # What is put in its place -----------------------------------------------------------------------

    def _cut_cells(
        self, node: Any, name: str, values: NDArray[Any], axis: int, meaning: Meaning
    ) -> tuple[str, list[Any]]:
        """Of each grid the first rows and columns; along ``axis`` is one grid after the other."""
        dims, parts, nodes, start = values.shape, list[str](), list[Any](), 0
        for stride in meaning.strides:
            rows, columns = (Meaning(kind, (stride,)) for kind in ("rows", "columns"))
            high, wide = rows.at(self._size), columns.at(self._size)
            count = meaning.anchors * high * wide
            part = np.take(values, range(start, start + count), axis)
            start += count
            for inner in (False, True) if meaning.anchors > 1 else (False,):
                sides = [high, wide, meaning.anchors] if inner else [meaning.anchors, high, wide]
                grid = part.reshape(*dims[:axis], *sides, *dims[axis + 1 :])
                first = axis if inner else axis + 1
                if is_even(grid, first) and is_even(grid, first + 1):
                    break
            else:
                raise self._stuck(node, f"a constant of {list(dims)}, no even grid")
            cut, sliced = self._cut(self._constant(grid), [first, first + 1], [rows, columns])
            flat = self._fresh(f"{name}/cells{stride}")
            target = self._constant(np.array([*dims[:axis], -1, *dims[axis + 1 :]], np.int64))
            parts.append(flat)
            nodes += [*sliced, made("Reshape", [cut, target], flat)]
        whole = self._fresh(f"{name}/cells")
        return whole, [*nodes, made("Concat", parts, whole, axis=axis)]

    def _cut(self, name: str, axes: Sequence[int], ends_: Sequence[Meaning]) -> tuple[str, list[Any]]:
        """The first so many of ``name`` along each axis."""
        ends, before = self._integers_of(ends_, name)
        cut = self._fresh(f"{name}/cut")
        starts = self._constant(np.zeros(len(axes), np.int64))
        along = self._constant(np.array(axes, np.int64))
        return cut, [*before, made("Slice", [name, starts, ends, along], cut)]

    def _integers_of(self, parts: Sequence[int | Meaning], name: str) -> tuple[str, list[Any]]:
        """The name of an int64 tensor of these numbers, and the nodes that make it."""
        if all(isinstance(part, int) for part in parts):
            return self._constant(np.array(parts, np.int64)), []
        names = [
            self._constant(np.array([part], np.int64)) if isinstance(part, int) else self._number(part)
            for part in parts
        ]
        if len(names) == 1:
            return names[0], []
        joined = self._fresh(f"{name}/of this picture")
        return joined, [made("Concat", names, joined, axis=0)]

    def _number(self, meaning: Meaning) -> str:
        """The name of an int64 tensor [1] that holds what ``meaning`` is for the picture that is fed."""
        if meaning in self._numbers:
            return self._numbers[meaning]
        if meaning.kind == "cells":
            grids = []
            for stride in meaning.strides:
                sides = [self._number(Meaning(kind, (stride,))) for kind in ("rows", "columns")]
                grids.append(self._computed("Mul", *sides))
            name = grids[0]
            for grid in grids[1:]:
                name = self._computed("Add", name, grid)
            if meaning.anchors > 1:
                name = self._computed("Mul", name, self._constant(np.array([meaning.anchors])))
        else:
            axis = self._axes[meaning.kind == "columns"]
            self._shape = self._shape or self._computed("Shape", self._picture)
            side = self._computed("Gather", self._shape, self._constant(np.array([axis])))
            (stride,) = meaning.strides
            more = self._computed("Add", side, self._constant(np.array([stride - 1])))
            name = self._computed("Div", more, self._constant(np.array([stride])))
        self._numbers[meaning] = name
        return name

    def _computed(self, operator: str, *inputs: str) -> str:
        name = self._fresh(f"{self._picture}/{operator}")
        self._first.append(made(operator, inputs, name))
        return name

    def _constant(self, values: NDArray[Any]) -> str:
        """A node: before version 4 of the format an initializer had to be an input as well."""
        name = self._fresh(f"{self._picture}/constant")
        self._first.append(made("Constant", [], name, value=values))
        return name

    def _integers(self, name: str) -> list[int] | None:
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type != _INT64 or not tensor.raw_data:
            return None
        return [int(value) for value in np.frombuffer(tensor.raw_data, "<i8")]

    def _values(self, name: str) -> NDArray[Any] | None:
        tensor = self._constants[name]
        dtype = _FLOATS.get(tensor.data_type)
        if dtype is None or not tensor.raw_data:
            return None
        values: NDArray[Any] = np.frombuffer(tensor.raw_data, dtype).reshape(tensor.dims)
        return values

    def _stuck(self, node: Any, why: str) -> ModelError:
        return refused(self._path, f"its node {node.name or node.output[0]} ({node.op_type}) has {why}")


def _smaller(size: Size, units: tuple[int, int]) -> Size:
    height, width = (min(side, _UNIT * count) for side, count in zip(size, units, strict=True))
    return height, width


def refused(path: Path, why: str) -> ModelError:
    """What to raise where the model in ``path`` has to stay at its size."""
    return ModelError(
        f"model {path.name} cannot be fed rectangles: {why}; leave out rect (--rect), or export it with free "
        "sides (dynamic=True)"
    )
