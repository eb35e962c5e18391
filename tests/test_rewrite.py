"""Graphs rewritten for the CPU compute what they did, and only what is safe to rewrite is."""

from __future__ import annotations

import logging
from itertools import permutations, product
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline import Config
from pipeline.app import Pipeline
from pipeline.errors import ModelError
from pipeline.runtime.rewrite import rewritten
from pipeline.runtime.rewrite_rules import easiest
from pipeline.runtime.session import Session

RNG = np.random.default_rng(7)
CHANNELS = 32


def write(path: Path, nodes, outputs, *, constants=None, opset=17, inputs=(), shape=(1, 3, 16, 16)) -> Path:
    """A model of one input, ``x``; ``inputs``: constants that a caller may feed, as in exports of old."""
    constants = {name: np.asarray(value) for name, value in (constants or {}).items()}
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
        + [helper.make_tensor_value_info(name, TensorProto.FLOAT, constants[name].shape) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {"names": "kept"})
    onnx.save(model, path)
    return path


def weights(channels: int = CHANNELS):
    return {
        "w": RNG.standard_normal((channels, 3, 3, 3)).astype(np.float32),
        "b": RNG.standard_normal(channels).astype(np.float32),
        "sizes": np.array([16, channels - 16], np.int64),
    }


def block(activation: str = "SiLU", split: str = "h", **convolution):
    """A convolution, an activation and a split, whose first part is taken further, as in a C2f block."""
    act = {
        "SiLU": [helper.make_node("Sigmoid", ["c"], ["g"]), helper.make_node("Mul", ["c", "g"], ["h"])],
        "none": [helper.make_node("Identity", ["c"], ["h"])],
        "Relu": [helper.make_node("Relu", ["c"], ["h"])],
    }[activation]
    return [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], **convolution),
        *act,
        helper.make_node("Split", [split, "sizes"], ["p", "q"], axis=1),
        helper.make_node("Tanh", ["p"], ["t"]),
        helper.make_node("Concat", ["q", "t"], ["y"], axis=1),
    ]


def answers(model: Path | bytes, feeds):
    session = ort.InferenceSession(model if isinstance(model, bytes) else str(model))
    return session.run(None, feeds)


def compared(path: Path, shape=(1, 3, 16, 16)):
    """The operators of the rewritten graph, whose answers are those of the file."""
    data = rewritten(path)
    assert data is not None
    feeds = {"x": RNG.standard_normal(shape).astype(np.float32)}
    for before, after in zip(answers(path, feeds), answers(data, feeds), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    model = onnx.load_from_string(data)
    assert {each.key: each.value for each in model.metadata_props}["names"] == "kept"
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("activation", ["SiLU", "Relu", "none"])
@pytest.mark.parametrize("opset", [12, 17])
def test_a_split_is_taken_into_its_convolution(tmp_path, activation, opset):
    nodes = block(activation)
    if opset < 13:
        nodes[-3] = helper.make_node("Split", ["h"], ["p", "q"], axis=1, split=[16, 16])
    operators = compared(write(tmp_path / "m.onnx", nodes, ["y"], constants=weights(), opset=opset))
    assert "Split" not in operators
    assert operators.count("Conv") == 2


def test_a_bias_beside_its_convolution_hides_nothing(tmp_path):
    nodes = block()
    nodes[0] = helper.make_node("Conv", ["x", "w"], ["plain"], pads=[1, 1, 1, 1])
    nodes.insert(1, helper.make_node("Add", ["plain", "column"], ["c"]))
    constants = weights()
    constants["column"] = constants.pop("b").reshape(1, -1, 1, 1)
    assert "Split" not in compared(write(tmp_path / "m.onnx", nodes, ["y"], constants=constants))


def in_subgraph():
    """A branch that reads the activated convolution from outside."""

    def branch(name):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node("Neg", ["h"], [name])], name, [], [out])

    return [
        *block(),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["z"], then_branch=branch("a"), else_branch=branch("n")),
    ]


@pytest.mark.parametrize(
    ("nodes", "outputs", "constants"),
    [
        pytest.param(block(), ["y", "h"], {}, id="the whole is an output"),
        pytest.param(block(), ["y", "c"], {}, id="the convolution is an output"),
        pytest.param([*block(), helper.make_node("Neg", ["c"], ["z"])], ["y", "z"], {}, id="used elsewhere"),
        pytest.param(in_subgraph(), ["y", "z"], {"zero": np.float32(0)}, id="used in a subgraph"),
        pytest.param(block(), ["y"], {"sizes": np.array([12, 20], np.int64)}, id="parts of no whole block"),
    ],
)
def test_what_is_used_elsewhere_is_left_alone(tmp_path, nodes, outputs, constants):
    path = write(tmp_path / "m.onnx", nodes, outputs, constants=weights() | constants)
    assert rewritten(path) is None


