"""Which operators a model's file has, read from the file itself: no session, no package onnx, no weights.

A session cannot say it: ONNX Runtime names the nodes that its optimisation left. The numbers below are
those of the fields in ``onnx.proto`` (github.com/onnx/onnx); the encoding is Protocol Buffers'
(protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ModelError

_GRAPH, _NODE, _OP_TYPE = 7, 1, 4
"""``ModelProto.graph``, ``GraphProto.node``, ``NodeProto.op_type``."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_DYNAMIC = frozenset({"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"})
_STATIC = frozenset({"QuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm"})


def operators(path: Path) -> Counter[str]:
    """Count the nodes of the file's main graph by operator. Raises ModelError for what is no ONNX file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return Counter(
                data[start:end].decode("utf-8")
                for graph in _fields(data, (0, len(data)), _GRAPH)
                for node in _fields(data, graph, _NODE)
                for start, end in _fields(data, node, _OP_TYPE)
            )
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(f"cannot read the operators of {path}: {error}; is it an ONNX file?") from None


def quantised(path: Path) -> str:
    """How a model is quantised, in words; empty for one that computes in floating point throughout.

    A file whose weights alone are stored as integers (DequantizeLinear and no QuantizeLinear) computes in
    floating point. Raises ModelError.
    """
    counted = operators(path)
    for kind, telling in (("dynamic int8", _DYNAMIC), ("static int8", _STATIC)):
        found = {name: counted[name] for name in sorted(telling) if counted[name]}
        if found:
            return f"{kind} ({', '.join(f'{name} ×{count}' for name, count in found.items())})"
    return ""


def _fields(data: mmap.mmap, within: tuple[int, int], wanted: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each length-delimited field of that number. Raises ValueError, IndexError."""
    at, end = within
    while at < end:
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _BYTES:
            length, at = _varint(data, at)
            if at + length > end:
                raise ValueError("it ends in the middle of a field")
            if number == wanted:
                yield at, at + length
            at += length
        elif kind == _VARINT:
            _, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} is not one of Protocol Buffers'")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number is longer than Protocol Buffers allow")
