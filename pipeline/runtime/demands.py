"""What a model file that nobody vouches for may demand, looked at before ONNX Runtime has it.

The file's own structure is walked (Protocol Buffers' wire format, mapped and not read into memory), since
what is to be refused is what hurts when it is loaded:

- weights in files outside the model's own folder, which would put whatever is there into a computation, and
  those in files that are not there;
- tensors that claim more than the file holds, for which memory would be taken;
- graphs within graphs: ONNX Runtime 1.28 takes twice as long for each further one (16 deep: seconds,
  26 deep: more than a minute).

What cannot be walked to its end is refused, too: nobody knows what a reader would make of it.

What a sound graph computes is not limited: a few bytes can ask for a tensor of any size. For that the process
needs a limit on its memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path

from pipeline.errors import ModelError

DEEPEST = 8
"""Graphs within graphs; those of real models are two or three deep."""
MOST_FIELDS = 3_000_000
"""Of the file: models of 10,000 nodes have some 200,000."""
MOST_DENSE = 1 << 30
"""Bytes of a sparse tensor written out, which is done at loading."""
MOST_DIMENSIONS = 64
_INFLATION = 8
"""Bytes of an element for one in the file, at most: an int64 may be stored in one byte."""

# Where tensors and graphs are, by the field numbers of onnx.proto, which never change.
FIELDS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}
_SINGULAR = {
    "ModelProto": {7},
    "TrainingInfoProto": {1, 2},
    "AttributeProto": {5, 6, 22},
    "SparseTensorProto": {1, 2},
}
"""Those of FIELDS that stand once: a reader merges two of them, with the dimensions of both in a row."""
_DIMS = {"TensorProto": 1, "SparseTensorProto": 3}
_DATA_TYPE, _EXTERNAL_DATA = 2, 13  # of TensorProto
_BYTES = {1: 4, 5: 2, 4: 2, 6: 4, 7: 8, 8: 16, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
"""Of an element, by its type; a string takes two in the file and 32 in memory, even an empty one. Others
take one, or less."""
_LOCATION = b"location"
"""The key of the entry of TensorProto.external_data that names a file."""
_VARINT, _FIXED64, _BYTES_FOLLOW, _GROUP, _GROUP_END, _FIXED32 = range(6)
_MOST_GROUPS = 100
"""Within each other, as Protocol Buffers itself has it."""


def check_demands(path: Path) -> None:
    """Raise ModelError where the model file at ``path`` demands what it may not, or is none.

    One that is not there, or empty, passes: whoever opens it says so.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _Walk(path, data).message("ModelProto", 0, len(data), 0)


def weights_beside(path: Path) -> list[Path]:
    """The files beside the model's own that it names for its weights, sorted.

    Raises ModelError as :func:`check_demands`, OSError.
    """
    if path.stat().st_size == 0:
        return []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(_LOCATION) < 0:  # as in almost all: nothing has to be walked
            return []
        walk = _Walk(path, data)
        walk.message("ModelProto", 0, len(data), 0)
        return sorted(walk.beside)


