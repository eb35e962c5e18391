"""The weights that the project ships, and the recipe that makes them."""

from __future__ import annotations

import base64
import hashlib
import importlib
import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

MODELS = Path(__file__).resolve().parent.parent / "models"
CARD = tomllib.loads((MODELS / "nanodet-g.toml").read_text(encoding="utf-8"))
MODEL = MODELS / CARD["file"]


def session(model: Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def nanodet_g() -> Iterator[ModuleType]:
    """The recipe, imported as it is when run as a script: its folder is on the path."""
    folder = str(MODELS / "recipes")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("nanodet_g")
    finally:
        sys.path.remove(folder)


# The committed model.


def test_the_model_is_the_one_that_its_card_and_its_recipe_name(nanodet_g: ModuleType) -> None:
    data = MODEL.read_bytes()
    assert len(data) == CARD["bytes"]
    assert hashlib.sha256(data).hexdigest() == CARD["sha256"] == nanodet_g.RESULT_SHA256["float16"]


def test_licences_travel_with_the_model() -> None:
    notice = (MODELS / "NOTICE.md").read_text(encoding="utf-8")
    assert CARD["sha256"] in notice
    texts = {path.name: path.read_text(encoding="utf-8") for path in (MODELS / "licences").iterdir()}
    assert all(f"licences/{name}" in notice for name in texts)
    assert "Copyright 2020-2021 RangiLyu" in texts["nanodet-Apache-2.0.txt"]
    assert "Apache License" in texts["nanodet-Apache-2.0.txt"]
    assert "Copyright (c) Vladimir Mandic" in texts["vladmandic-human-MIT.txt"]


def test_weights_are_stored_as_float16_behind_casts() -> None:
    assert MODEL.stat().st_size < 8e6
    graph = onnx.load(MODEL).graph
    stored = {initialiser.name: initialiser.data_type for initialiser in graph.initializer}
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    weights = [name for node in graph.node if node.op_type == "Conv" for name in node.input[1:]]
    assert len(weights) == 68
    assert {stored[casts[name]] for name in weights} == {TensorProto.FLOAT16}
    assert not [node.op_type for node in graph.node if node.op_type == "Pad"]


@pytest.mark.assets
def test_outputs_are_those_of_the_plain_export_with_a_fixed_input(assets: Path) -> None:
    ours, reference = session(MODEL), session(assets / "models" / "nanodet_g_416.onnx")
    names = [output.name for output in reference.get_outputs()]
    assert [output.name for output in ours.get_outputs()] == names
    noise = np.random.default_rng(1).normal(size=(1, 3, 416, 416)).astype(np.float32)
    bus = cv2.resize(cv2.imread(str(assets / "images" / "bus.jpg")), (416, 416))
    picture = np.ascontiguousarray((bus - np.float32(114)).transpose(2, 0, 1)[None] / np.float32(58))
    for images in (noise, picture):
        for mine, theirs in zip(
            ours.run(names, {"images": images}), reference.run(names, {"images": images}), strict=True
        ):
            # An input of open size is laid out otherwise, so sums are rounded otherwise.
            assert mine.shape == theirs.shape
            np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=2e-6)


def test_the_input_takes_any_multiple_of_32() -> None:
    ours = session(MODEL)
    outputs = ours.run(None, {"images": np.zeros((1, 3, 64, 96), np.float32)})
    assert [output.shape[:2] for output in outputs] == 2 * [(1, 96), (1, 24), (1, 6)]


# The recipe.


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_the_recipe_rebuilds_the_model_to_the_byte(
    nanodet_g: ModuleType, storage: str, tmp_path: Path
) -> None:
    tarball = os.environ.get("FRAMERAIL_NANODET_TARBALL")
    if tarball is None:
        pytest.skip(f"set FRAMERAIL_NANODET_TARBALL to the npm tarball of {nanodet_g.PACKAGE}")
    result = tmp_path / "model.onnx"
    nanodet_g.main(["--package", tarball, "--storage", storage, "--output", str(result)])
    if storage == "float16":
        assert result.read_bytes() == MODEL.read_bytes()
    assert hashlib.sha256(result.read_bytes()).hexdigest() == nanodet_g.RESULT_SHA256[storage]


def test_the_recipe_refuses_a_package_that_is_not_the_one_it_knows(
    nanodet_g: ModuleType, tmp_path: Path
) -> None:
    result = tmp_path / "model.onnx"
    with pytest.raises(SystemExit, match=r"cannot read models/nanodet\.json of .*expected the tarball of"):
        nanodet_g.main(["--package", str(tmp_path), "--output", str(result)])
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "nanodet.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"sha256 is 44136fa355b3.*, expected 4495eb0e"):
        nanodet_g.main(["--package", str(tmp_path), "--output", str(result)])
    not_a_tarball = tmp_path / "package.tgz"
    not_a_tarball.write_text("no")
    with pytest.raises(SystemExit, match="cannot read"):
        nanodet_g.main(["--package", str(not_a_tarball), "--output", str(result)])
    assert not result.exists()


