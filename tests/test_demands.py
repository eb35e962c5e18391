"""Model files that would hurt when loaded are refused in one line; sound ones are not."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import ModelError
from pipeline.runtime import demands
from pipeline.runtime.catalog import models_dir
from pipeline.runtime.demands import check_demands, weights_beside
from pipeline.runtime.session import Session


def adding(weights: TensorProto, size: int = 4) -> onnx.ModelProto:
    """x + w."""
    floats = helper.make_tensor_value_info("x", 1, [size]), helper.make_tensor_value_info("y", 1, [size])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [floats[0]], [floats[1]], [weights]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def kept_in(location: str, dims: tuple[int, ...] = (4,)) -> TensorProto:
    weights = TensorProto(name="w", data_type=1, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    return weights


def nested(depth: int) -> onnx.ModelProto:
    """A choice between graphs, ``depth`` deep."""

    def ending(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, 1, None)
        return helper.make_graph([helper.make_node("Identity", ["x"], [name])], "g", [], [out])

    inner = ending("o")
    for number in range(depth - 1):
        name = f"o{number}"
        node = helper.make_node("If", ["c"], [name], then_branch=inner, else_branch=ending(f"e{number}"))
        inner = helper.make_graph([node], "g", [], [helper.make_tensor_value_info(name, 1, None)])
    inputs = helper.make_tensor_value_info("x", 1, [4]), helper.make_tensor_value_info("c", 9, [])
    graph = helper.make_graph(list(inner.node), "g", inputs, list(inner.output))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def saved(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        check_demands(path)
    with pytest.raises(ModelError, match="is not loaded"):
        Session(path, "cpu")
    return str(raised.value)


def test_the_field_numbers_are_those_of_onnx() -> None:
    for message, inside in demands.FIELDS.items():
        described = getattr(onnx, message).DESCRIPTOR
        wanted = {
            field.number: field.message_type.name
            for field in described.fields
            if field.message_type is not None and field.message_type.name in {*demands.FIELDS, "TensorProto"}
        }
        assert inside == wanted, message
    tensor = TensorProto.DESCRIPTOR.fields_by_name
    assert (tensor["dims"].number, tensor["data_type"].number, tensor["external_data"].number) == (1, 2, 13)
    for kind in TensorProto.DataType.values():
        if kind in demands._BYTES and kind != TensorProto.STRING:
            assert demands._BYTES[kind] == helper.tensor_dtype_to_np_dtype(kind).itemsize


def test_what_stands_once_is_what_stands_once_in_onnx() -> None:
    for message, inside in demands.FIELDS.items():
        once = {
            field.number
            for field in getattr(onnx, message).DESCRIPTOR.fields
            if field.number in inside and not field.is_repeated
        }
        assert demands._SINGULAR.get(message, set()) == once, message


def _tag(number: int, wire: int, length: int = 0) -> bytes:
    """As a varint, of ``length`` bytes at least."""
    value, found = number << 3 | wire, bytearray()
    while value >= 0x80 or len(found) < length - 1:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _field(number: int, data: bytes) -> bytes:
    return _tag(number, 2) + _tag(len(data) >> 3, len(data) & 7) + data


def _grouped(number: int, inside: bytes) -> bytes:
    return _tag(number, 3) + inside + _tag(number, 4)


GROUPS = [
    _grouped(99, b""),
    _grouped(7, _grouped(8, b"") + _tag(7, 2) + b"\x01x" + _tag(1, 0) + b"\x05"),
    _tag(99, 3) * 100 + _tag(99, 4) * 100,
]


@pytest.mark.parametrize("group", GROUPS)
def test_groups_hide_nothing(tmp_path: Path, group: bytes) -> None:
    """ONNX Runtime passes over them, and so does the walk: before the graph, within it, and behind it."""
    weights = TensorProto(name="w", data_type=1, dims=[4], raw_data=bytes(16))
    path = tmp_path / "m.onnx"
    sound = adding(weights)
    for inside in (b"", group):
        graph = sound.graph.SerializeToString() + inside
        path.write_bytes(group + _field(7, graph))
        check_demands(path)
    path.write_bytes(group + sound.SerializeToString() + group)
    check_demands(path)
    ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for bad in (adding(kept_in("../out.bin")), nested(12)):
        path.write_bytes(group + bad.SerializeToString())
        refusal(path)
    path.write_bytes(group + adding(kept_in("../out.bin")).SerializeToString())
    with pytest.raises(ModelError, match="its own folder"):
        weights_beside(path)


@pytest.mark.parametrize(
    "odd",
    [
        _tag(99, 3),  # not ended
        _tag(99, 4),  # not begun
        _tag(99, 3) + _tag(98, 4),
        _tag(99, 3) * 101 + _tag(99, 4) * 101,
        _tag(99, 6),
        _tag(99, 0, 6) + b"\x00",
        _tag((1 << 30) + 99, 0) + b"\x00",  # 35 bits, of which a reader takes 32
        b"\xff" * 11,
    ],
)
def test_what_cannot_be_walked_is_refused(tmp_path: Path, odd: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(odd + adding(kept_in("../out.bin")).SerializeToString())
    assert "no ONNX file, or a damaged one" in refusal(path)
    with pytest.raises(ModelError, match="damaged"):
        weights_beside(path)


def test_what_stands_twice_where_one_belongs_is_refused(tmp_path: Path) -> None:
    """Protocol Buffers merges the two: 1048576 and 1048576 dimensions make a tensor of both."""
    half = TensorProto(data_type=1, dims=[1 << 20], raw_data=bytes(1 << 19)).SerializeToString()
    attribute = onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR).SerializeToString()
    for _ in range(2):
        attribute += _field(5, half)
    merged = onnx.AttributeProto.FromString(attribute)
    assert list(merged.t.dims) == [1 << 20, 1 << 20]
    node = helper.make_node("Constant", [], ["w"]).SerializeToString()
    node += _field(5, attribute)
    graph = _field(1, node)
    path = tmp_path / "m.onnx"
    path.write_bytes(_field(7, graph))
    with pytest.raises(ModelError, match="TensorProto stands in it twice"):
        check_demands(path)


def test_a_type_of_more_bits_than_readers_take(tmp_path: Path) -> None:
    """A complex128 takes 16 bytes, however its number is written."""
    plain = TensorProto(name="w", dims=[1000], raw_data=bytes(400)).SerializeToString()
    for kind in (15, 15 + (1 << 32)):
        weights = plain + _tag(2, 0) + _tag(kind >> 3, kind & 7)
        assert TensorProto.FromString(weights).data_type == 15
        graph = _field(5, weights)
        path = tmp_path / "m.onnx"
        path.write_bytes(_field(7, graph))
        with pytest.raises(ModelError, match="claims the shape"):
            check_demands(path)


@pytest.mark.parametrize(
    "location",
    [
        "../out.bin",
        "in/../../out.bin",
        "ABSOLUTE",
        "C:\\x.bin",
        "..\\out.bin",
        "\\\\server\\x",
        "link.bin",
        "",
    ],
)
def test_weights_outside_of_the_models_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    outside = tmp_path / "out.bin"
    np.arange(4, dtype="<f4").tofile(outside)
    (folder / "link.bin").symlink_to(outside)
    (folder / "in").mkdir()
    location = str(outside) if location == "ABSOLUTE" else location
    assert "its own folder" in refusal(saved(folder, adding(kept_in(location))))


def test_weights_beside_the_model_and_below_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("w.bin", "in/w.bin"):
        np.arange(4, dtype="<f4").tofile(tmp_path / name)
        path = saved(tmp_path, adding(kept_in(name)))
        check_demands(path)
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert session.run(None, {"x": np.zeros(4, np.float32)})[0].tolist() == [0, 1, 2, 3]


def test_weights_in_an_attribute_of_a_graph_within_a_graph(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["o"])
    constant.attribute.append(helper.make_attribute("value", kept_in("../w.bin")))
    branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("o", 1, None)])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("c", 9, [])],
        [helper.make_tensor_value_info("y", 1, None)],
    )
    assert "../w.bin" in refusal(saved(tmp_path, helper.make_model(graph)))


def test_graphs_within_graphs(tmp_path: Path) -> None:
    """ONNX Runtime's time doubles with each: 26 deep it does not come back within a minute."""
    check_demands(saved(tmp_path, nested(demands.DEEPEST)))
    assert "nested more than 8 deep" in refusal(saved(tmp_path, nested(demands.DEEPEST + 1)))
    assert "nested" in refusal(saved(tmp_path, nested(30)))