class _Walk:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data = path, data
        self.beside: set[Path] = set()
        self._fields = 0

    def message(self, kind: str, at: int, end: int, depth: int) -> None:
        """Look at one message, and at those in it."""
        if kind == "GraphProto":
            depth += 1
            if depth > DEEPEST:
                raise self._refusal(f"its graphs are nested more than {DEEPEST} deep")
        inside = FIELDS.get(kind, {})
        dims_field = _DIMS.get(kind)
        dims: list[int] = []
        data_type, elsewhere = 0, 0
        singular, seen = _SINGULAR.get(kind, set()), set[int]()
        for number, wire, start, stop in self._of(at, end):
            if wire == _BYTES_FOLLOW and number in inside:
                if number in seen:
                    raise self._refusal(f"a {inside[number]} stands in it twice where one belongs")
                if number in singular:
                    seen.add(number)
                self.message(inside[number], start, stop, depth)
            elif dims_field is None:
                continue
            elif number == dims_field:
                dims += self._integers(wire, start, stop)
                if len(dims) > MOST_DIMENSIONS:
                    raise self._refusal(f"a tensor in it has more than {MOST_DIMENSIONS} dimensions")
            elif kind == "TensorProto" and number == _DATA_TYPE and wire == _VARINT:
                data_type = self._varint(start)[0] & (2**32 - 1)  # as a reader cuts it off
            elif kind == "TensorProto" and number == _EXTERNAL_DATA and wire == _BYTES_FOLLOW:
                elsewhere = max(elsewhere, self._external(start, stop))
        if dims:
            self._check_size(kind, dims, data_type, end - at, elsewhere)

    def _check_size(self, kind: str, dims: list[int], data_type: int, here: int, elsewhere: int) -> None:
        claimed = prod(dims)
        if claimed >= 1 << 63 or any(each >= 1 << 63 for each in dims):  # below zero, too
            raise self._refusal(f"a tensor in it claims the shape {_shown(dims)}")
        if kind == "SparseTensorProto":
            if claimed * max(_BYTES.values()) > MOST_DENSE * 2:
                raise self._refusal(f"a sparse tensor in it claims {claimed:,} elements")
        elif claimed * _BYTES.get(data_type, 1) > _INFLATION * max(here, elsewhere):
            raise self._refusal(
                f"a tensor in it claims the shape {_shown(dims)} and has {max(here, elsewhere):,} bytes"
            )

    def _external(self, at: int, end: int) -> int:
        """Check one entry of where a tensor's data is; the bytes of the file that it names."""
        entry = {
            number: self._data[start:stop] for number, wire, start, stop in self._of(at, end) if wire == 2
        }
        if entry.get(1) != _LOCATION:
            return 0
        location = os.fsdecode(entry.get(2, b""))
        folder = self._path.absolute().parent
        # As ONNX has it: relative, and with slashes. Windows' own forms are judged everywhere.
        parts = location.replace("\\", "/").split("/")
        if "\0" in location or not parts[0] or ":" in parts[0] or ".." in parts:
            raise self._refusal(f"it keeps weights in {location!r}, which is no file below its own folder")
        found = folder / location
        if not found.resolve().is_relative_to(folder.resolve()):
            raise self._refusal(
                f"it keeps weights in {location!r}, which links to a file outside of its own folder"
            )
        if not found.is_file():
            raise ModelError(
                f"model {self._path} keeps weights in the file {location!r}, which is not there: copy it, too"
            )
        self.beside.add(found)
        return found.stat().st_size

    def _integers(self, wire: int, start: int, stop: int) -> list[int]:
        """The values of a repeated int64, packed or by itself."""
        if wire == _VARINT:
            return [self._varint(start)[0]]
        found: list[int] = []
        while wire == _BYTES_FOLLOW and start < stop:
            value, start = self._varint(start)
            found.append(value)
        return found

    def _of(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, wire type, start and end of each field; groups, of which ONNX has none, are passed over."""
        groups: list[int] = []
        while at < end:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise self._refusal(f"it has more than {MOST_FIELDS:,} fields")
            tag, start = self._varint(at)
            if start - at > 5 or tag >> 32:  # of which readers see the lower bits, or none
                raise self._malformed()
            at, number, wire = start, tag >> 3, tag & 7
            if wire == _VARINT:
                _, at = self._varint(at)
            elif wire == _BYTES_FOLLOW:
                length, start = self._varint(at)
                at = start + length
            elif wire in (_FIXED32, _FIXED64):
                at += 4 if wire == _FIXED32 else 8
            elif wire == _GROUP and len(groups) < _MOST_GROUPS:
                groups.append(number)
                continue
            elif wire == _GROUP_END and groups and groups.pop() == number:
                continue
            else:
                raise self._malformed()
            if at > end:
                raise self._malformed()
            if not groups:
                yield number, wire, start, at
        if groups or at > end:
            raise self._malformed()

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= len(self._data):
                raise self._malformed()
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2**64 - 1), at
        raise self._malformed()

    def _malformed(self) -> ModelError:
        return ModelError(f"model {self._path} is not loaded: it is no ONNX file, or a damaged one")

    def _refusal(self, reason: str) -> ModelError:
        return ModelError(
            f"model {self._path} is not loaded: {reason}; take one from a source that you trust"
        )


def _shown(dims: list[int]) -> str:
    signed = [each - 2**64 if each >= 2**63 else each for each in dims]
    return "x".join(map(str, signed[:6])) + ("x…" if len(dims) > 6 else "")