def test_weights_that_float16_cannot_hold_are_refused(nanodet_g: ModuleType) -> None:
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "one_conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4, 4])],
        [numpy_helper.from_array(np.full((1, 1, 1, 1), 0.1, np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ValueError, match="w has values that float16 cannot hold"):
        nanodet_g.store_as_float16(model)
    # 0.1 rounded to float16 is a float16 number: that one is stored, and computes the same.
    half = np.full((1, 1, 1, 1), 0.1, np.float16)
    graph.initializer[0].CopyFrom(numpy_helper.from_array(half.astype(np.float32), "w"))
    model.graph.CopyFrom(graph)
    x = np.random.default_rng(2).normal(size=(1, 1, 4, 4)).astype(np.float32)
    before, after = (session(m).run(None, {"x": x})[0] for m in (model, nanodet_g.store_as_float16(model)))
    assert before.tobytes() == after.tobytes()


def test_weights_are_read_by_the_manifest(nanodet_g: ModuleType) -> None:
    halves, whole = np.array([[0.5, -2.0]], "<f2"), np.array([7, -1, 3], "<i4")
    data = {"a": halves.tobytes() + whole.tobytes()[:4], "b": whole.tobytes()[4:]}
    entries = [
        {"name": "h", "shape": [1, 2], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "i", "shape": [3], "dtype": "int32"},
    ]
    weights = nanodet_g.read_weights([{"paths": ["a", "b"], "weights": entries}], data.__getitem__)
    assert weights["h"].dtype == np.float32 and weights["h"].tolist() == halves.tolist()
    assert weights["i"].dtype == np.int64 and weights["i"].tolist() == whole.tolist()
    with pytest.raises(ValueError, match="hold 16 bytes; the manifest names 4"):
        nanodet_g.read_weights([{"paths": ["a", "b"], "weights": entries[:1]}], data.__getitem__)
    entries[0]["quantization"] = {"dtype": "uint8"}
    with pytest.raises(ValueError, match="'h' is stored as uint8"):
        nanodet_g.read_weights([{"paths": ["a", "b"], "weights": entries}], data.__getitem__)


# The converter, on a tiny graph of every operator it knows.


class Graph:
    """A TensorFlow.js topology in the making."""

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.weights: dict[str, np.ndarray[Any, Any]] = {}

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        name = f"const{len(self.weights)}"
        self.weights[name] = np.asarray(values, dtype)
        self.nodes.append({"name": name, "op": "Const"})
        return name

    def add(self, op: str, *operands: str, name: str | None = None, **attributes: Any) -> str:
        name = name or f"node{len(self.nodes)}"
        self.nodes.append({"name": name, "op": op, "input": list(operands), "attr": attributes})
        return name

    def transpose(self, x: str, *permutation: int) -> str:
        return self.add("Transpose", x, self.constant(permutation))

    def pad(self, x: str, pads: list[list[int]], value: float | None = None) -> str:
        operands = [x, self.constant(pads)]
        if value is None:
            return self.add("Pad", *operands)
        return self.add("PadV2", *operands, self.constant(value, np.float32))


def text(value: str) -> dict[str, str]:
    return {"s": base64.b64encode(value.encode()).decode()}


def integers(*values: int) -> dict[str, dict[str, list[str]]]:
    return {"list": {"i": [str(value) for value in values]}}


WINDOW = {"padding": text("VALID"), "data_format": text("NHWC"), "dilations": integers(1, 1, 1, 1)}
HALF_PIXEL = {"half_pixel_centers": {"b": True}, "align_corners": {"b": False}}


def windows(x: np.ndarray[Any, Any], size: tuple[int, int], stride: int) -> np.ndarray[Any, Any]:
    """[C, H, W] → [C, H', W', *size]."""
    views = np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))
    return views[:, ::stride, ::stride]


