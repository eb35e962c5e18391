"""``framerail models quantize``: what is quantised, what is kept, what is accepted."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from rich.console import Console

from pipeline import Detector
from pipeline.copies.loss import Options
from pipeline.copies.quantize import _counts, quantize
from pipeline.copies.trial import Telling, agreement, rank
from pipeline.detections import Detections
from pipeline.errors import ConfigError, DependencyError, ModelError, NotAcceptedError, SinkOpenError
from pipeline.placing import check_place
from pipeline.quantization import check_tools, half, int8
from pipeline.quantization.prepared import prepare
from pipeline.quantization.structure import WEIGHTED, Structure
from pipeline.runtime.damage import damage
from pipeline.runtime.model import open_model
from pipeline.runtime.operators import operators, quantised
from tests.command import framerail
from tests.tiny_detector import NAMES, coloured, write_coloured, write_tiny_detector

pytest.importorskip("faster_coco_eval", reason="needs the extra eval")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures to calibrate on."""
    return write_coloured(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_detector(tmp_path_factory.mktemp("tiny") / "tiny.onnx")


def run(model: Path, folder: Path, target: Path, **options: Any) -> dict[str, Any]:
    """The report, from what is written to standard output as JSON."""
    given = Options(model=str(model), calibrate=[str(folder)], output=str(target), **{"frames": 6, **options})
    quiet = Console(file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        shown = io.StringIO()
        patch.setattr(sys, "stdout", shown)
        quantize(given, quiet, quiet, as_json=True)
    report: dict[str, Any] = json.loads(shown.getvalue())
    return report


def test_a_copy_detects_the_same_and_needs_nothing_beside_it(
    tiny: Path, folder: Path, tmp_path: Path
) -> None:
    report = run(tiny, folder, tmp_path / "small.onnx")
    assert report["accepted"] and report["measured"]["loss"] <= 0.1
    assert report["in_float"] == {} and report["layers"] == 3
    assert report["ms_one_thread"].keys() == {"source", "copy"}
    whole, small = Detector(str(tiny)), Detector(str(tmp_path / "small.onnx"))
    for seed in range(100, 105):
        common, there = agreement(whole.detect(coloured(seed)), small.detect(coloured(seed)))
        assert common / there > 0.9
    model = small.model
    assert (model.family.name, tuple(model.labels), model.stated) == ("yolov8", NAMES, True)
    assert model.spec == whole.model.spec
    metadata = model.session.metadata
    assert metadata["author"] == "tests" and metadata["names"] == repr(dict(enumerate(NAMES)))
    said = json.loads(metadata["framerail.quantized"])
    assert said["source"] == {"name": "tiny", "sha256": whole.model.sha256}
    assert said["measured"] == report["measured"]
    assert "onnxruntime" in said["made_by"]
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]


def test_the_body_is_u8s8_per_channel_and_the_tail_is_float(tiny: Path, folder: Path, tmp_path: Path) -> None:
    run(tiny, folder, tmp_path / "small.onnx")
    model = onnx.load(tmp_path / "small.onnx")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3
    for node in convolutions:
        fed, weights = (producers[name] for name in node.input[:2])
        assert fed.op_type == weights.op_type == "DequantizeLinear"
        assert tensors[weights.input[0]].data_type == onnx.TensorProto.INT8
        assert tensors[weights.input[1]].dims, "one scale for each channel"
        assert tensors[fed.input[2]].data_type == onnx.TensorProto.UINT8
    # Nothing behind the last convolution's output is rounded: the sigmoid, the coordinates.
    for node in model.graph.node:
        if node.op_type in ("Sigmoid", "Split", "Sub", "Mul", "Add", "Concat"):
            assert all(
                producers[name].op_type != "DequantizeLinear" for name in node.input if name in producers
            )


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_methods_keep_standard_output_for_the_report(
    method: str, tiny: Path, folder: Path, tmp_path: Path
) -> None:
    report = run(tiny, folder, tmp_path / "small.onnx", method=method, max_ap_loss=1.0)
    assert report["method"] == method and report["frames"] == 6


def test_the_layer_that_hurts_is_found_and_kept(folder: Path, tmp_path: Path) -> None:
    model = write_tiny_detector(tmp_path / "tiny.onnx", outlier=3000.0)
    with pytest.raises(NotAcceptedError, match=r"loss of [01]\.\d+ is over the limit, 0\.1"):
        run(model, folder, tmp_path / "none.onnx", float_layers=0)
    report = run(model, folder, tmp_path / "small.onnx")
    first, second = report["tried"]
    assert first["in_float"] == 0 and first["loss"] > 0.5
    assert second["in_float"] == 2 and second["loss"] < 0.1
    # What it gives is rounded, and what takes it is fed that.
    assert set(report["in_float"]) == {"second", "third"}
    assert min(report["in_float"].values()) > 0.3
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.onnx", "small.onnx"}


def test_labelled_pictures_say_what_is_lost(tiny: Path, folder: Path, tmp_path: Path) -> None:
    whole = Detector(str(tiny))
    annotations, images = [], []
    for index in range(8):
        images.append({"id": index, "file_name": f"{index:02}.png"})
        found = whole.detect(coloured(index))
        for box, _, class_id, _ in found:
            x, y, right, bottom = map(float, box)
            annotations.append(
                {"image_id": index, "category_id": class_id, "bbox": [x, y, right - x, bottom - y]}
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(NAMES)]
    labels = tmp_path / "instances.json"
    labels.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    report = run(
        tiny, folder, tmp_path / "small.onnx", images=str(folder), annotations=str(labels), max_ap_loss=0.05
    )
    assert report["measured"]["truth"] == "instances.json"
    assert report["measured"]["AP_before"]["AP"] > 0.95
    lost = report["measured"]["AP_before"]["AP"] - report["measured"]["AP"]["AP"]
    assert report["measured"]["loss"] == pytest.approx(lost, abs=1e-5)


def test_float16_takes_half_and_gives_float32(tiny: Path, folder: Path, tmp_path: Path) -> None:
    report = run(tiny, folder, tmp_path / "half.onnx", precision="fp16")
    assert report["accepted"] and report["measured"]["loss"] < 0.02
    model = onnx.load(tmp_path / "half.onnx")
    onnx.checker.check_model(model)
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    # One cast, where the tail begins: the converter's own pairs would round the coordinates.
    assert operators(tmp_path / "half.onnx")["Cast"] == 1
    boxes = [Detector(str(path)).detect(coloured(1)).xyxy for path in (tiny, tmp_path / "half.onnx")]
    np.testing.assert_allclose(*boxes, atol=0.05)


def test_float16_of_what_two_nodes_take(tmp_path: Path) -> None:
    """The converter casts once for each node that stays float32; a name may be given once."""
    path = write_tiny_detector(tmp_path / "tiny.onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        # The tail now takes the last convolution twice.
        if node.op_type == "Split":
            model.graph.node.append(onnx.helper.make_node("Sigmoid", ["c3"], ["beside"], name="beside"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("beside", 1, [1, 7, 8, 8]))
    onnx.save(model, path)
    (tmp_path / "work").mkdir()
    copy = half.half_copy(prepare(path, tmp_path / "work"), "images")
    onnx.checker.check_model(copy)
    assert sum(node.op_type == "Cast" for node in copy.graph.node) == 1


def test_a_card_beside_the_model_goes_into_the_copy(folder: Path, tmp_path: Path) -> None:
    write_tiny_detector(tmp_path / "tiny.onnx")
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\nfile = "tiny.onnx"\nfamily = "yolov8"\n'
        'labels = ["R", "G", "B"]\nconf_threshold = 0.6\n'
        '[input]\nalign = "top-left"\npad = 7\n[params]\nmulti_label = true\n'
    )
    run(tmp_path / "tiny.onnx", folder, tmp_path / "small.onnx")
    model = Detector(str(tmp_path / "small.onnx")).model
    assert (tuple(model.labels), model.conf_threshold) == (("R", "G", "B"), 0.6)
    assert (model.spec.align, model.spec.pad, model.params["multi_label"]) == ("top-left", 7, True)


# The graph ---------------------------------------------------------------------------------------


def test_units_and_tail(tmp_path: Path) -> None:
    path = write_tiny_detector(tmp_path / "tiny.onnx", names=False)
    structure = prepare(path, tmp_path).structure
    kinds = {node.name: node.op_type for node in structure.graph.node}
    assert len(kinds) == len(structure.graph.node), "each node has a name of its own"
    units = [[kinds[name] for name in unit] for unit in structure.units(int8.OPERATORS)]
    assert units == [["Conv", "Relu"], ["Conv", "Relu"], ["Conv"]]
    tail = {kinds[name] for name in structure.tail()}
    assert tail == {"Reshape", "Split", "Add", "Mul", "Sub", "Sigmoid", "Concat"}


def graph(*nodes: tuple[str, str, str]) -> Structure:
    """Nodes as (operator, inputs, output); names of outputs are names of nodes."""
    made = [onnx.helper.make_node(op, fed.split(), [given], name=given) for op, fed, given in nodes]
    return Structure(onnx.helper.make_graph(made, "g", [], []))


def test_the_expectation_over_bins_is_no_layer() -> None:
    """Ultralytics' head: conv → softmax → conv with 0, 1, 2, …; attention has a softmax and then weights."""
    head = graph(("Conv", "x w", "c"), ("Relu", "c", "r"), ("Softmax", "r", "s"), ("Conv", "s bins", "e"))
    assert [node.name for node in head.convolutions] == ["c"]
    assert head.tail() == {"r", "s", "e"}
    attention = graph(
        ("Conv", "x w", "c"),
        ("Softmax", "c", "s"),
        ("MatMul", "c s", "m"),
        ("Conv", "m w", "d"),
        ("Exp", "d", "e"),
    )
    assert [node.name for node in attention.convolutions] == ["c", "d"]
    assert attention.tail() == {"e"}


def test_a_transformer_after_the_last_convolution_is_tail_for_int8_only() -> None:
    decoder = graph(("Conv", "x w", "c"), ("MatMul", "c w", "m"), ("Sigmoid", "m", "s"))
    assert decoder.tail() == {"m", "s"}
    assert decoder.tail(WEIGHTED) == {"s"}


def test_a_swish_is_one_unit_and_a_sum_of_branches_its_own() -> None:
    swish = graph(
        ("Conv", "x w", "c"), ("Sigmoid", "c", "s"), ("Mul", "c s", "m"),
        ("Conv", "m w", "d"), ("Add", "d m", "a"), ("Conv", "a w", "e"),
    )  # fmt: skip
    assert [set(unit) for unit in swish.units(int8.OPERATORS)] == [{"c", "s", "m"}, {"d"}, {"e"}, {"a"}]


def test_opset_11_and_weights_among_the_inputs(tmp_path: Path) -> None:
    path = write_tiny_detector(tmp_path / "tiny.onnx", opset=13)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    onnx.save(model, path)
    (tmp_path / "work").mkdir()
    prepared = prepare(path, tmp_path / "work")
    assert [tensor.name for tensor in prepared.structure.graph.input] == ["images"]


# What is told -----------------------------------------------------------------------------------


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    array = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(array[:, :4].copy(), array[:, 4].copy(), array[:, 5].astype(np.int32))


def test_agreement() -> None:
    one = found((0, 0, 10, 10, 0.8, 0), (20, 0, 30, 10, 0.4, 1))
    assert np.divide(*agreement(one, one)) == pytest.approx(1)
    assert agreement(one, found()) == pytest.approx((0, 1.2))
    # The same box in another class has nothing in common; half the box and half the score a quarter.
    assert agreement(one, found((0, 0, 10, 10, 0.8, 2)))[0] == 0
    assert agreement(one, found((0, 0, 10, 5, 0.4, 0)))[0] == pytest.approx(2 * 0.5 * 0.4)
    # Two answers to one object: one of them counts.
    twice = found((0, 0, 10, 10, 0.8, 0), (0, 0, 10, 10, 0.8, 0))
    assert agreement(found((0, 0, 10, 10, 0.8, 0)), twice) == pytest.approx((1.6, 2.4))


def test_ranking_keeps_to_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("pipeline.copies.trial.time.monotonic", lambda: clock[0])
    frames_tried = []

    def damage_of(unit: tuple[str, ...], frames: int) -> float:
        clock[0] += frames
        frames_tried.append(frames)
        return {"a": 0.1, "b": 0.3}.get(unit[0], 0.0)

    units = [(name,) for name in "abcd"]
    ranking = rank(units, damage_of, 8, 100, lambda items, _: items)
    assert (list(ranking.damage)[:2], ranking.untried, frames_tried) == (["b", "a"], 0, [8] * 4)
    frames_tried.clear()
    ranking = rank(units, damage_of, 8, 12, lambda items, _: items)
    assert frames_tried == [8, 3, 3] and ranking.untried == 1 and next(iter(ranking.damage)) == "b"


def test_tries_double() -> None:
    assert _counts(None, 63) == [0, 2, 4, 8, 16]
    assert _counts(None, 3) == [0, 2]
    assert _counts(5, 63) == [5]
    assert _counts(99, 63) == [63]


# What is refused --------------------------------------------------------------------------------


def test_over_the_limit_no_file_is_written(folder: Path, tmp_path: Path) -> None:
    bad = write_tiny_detector(tmp_path / "tiny.onnx", outlier=3000.0)
    (tmp_path / "small.onnx").write_bytes(b"what was there")
    with pytest.raises(NotAcceptedError, match=r"AP 1\.0000 → 0.*no file is written: try") as caught:
        run(bad, folder, tmp_path / "small.onnx", float_layers=0)
    assert caught.value.exit_code == 4
    assert (tmp_path / "small.onnx").read_bytes() == b"what was there"


def test_a_quantised_model_is_not_quantised_again(tiny: Path, folder: Path, tmp_path: Path) -> None:
    run(tiny, folder, tmp_path / "small.onnx")
    with pytest.raises(ModelError, match=r"quantised already, static int8 \(QuantizeLinear ×\d+\)"):
        run(tmp_path / "small.onnx", folder, tmp_path / "smaller.onnx")


def test_footage_without_anything_in_it(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="sees nothing in 5 frames"):
        cv2.imwrite(str(tmp_path / "black.png"), np.zeros((64, 64, 3), np.uint8))
        folder = tmp_path / "black"
        folder.mkdir()
        for index in range(5):
            cv2.imwrite(str(folder / f"{index}.png"), np.zeros((64, 64, 3), np.uint8))
        run(tiny, folder, tmp_path / "small.onnx")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"precision": "int4"}, "--precision: expected one of int8, fp16"),
        ({"method": "max"}, "--method: expected one of minmax"),
        ({"frames": 0}, "--frames"),
        ({"float_layers": -1}, "--float-layers"),
        ({"seconds": 0.0}, "--seconds"),
        ({"max_ap_loss": 2.0}, "--max-ap-loss"),
        ({"images": "x"}, "--images DIR and --annotations FILE.json together"),
        ({"output": "x.pt"}, "--output: expected the name of an .onnx file"),
        ({"calibrate": []}, "--calibrate: give footage"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Options(**{"model": "m.onnx", "calibrate": ["x"], **options}).check()


def test_the_model_is_not_overwritten(tiny: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="it would overwrite"):
        run(tiny, folder, tiny)


def test_without_onnx_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(DependencyError, match=r"pip install 'framerail\[convert\]'"):
        check_tools()


def test_only_the_fullest_frames_are_kept() -> None:
    class Sight:
        def __init__(self, *confidence: float) -> None:
            self.seen = found(*[(0, 0, 1, 1, each, 0) for each in confidence])

    sights = [Sight(0.2), Sight(), Sight(0.9), Sight(0.5, 0.6)]
    telling = Telling(2)
    assert list(telling(sights)) == sights  # type: ignore[arg-type, comparison-overlap]
    assert telling.best == [sights[3], sights[2]] and telling.frames == 4


# Operators of a file, and damage ----------------------------------------------------------------


def test_operators_are_those_that_onnx_reads(tiny: Path, assets: Path) -> None:
    from collections import Counter

    for path in (
        tiny,
        assets / "models" / "deimv2_atto_int8_msh.onnx",
        assets / "models" / "yolox_nano.onnx",
    ):
        graph = onnx.load(path).graph
        assert operators(path) == Counter(node.op_type for node in graph.node)
    assert quantised(tiny) == "" and quantised(assets / "models" / "yolo26n_deq.onnx") == ""


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    for data in (b"", b"no ONNX file at all", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 40):
        (tmp_path / "x.onnx").write_bytes(data)
        with pytest.raises(ModelError, match=r"cannot read the operators of .*x\.onnx"):
            operators(tmp_path / "x.onnx")


@pytest.mark.assets
def test_a_bad_quantisation_is_recognised_and_good_ones_are_not(assets: Path) -> None:
    models = assets / "models"
    assert "damaged by its quantisation, dynamic int8" in damage(
        open_model(str(models / "deimv2_atto_int8_msh.onnx"), "cpu")
    )
    assert damage(open_model(str(models / "yolov8n_int8_msh.onnx"), "cpu")) == ""


def test_the_command_says_all_of_it(tiny: Path, folder: Path, tmp_path: Path) -> None:
    done = framerail("models", "quantize", "--help")
    for word in ("--calibrate", "--max-ap-loss", "exit code 4", "framerail models quantize yolov8n.onnx"):
        assert word in done.stdout
    given = [str(tiny), "--calibrate", str(folder), "--frames", "6", "-o", str(tmp_path / "small.onnx")]
    done = framerail("models", "quantize", *given, "--max-ap-loss", "-1")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "--max-ap-loss: expected 0 to 1" in done.stderr
    done = framerail("models", "quantize", *given)
    assert (done.returncode, done.stderr) == (0, "")
    assert "one thread" in done.stdout and "0 of 3 layers in float" in done.stdout


@pytest.mark.assets
@pytest.mark.timeout(150)
def test_a_real_model_keeps_its_detections(assets: Path, tmp_path: Path) -> None:
    clip = assets / "videos" / "o4n_people.mp4"
    report = run(
        assets / "models" / "nanodet_g_416.onnx", clip, tmp_path / "small.onnx", frames=8, max_ap_loss=0.2
    )
    assert report["accepted"] and report["in_float"] == {} and report["layers"] == 54
    assert report["bytes"] < 0.3 * report["source_bytes"]


def test_where_nothing_can_be_written_is_said_first(
    tiny: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    cannot = [(tmp_path / "file" / "x.onnx", "there is no folder"), (tmp_path, "it is a folder")]
    if sys.platform == "linux":  # root may write there by its permission bits, and nobody can
        cannot.append((Path("/proc/x.onnx"), "the folder /proc cannot be written to"))
    for target, why in cannot:
        with pytest.raises(SinkOpenError, match=f"cannot write .*: {why}.*; choose another name"):
            check_place(target)
    monkeypatch.setattr("pipeline.copies.quantize.loss_of", None)  # nobody gets so far
    with pytest.raises(SinkOpenError, match="there is no folder"):
        run(tiny, folder, tmp_path / "file" / "x.onnx")
