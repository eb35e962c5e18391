"""Graphs rewritten for the CPU compute what they did, and only what is safe to rewrite is."""

from __future__ import annotations

import logging
import tempfile
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


def in_subgraph(read="h", inner="i"):
    """A branch that reads a value from outside, and one of its own by the name of ``inner``."""

    def branch(name):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        first = inner if name == "a" else "j"
        nodes = [helper.make_node("Neg", [read], [first]), helper.make_node("Abs", [first], [name])]
        return helper.make_graph(nodes, name, [], [out])

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


SHARED = [
    helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
    helper.make_node("Split", ["c", "sizes"], ["p", "q"], axis=1),
    helper.make_node("Conv", ["x", "w"], ["d"]),
    helper.make_node("Split", ["d", "others"], ["r", "s"], axis=1),
    helper.make_node("Conv", ["x", "w"], ["whole"], strides=[2, 2]),
]


def test_weights_that_convolutions_share_are_cut_for_each(tmp_path):
    constants = weights(64) | {"others": np.array([32, 32], np.int64)}
    path = write(tmp_path / "m.onnx", SHARED, ["p", "q", "r", "s", "whole"], constants=constants)
    assert compared(path).count("Conv") == 5


def renamed(nodes, **names):
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return nodes


@pytest.mark.parametrize("name", ["p/Conv", "q/Sigmoid", "w/0", "b/16"])
@pytest.mark.parametrize("what", ["tensor", "constant", "output", "node", "inner"])
def test_names_that_are_taken_stay_what_they_are(tmp_path, name, what):
    constants, outputs = weights(), ["y", "z"]
    nodes = [helper.make_node("Neg", ["x"], ["taken"]), *block(), helper.make_node("Abs", ["taken"], ["z"])]
    if what == "constant":
        nodes = [*block(), helper.make_node("Mul", ["x", "taken"], ["z"])]
        constants[name] = np.ones((1, 3, 1, 1), np.float32)
    elif what == "output":
        outputs = ["y", "z", name]
    elif what == "node":
        nodes[0].name = name
    elif what == "inner":
        nodes = in_subgraph("x", name)
        constants["zero"] = np.float32(0)
    nodes = nodes if what == "node" else renamed(nodes, taken=name)
    assert "Split" not in compared(write(tmp_path / "m.onnx", nodes, outputs, constants=constants))


def test_a_node_that_is_called_as_a_part_is(tmp_path):
    nodes = block()
    nodes[0].name, nodes[-1].name = "p", "q"
    assert "Split" not in compared(write(tmp_path / "m.onnx", nodes, ["y"], constants=weights()))


def test_parts_that_nobody_takes_or_that_are_empty_are_left_alone(tmp_path):
    nodes = block()
    nodes[-3].output[1] = ""
    nodes[-1] = helper.make_node("Neg", ["t"], ["y"])
    assert rewritten(write(tmp_path / "m.onnx", nodes, ["y"], constants=weights())) is None
    constants = weights() | {"sizes": np.array([32, 0], np.int64)}
    assert rewritten(write(tmp_path / "n.onnx", block(), ["y"], constants=constants)) is None


def test_constants_that_become_inputs_in_a_file_of_old_are_left_alone(tmp_path):
    """In files of IR version 3 every weight is an input; ONNX Runtime makes folded constants so too."""
    nodes = [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights()["w"])), *block()]
    nodes[1] = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])
    nodes[-3] = helper.make_node("Split", ["h"], ["p", "q"], axis=1, split=[16, 16])
    path = write(tmp_path / "m.onnx", nodes, ["y"], opset=9)
    model = onnx.load(path)
    model.ir_version = 3
    onnx.save(model, path)
    assert Session(path).run(np.zeros((1, 3, 16, 16), np.float32))[0].shape == (1, CHANNELS, 16, 16)


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