def doubled(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """[C, H, W] at twice the size: linear, half-pixel centres, edges repeated."""
    for axis in (1, 2):
        length = x.shape[axis]
        at = np.clip((np.arange(2 * length) + 0.5) / 2 - 0.5, 0, length - 1)
        low = np.floor(at).astype(int)
        share = np.expand_dims(at - low, [other for other in range(3) if other != axis])
        high = np.minimum(low + 1, length - 1)
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return x


@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(2, 6),
    width=st.integers(2, 6),
    channels=st.integers(1, 4),
    top=st.integers(0, 2),
    right=st.integers(0, 2),
)
@settings(max_examples=20, deadline=None)
def test_the_converter_computes_what_the_source_graph_means(
    nanodet_g: ModuleType, seed: int, height: int, width: int, channels: int, top: int, right: int
) -> None:
    rng = np.random.default_rng(seed)
    kernel, bias = rng.normal(size=(3, 2, 3, channels)), rng.normal(size=channels)
    image = rng.normal(size=(3, 2 * height + 1 - top, 2 * width - right)).astype(np.float32)
    sizes = [1, 2 * channels - 1]

    g = Graph()
    g.nodes.append({"name": "input_1", "op": "Placeholder"})
    padded = g.pad("input_1", [[0, 0], [0, 0], [top, 0], [0, right]])
    x = g.add(
        "Conv2D",
        g.transpose(padded, 0, 2, 3, 1),
        g.constant(kernel, np.float32),
        strides=integers(1, 2, 2, 1),
        **WINDOW,
    )
    x = g.transpose(g.add("Add", x, g.constant(bias, np.float32)), 0, 3, 1, 2)
    x = g.add("LeakyRelu", x, alpha={"f": 0.1})
    padded = g.transpose(g.pad(x, [[0, 0], [0, 0], [1, 1], [1, 1]], -np.inf), 0, 2, 3, 1)
    pool = {key: value for key, value in WINDOW.items() if key != "dilations"}
    pooled = g.add("MaxPool", padded, ksize=integers(1, 3, 3, 1), strides=integers(1, 1, 1, 1), **pool)
    both = g.add("ConcatV2", x, g.transpose(pooled, 0, 3, 1, 2), g.constant(1))
    larger = g.add(
        "ResizeBilinear", g.transpose(both, 0, 2, 3, 1), g.constant([2 * height, 2 * width]), **HALF_PIXEL
    )
    larger = g.transpose(larger, 0, 3, 1, 2)
    total = g.add("Add", larger, g.add("Sigmoid", larger))
    parts = g.add("SplitV", total, g.constant(sizes), g.constant(1))
    nothing = g.add(
        "SparseToDense", g.constant(np.zeros((0, 1))), g.constant([3]), g.constant([]), g.constant(0)
    )
    shape = g.add("AddV2", g.constant([1, sizes[1], -1]), nothing)
    flat = g.add("Reshape", f"{parts}:1", shape)
    g.add("Identity", g.transpose(flat, 0, 2, 1), name="Identity")
    g.add("Identity", g.transpose(g.transpose(parts, 0, 1, 3, 2), 0, 2, 3, 1), name="Identity_1")

    model = nanodet_g.Converter({"node": g.nodes}, g.weights).convert(
        {"input_1": ("images", (1, *image.shape))}, {"cells": "Identity", "turned": "Identity_1"}, "tiny"
    )
    cells, turned = session(model).run(["cells", "turned"], {"images": image[None]})

    expected = np.pad(image.astype(np.float64), ((0, 0), (top, 0), (0, right)))
    expected = np.einsum("chwij,ijco->ohw", windows(expected, (3, 2), 2), kernel) + bias[:, None, None]
    expected = np.where(expected < 0, 0.1 * expected, expected)
    surrounded = np.pad(expected, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    expected = doubled(np.concatenate([expected, windows(surrounded, (3, 3), 1).max((3, 4))]))
    expected = expected + 1 / (1 + np.exp(-expected))
    assert expected.shape == (2 * channels, 2 * height, 2 * width)
    np.testing.assert_allclose(turned, expected[:1].transpose(2, 1, 0)[None], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cells, expected[1:].reshape(sizes[1], -1).T[None], rtol=1e-5, atol=1e-5)
    # Nothing of the wrapping is left: the two Transposes are those of the outputs.
    ops = [node.op_type for node in model.graph.node]
    assert ops.count("Transpose") == 2 and "Pad" not in ops and ops.count("Add") == 1


def convert(nanodet_g: ModuleType, graph: Graph, output: str) -> onnx.ModelProto:
    graph.nodes.insert(0, {"name": "input_1", "op": "Placeholder"})
    converter = nanodet_g.Converter({"node": graph.nodes}, graph.weights)
    model: onnx.ModelProto = converter.convert({"input_1": ("images", (1, 2, 4, 4))}, {"out": output}, "bad")
    return model


def test_the_converter_guesses_nothing(nanodet_g: ModuleType) -> None:
    g = Graph()
    with pytest.raises(ValueError, match="no rule for operator Elu of 'node0'"):
        convert(nanodet_g, g, g.add("Elu", "input_1"))

    g = Graph()
    x = g.transpose(g.pad("input_1", [[0, 0], [0, 0], [1, 1], [1, 1]], 1.0), 0, 2, 3, 1)
    x = g.add(
        "Conv2D", x, g.constant(np.ones((3, 3, 2, 1)), np.float32), strides=integers(1, 1, 1, 1), **WINDOW
    )
    with pytest.raises(ValueError, match=r"Conv2D .* knows only one group and padding with 0"):
        convert(nanodet_g, g, x)

    g = Graph()
    x = g.transpose("input_1", 0, 2, 3, 1)
    x = g.add(
        "Conv2D", x, g.constant(np.ones((1, 1, 2, 3)), np.float32), strides=integers(1, 1, 1, 1), **WINDOW
    )
    with_bias = g.add("Add", x, g.constant([1, 2, 3], np.float32))
    # The Conv is read twice, with and without the bias: it may not be folded into it.
    with pytest.raises(ValueError, match="a bias of a Conv that nothing else reads"):
        convert(nanodet_g, g, g.add("Add", with_bias, x))

    g = Graph()
    with pytest.raises(ValueError, match="output 'out' does not depend on the input"):
        convert(nanodet_g, g, g.constant([1.0], np.float32))