@pytest.mark.parametrize("dims", [(1 << 40,), (1 << 20, 1 << 20), (1 << 62, 4), (-1,)])
def test_tensors_that_claim_more_than_there_is(tmp_path: Path, dims: tuple[int, ...]) -> None:
    weights = TensorProto(name="w", data_type=1, dims=dims, raw_data=bytes(16))
    assert "claims the shape" in refusal(saved(tmp_path, adding(weights)))


@pytest.mark.parametrize("kind", [2, 3, 8, 9, 17, 99])
def test_tensors_of_small_and_unknown_types_claim_no_more_either(tmp_path: Path, kind: int) -> None:
    """40 million empty strings that the file does not have take 1.2 GB."""
    weights = TensorProto(name="w", data_type=kind, dims=(40_000_000,))
    assert "claims the shape" in refusal(saved(tmp_path, adding(weights)))


def test_strings_and_bytes_that_are_there_pass(tmp_path: Path) -> None:
    for weights in (
        helper.make_tensor("w", TensorProto.STRING, [1000], [b""] * 1000),
        helper.make_tensor("w", TensorProto.UINT8, [1000], bytes(1000), raw=True),
    ):
        check_demands(saved(tmp_path, adding(weights)))


def test_a_sparse_tensor_that_would_be_written_out(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("w", 1, [1], [1.0]), helper.make_tensor("i", 7, [1], [5]), [1 << 34]
    )
    model = adding(TensorProto(name="unused", data_type=1, dims=[1], raw_data=bytes(4)))
    model.graph.sparse_initializer.append(sparse)
    assert "sparse tensor" in refusal(saved(tmp_path, model))


