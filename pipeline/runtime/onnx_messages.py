"""As much of ONNX's file format as rewriting a graph needs: the rest is carried along unread.

The field numbers are those of ``onnx.proto`` (github.com/onnx/onnx), which never change. The package
``onnx`` reads all of the format, but takes 50 MB that nothing else here needs to run; protobuf comes with
ONNX Runtime, and keeps the fields that it was not told of.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_INT64, _STRING, _MESSAGE, _BYTES, _INT32 = 3, 9, 11, 12, 5
# By message: (name, number, type, repeated, message).
_FIELDS: dict[str, list[tuple[str, int, int, bool, str]]] = {
    "Model": [("graph", 7, _MESSAGE, False, "Graph"), ("opset_import", 8, _MESSAGE, True, "Opset")],
    "Opset": [("domain", 1, _STRING, False, ""), ("version", 2, _INT64, False, "")],
    "Graph": [
        ("node", 1, _MESSAGE, True, "Node"),
        ("initializer", 5, _MESSAGE, True, "Tensor"),
        ("input", 11, _MESSAGE, True, "Value"),
        ("output", 12, _MESSAGE, True, "Value"),
        ("value_info", 13, _MESSAGE, True, "Value"),
    ],
    "Value": [("name", 1, _STRING, False, ""), ("type", 2, _MESSAGE, False, "Type")],
    "Type": [("tensor_type", 1, _MESSAGE, False, "TensorType")],
    "TensorType": [("elem_type", 1, _INT32, False, ""), ("shape", 2, _MESSAGE, False, "Shape")],
    "Shape": [("dim", 1, _MESSAGE, True, "Side")],
    "Side": [("dim_value", 1, _INT64, False, ""), ("dim_param", 2, _STRING, False, "")],
    "Node": [
        ("input", 1, _STRING, True, ""),
        ("output", 2, _STRING, True, ""),
        ("name", 3, _STRING, False, ""),
        ("op_type", 4, _STRING, False, ""),
        ("attribute", 5, _MESSAGE, True, "Attribute"),
        ("domain", 7, _STRING, False, ""),
    ],
    "Attribute": [
        ("name", 1, _STRING, False, ""),
        ("i", 3, _INT64, False, ""),
        ("s", 4, _BYTES, False, ""),
        ("t", 5, _MESSAGE, False, "Tensor"),
        ("g", 6, _MESSAGE, False, "Graph"),
        ("ints", 8, _INT64, True, ""),
        ("graphs", 11, _MESSAGE, True, "Graph"),
        ("type", 20, _INT32, False, ""),
    ],
    "Tensor": [
        ("dims", 1, _INT64, True, ""),
        ("data_type", 2, _INT32, False, ""),
        ("name", 8, _STRING, False, ""),
        ("raw_data", 9, _BYTES, False, ""),
        ("data_location", 14, _INT32, False, ""),
    ],
}


def _classes(*names: str) -> tuple[Any, ...]:
    file = descriptor_pb2.FileDescriptorProto(name="onnx.proto", package="framerail", syntax="proto2")
    for message, fields in _FIELDS.items():
        declared = file.message_type.add(name=message)
        for name, number, kind, repeated, of in fields:
            field = declared.field.add(name=name, number=number, type=kind, label=3 if repeated else 1)
            if of:
                field.type_name = f".framerail.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = (pool.FindMessageTypeByName(f"framerail.{name}") for name in names)
    return tuple(message_factory.GetMessageClass(each) for each in found)


ModelMessage, NodeMessage = _classes("Model", "Node")
"""ONNX's ModelProto and NodeProto: ``ModelMessage.FromString(data)``, ``message.SerializeToString()``."""