def test_a_transposition_between_two_softmaxes_goes_once(tmp_path):
    """Before opset 13, where ONNX Runtime does not move it away itself."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[3, 1, 0, 2]),
        helper.make_node("Softmax", ["t"], ["s"], axis=3),
        helper.make_node("Transpose", ["s"], ["u"], perm=[3, 2, 0, 1]),
        helper.make_node("Softmax", ["u"], ["v"], axis=3),
        helper.make_node("Transpose", ["v"], ["y"], perm=[0, 2, 1, 3]),
    ]
    shape = (2, 4, 6, 5)
    operators = compared(write(tmp_path / "m.onnx", nodes, ["y"], opset=12, shape=shape), shape)
    assert operators.count("Softmax") == 2


@pytest.mark.parametrize("name", ["y/there", "y/last"])
def test_names_beside_a_softmax_that_are_taken_stay_what_they_are(tmp_path, name):
    nodes = [
        helper.make_node("Abs", ["x"], [name]),
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Softmax", ["t"], ["y"], axis=1),
    ]
    shape = (1, 4, 16, 21)
    assert "Softmax" in compared(write(tmp_path / "m.onnx", nodes, ["y", name], shape=shape), shape)


def test_softmaxes_of_many_axes_are_left_alone(tmp_path):
    """Nine axes but one have 40,320 orders."""
    nodes = distributions([0, *range(8, 0, -1)], 1, None)
    assert rewritten(write(tmp_path / "m.onnx", nodes, ["y"], shape=(2,) * 9)) is None


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
    assert "splits taken into their convolutions: 1" in caplog.text
    plain = Session(path, rewrite=False)
    assert sum(told.nodes.values()) != sum(plain.nodes.values())
    blob = RNG.standard_normal((1, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(told.run(blob)[0], plain.run(blob)[0], rtol=1e-5, atol=1e-6)


def external(values: list[float], folder: Path):
    """A tensor ``e`` that is in a file of its own, and its file."""
    tensor = numpy_helper.from_array(np.asarray(values, np.float32), "e")
    (folder / "e.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="e.bin")
    return tensor


@pytest.mark.parametrize("inside", [False, True])
def test_constants_in_another_file_are_left_alone(tmp_path, inside):
    tensor = external([2.0], tmp_path)
    if inside:
        nodes = in_subgraph("x", "i")
        for branch in nodes[-1].attribute:
            branch.g.initializer.append(tensor)
            branch.g.node[0].CopyFrom(helper.make_node("Mul", ["x", "e"], branch.g.node[0].output))
    else:
        constant = helper.make_node("Constant", [], ["e"], value=tensor)
        nodes = [constant, *block(), helper.make_node("Mul", ["x", "e"], ["z"])]
    constants = weights() | {"zero": np.float32(0)}
    session = Session(write(tmp_path / "m.onnx", nodes, ["y", "z"], constants=constants))
    blob = RNG.standard_normal((1, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(session.run(blob)[1], np.abs(2 * blob) if inside else 2 * blob)


def test_without_a_folder_for_temporary_files_the_graph_runs_as_it_is(tmp_path, monkeypatch, caplog):
    path = write(tmp_path / "m.onnx", block(), ["y"], constants=weights())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    session = Session(path)
    assert sum(session.nodes.values()) == sum(Session(path, rewrite=False).nodes.values())
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith("m.onnx: its graph runs as it is in the file")
    assert "nowhere" in said


def test_a_rewritten_session_keeps_no_copy_of_the_file(tmp_path):
    constants = {name: np.repeat(value, 64, axis=0) for name, value in weights().items() if name != "sizes"}
    constants["sizes"] = np.array([1024, 1024], np.int64)
    path = write(tmp_path / "m.onnx", block(), ["y"], constants=constants)
    session = Session(path)
    held = [value for value in vars(session._session).values() if isinstance(value, bytes)]
    assert sum(map(len, held)) < path.stat().st_size / 2


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