def test_a_convolution_in_groups_is_left_alone(tmp_path):
    constants = weights() | {"w": RNG.standard_normal((CHANNELS, 1, 3, 3)).astype(np.float32)}
    nodes = block(group=4)
    path = write(tmp_path / "m.onnx", nodes, ["y"], constants=constants, shape=(1, 4, 16, 16))
    assert rewritten(path) is None


def test_weights_that_a_caller_may_feed_are_left_alone(tmp_path):
    path = write(tmp_path / "m.onnx", block(), ["y"], constants=weights(), inputs=["w"])
    assert rewritten(path) is None


def test_weights_in_another_file_are_left_alone(tmp_path):
    path = write(tmp_path / "m.onnx", block(), ["y"], constants=weights())
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert rewritten(path) is None


def distributions(first, axis, second):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=first),
        helper.make_node("Softmax", ["t"], ["s"], axis=axis),
    ]
    if second is None:
        return [*nodes, helper.make_node("Neg", ["s"], ["y"])]
    return [
        *nodes,
        helper.make_node("Transpose", ["s"], ["u"], perm=second),
        helper.make_node("Neg", ["u"], ["y"]),
    ]


@pytest.mark.parametrize(
    ("first", "axis", "second", "opset"),
    [
        pytest.param([0, 3, 1, 2], 3, [0, 3, 2, 1], 12, id="as exports of opset 12 have it"),
        pytest.param([0, 2, 1, 3], 1, None, 17, id="as those of opset 13 and later"),
        pytest.param([0, 3, 2, 1], -1, None, 17, id="counted from behind"),
    ],
)
def test_a_softmax_stands_between_transpositions_of_one_axis(tmp_path, first, axis, second, opset):
    shape = (1, 4, 16, 21)
    path = write(tmp_path / "m.onnx", distributions(first, axis, second), ["y"], opset=opset, shape=shape)
    assert compared(path, shape) == ["Transpose", "Softmax", "Transpose", "Neg"]


def test_a_softmax_over_all_further_axes_is_left_alone(tmp_path):
    """Before opset 13 one over axis 1 was over all from there on."""
    nodes = distributions([0, 2, 1, 3], 1, None)
    assert rewritten(write(tmp_path / "m.onnx", nodes, ["y"], opset=12, shape=(1, 4, 16, 21))) is None


@pytest.mark.parametrize("axis", range(4))
def test_the_way_there_and_back_is_the_same_permutation(axis):
    found = 0
    for first, second in product(permutations(range(4)), repeat=2):
        way = easiest(first, axis, second)
        if way is None:
            continue
        there, back = way
        assert [there[each] for each in back] == [first[each] for each in second]
        assert there[-1] == first[axis]
        found += 1
    assert found > 50


def test_nothing_to_gain(tmp_path, cheap_model):
    assert rewritten(Path(cheap_model)) is None


def test_a_file_that_cannot_be_loaded_is_refused_in_one_line(tmp_path):
    path = write(tmp_path / "m.onnx", [*block(), helper.make_node("Nonsense", ["y"], ["z"])], ["z"],
                 constants=weights())  # fmt: skip
    with pytest.raises(ModelError, match=r"m\.onnx"):
        Session(path)


def test_a_session_runs_the_rewritten_graph_unless_told_not_to(tmp_path, caplog):
    path = write(tmp_path / "m.onnx", block(), ["y"], constants=weights())
    with caplog.at_level(logging.INFO):
        told = Session(path)
    assert "1 split" in caplog.text
    plain = Session(path, rewrite=False)
    assert sum(told.nodes.values()) != sum(plain.nodes.values())
    blob = RNG.standard_normal((1, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(told.run(blob)[0], plain.run(blob)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.assets
@pytest.mark.parametrize("name", ["yolov8n_640_deq", "yolov8n-seg_320_deq", "yolov8n_int8_msh"])
def test_of_a_real_model_the_answers_stay_bit_for_bit(assets, name):
    path = assets / "models" / f"{name}.onnx"
    session = ort.InferenceSession(str(path))
    shape = [side if isinstance(side, int) else 640 for side in session.get_inputs()[0].shape[2:]]
    feeds = {session.get_inputs()[0].name: RNG.random((1, 3, *shape), np.float32)}
    data = rewritten(path)
    assert data is not None
    for before, after in zip(session.run(None, feeds), answers(data, feeds), strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.assets
@pytest.mark.parametrize("rewrite", [True, False])
def test_the_line_does_what_its_config_says(assets, caplog, rewrite):
    path = str(assets / "models" / "yolov8n-seg_320_deq.onnx")
    config = Config(streams=[{"source": "synthetic:64x48@30"}], model=path, rewrite=rewrite, provider="cpu")
    with caplog.at_level(logging.INFO), Pipeline(config):
        assert ("rewritten for the CPU" in caplog.text) == rewrite
