"""An upsampling goes behind the 1×1 convolution that takes it beside other parts, where that is the same."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import helper

from pipeline.runtime.rewrite import rewritten
from tests.test_rewrite import RNG, answers, write

SIZES = (32, 16, 16)


def neck(
    parts=("up", "a"),
    mode="nearest",
    places="asymmetric",
    scales=(1, 1, 2, 2),
    kernel=1,
    users=2,
    axis=1,
    **said,
):
    """The way down of a feature pyramid: the deeper picture, upsampled, beside shallower ones."""
    channels = {"up": SIZES[0], "a": SIZES[1], "b": SIZES[2], "up2": SIZES[0]}
    constants = {"scales": np.array(scales, np.float32), "none": np.zeros(0, np.float32)}
    nodes = []
    for name, (size, stride) in {"deep": (32, 2), "a": (16, 1), "b": (16, 1)}.items():
        constants[f"w.{name}"] = RNG.standard_normal((size, 3, 3, 3)).astype(np.float32)
        nodes.append(
            helper.make_node("Conv", ["x", f"w.{name}"], [f"c.{name}"], pads=[1] * 4, strides=[stride] * 2)
        )
        nodes.append(helper.make_node("Relu", [f"c.{name}"], [name]))
    for name in ("up", "up2") if "up2" in parts else ("up",):
        nodes.append(
            helper.make_node("Resize", ["deep", "none", "scales"], [name], mode=mode,
                             coordinate_transformation_mode=places, nearest_mode="floor")
        )  # fmt: skip
    nodes.append(helper.make_node("Concat", list(parts), ["joined"], axis=axis))
    total = sum(channels[part] for part in parts)
    for user in range(users):
        constants[f"w{user}"] = RNG.standard_normal(
            (24, total // said.get("group", 1), kernel, kernel)
        ).astype(np.float32)
        constants[f"b{user}"] = RNG.standard_normal(24).astype(np.float32)
        nodes.append(helper.make_node("Conv", ["joined", f"w{user}", f"b{user}"], [f"y{user}"], **said))
    return nodes, constants, [f"y{user}" for user in range(users)]


def operators_of(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


@pytest.mark.parametrize(
    "parts", [("up", "a"), ("a", "up"), ("a", "up", "b"), ("up2", "a", "up"), ("up", "up2")]
)
@pytest.mark.parametrize(("mode", "places"), [("nearest", "asymmetric"), ("linear", "half_pixel")])
@pytest.mark.parametrize("users", [1, 2])
def test_an_upsampling_goes_behind_its_convolution(tmp_path, parts, mode, places, users):
    nodes, constants, outputs = neck(parts, mode, places, users=users)
    path = write(tmp_path / "m.onnx", nodes, outputs, constants=constants)
    data = rewritten(path)
    assert data is not None
    made = operators_of(data)
    assert "Concat" not in made
    # Each upsampled part is now a convolution's 24 channels, no longer 32 before it.
    upsampled = sum(part.startswith("up") for part in parts)
    assert made.count("Resize") == upsampled * users
    assert made.count("Conv") == 3 + len(parts) * users
    feeds = {"x": RNG.standard_normal((1, 3, 16, 16)).astype(np.float32)}
    for before, after in zip(answers(path, feeds), answers(data, feeds), strict=True):
        assert before.shape == (1, 24, 16, 16)
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-4)


def test_what_comes_out_of_a_block_has_its_channels(tmp_path):
    """They are told from the convolutions behind, also through a concatenation."""
    nodes, constants, outputs = neck()
    at = next(index for index, node in enumerate(nodes) if node.op_type == "Resize")
    nodes[at].input[0] = "block"
    nodes.insert(at, helper.make_node("Concat", ["half", "half"], ["block"], axis=1))
    nodes.insert(at, helper.make_node("Conv", ["deep", "w.half"], ["half"]))
    constants["w.half"] = RNG.standard_normal((16, 32, 1, 1)).astype(np.float32)
    path = write(tmp_path / "m.onnx", nodes, outputs, constants=constants)
    data = rewritten(path)
    assert data is not None
    assert operators_of(data).count("Resize") == 2
    feeds = {"x": RNG.standard_normal((1, 3, 16, 16)).astype(np.float32)}
    for before, after in zip(answers(path, feeds), answers(data, feeds), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({"kernel": 3, "pads": [1, 1, 1, 1]}, id="looks beyond its place"),
        pytest.param({"strides": [2, 2]}, id="looks at every second place"),
        pytest.param({"pads": [1, 1, 1, 1]}, id="makes a rim"),
        pytest.param({"group": 2}, id="in groups"),
        pytest.param({"places": "tf_crop_and_resize"}, id="cut out"),
        pytest.param({"mode": "cubic"}, id="no mode that was tried"),
        pytest.param({"scales": (1, 1, 1, 1)}, id="not larger"),
    ],
)
def test_what_would_not_be_the_same_or_gains_nothing_is_left_alone(tmp_path, asked):
    if asked.get("places") == "tf_crop_and_resize":
        nodes, constants, outputs = neck(mode="linear", places="tf_crop_and_resize")
        constants["none"] = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)
    else:
        nodes, constants, outputs = neck(**asked)
    if asked.get("scales"):
        nodes[0].attribute[-1].ints[:] = [1, 1]  # as large as the others then
    path = write(tmp_path / "m.onnx", nodes, outputs, constants=constants)
    answers(path, {"x": RNG.standard_normal((1, 3, 16, 16)).astype(np.float32)})  # a sound model
    assert rewritten(path) is None


@pytest.mark.parametrize("used", ["joined", "up"])
@pytest.mark.parametrize("how", ["output", "node"])
def test_what_is_used_elsewhere_stays(tmp_path, used, how):
    nodes, constants, outputs = neck()
    if how == "node":
        nodes.append(helper.make_node("Neg", [used], ["z"]))
    path = write(
        tmp_path / "m.onnx", nodes, [*outputs, used if how == "output" else "z"], constants=constants
    )
    assert rewritten(path) is None


def test_weights_of_no_whole_blocks_are_left_alone(tmp_path):
    nodes, constants, outputs = neck()
    constants["w.deep"] = constants["w.deep"][:24]
    for user in range(2):
        constants[f"w{user}"] = constants[f"w{user}"][:, :40]
    path = write(tmp_path / "m.onnx", nodes, outputs, constants=constants)
    answers(path, {"x": RNG.standard_normal((1, 3, 16, 16)).astype(np.float32)})
    assert rewritten(path) is None


def resized(name, scales, constants, nodes, result):
    constants[f"s.{result}"] = np.array(scales, np.float32)
    nodes.append(helper.make_node("Resize", [name, "", f"s.{result}"], [result], mode="nearest"))


def test_channels_that_a_resize_changes_are_not_known(tmp_path):
    """Twice as many here, half as many there: the sum is right, and nothing else."""
    nodes, constants, _ = neck(parts=("up", "a"))
    (joined,) = [node for node in nodes if node.op_type == "Concat"]
    at = nodes.index(joined)
    more: list = []
    resized("a", (1, 2, 1, 1), constants, more, "a2")
    resized("b", (1, 1, 1, 1), constants, more, "bh")
    nodes[at:at] = more
    joined.input[:] = ["up", "a2", "bh"]
    constants["w.b"] = constants["w.b"][:8].repeat(4, axis=0)  # 32
    constants["s.bh"] = np.array([1, 0.5, 1, 1], np.float32)
    for user in range(2):
        constants[f"w{user}"] = RNG.standard_normal((24, 80, 1, 1)).astype(np.float32)
    path = write(tmp_path / "m.onnx", nodes, ["y0", "y1"], constants=constants)
    answers(path, {"x": RNG.standard_normal((1, 3, 16, 16)).astype(np.float32)})
    assert rewritten(path) is None


def test_one_part_alone_is_left_alone(tmp_path):
    nodes, constants, outputs = neck(parts=("up",))
    assert rewritten(write(tmp_path / "m.onnx", nodes, outputs, constants=constants)) is None


def test_a_long_way_back_to_a_convolution_is_not_gone(tmp_path):
    nodes, constants, outputs = neck()
    at = next(index for index, node in enumerate(nodes) if node.op_type == "Resize")
    names = ["deep", *(f"t{number}" for number in range(1200))]
    nodes[at:at] = [helper.make_node("Tanh", [a], [b]) for a, b in pairwise(names)]
    nodes[at + 1200].input[0] = names[-1]
    assert rewritten(write(tmp_path / "m.onnx", nodes, outputs, constants=constants)) is None