def test_dimensions_beyond_number(tmp_path: Path) -> None:
    weights = TensorProto(name="w", data_type=1, dims=[1] * 5000, raw_data=bytes(4))
    assert "dimensions" in refusal(saved(tmp_path, adding(weights)))


def test_fields_beyond_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demands, "MOST_FIELDS", 5)
    assert "more than 5 fields" in refusal(
        saved(tmp_path, adding(TensorProto(name="w", data_type=1, dims=[4])))
    )


def _shipped() -> list[Path]:
    return sorted(models_dir().glob("*.onnx"))


@pytest.mark.parametrize("path", _shipped(), ids=lambda path: path.name)
def test_the_models_that_ship_pass(path: Path) -> None:
    check_demands(path)


@pytest.mark.assets
def test_real_models_pass(assets: Path) -> None:
    found = sorted(assets.rglob("*.onnx"))
    assert found
    for path in found:
        check_demands(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: helper.make_tensor("w", TensorProto.FLOAT, [4], [1, 2, 3, 4]),
        lambda: helper.make_tensor("w", TensorProto.INT64, [4], [0, 0, 0, 0]),
        lambda: helper.make_tensor("w", TensorProto.INT8, [4], [0, 0, 0, 0]),
        lambda: helper.make_tensor("w", TensorProto.DOUBLE, [1000], [0.0] * 1000),
        lambda: helper.make_tensor("w", TensorProto.BOOL, [1000], [False] * 1000),
        lambda: helper.make_tensor("w", TensorProto.STRING, [3], [b"", b"", b""]),
        lambda: helper.make_tensor("w", TensorProto.COMPLEX64, [2], [1j, 2j]),
        lambda: helper.make_tensor("w", TensorProto.FLOAT, [], [1]),
        lambda: helper.make_tensor("w", TensorProto.INT64, [500], [0] * 500),
        lambda: numpy_helper.from_array(np.zeros((3, 0, 5), np.float32), "w"),
        lambda: numpy_helper.from_array(np.zeros((300, 7), np.float16), "w"),
    ],
)
def test_every_honest_way_to_store_a_tensor_passes(tmp_path: Path, make: Callable[[], TensorProto]) -> None:
    check_demands(saved(tmp_path, adding(make())))


@given(st.binary(max_size=300))
def test_what_is_no_model_passes_or_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.onnx"
    path.write_bytes(data)
    with suppress(ModelError):
        check_demands(path)


@given(st.integers(0, 400), st.integers(0, 255))
def test_damage_anywhere_raises_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    data = bytearray(nested(3).SerializeToString())
    data[at % len(data)] = value
    path = folder / "damaged.onnx"
    path.write_bytes(data)
    with suppress(ModelError):
        check_demands(path)


def test_a_link_to_a_model_is_followed_and_its_weights_are_beside_the_link(tmp_path: Path) -> None:
    """As caches lay models out: ONNX Runtime looks beside the name that it was given."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "shown").mkdir()
    os.symlink(saved(tmp_path / "blobs", adding(kept_in("w.bin"))), tmp_path / "shown" / "m.onnx")
    np.arange(4, dtype="<f4").tofile(tmp_path / "shown" / "w.bin")
    check_demands(tmp_path / "shown" / "m.onnx")
