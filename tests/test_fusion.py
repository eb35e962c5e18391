"""Graphs that do their own preprocessing answer as they did, on every kind of input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cheap_model import write_cheap_model
from pipeline import profiles
from pipeline.app import Pipeline
from pipeline.bench.axes import parse_sweep, points
from pipeline.bench.point import _on_one_thread
from pipeline.commands.tune import Options, _steps
from pipeline.config import Config, make_config
from pipeline.errors import ModelError
from pipeline.runtime import engines, fusion
from pipeline.runtime.catalog import locate
from pipeline.runtime.fusion import Fusion
from pipeline.runtime.model import Model, fusion_for, open_model
from pipeline.runtime.provider_table import Placement
from pipeline.runtime.session import Session
from pipeline.runtime.trial import photograph
from pipeline.sample import SAMPLE
from pipeline.vision.blobber import Blobber
from pipeline.vision.letterbox import InputSpec
from tests import fake_provider
from tests.constant_models import constant_model
from tests.test_cli import assert_one_line, framerail
from tests.test_stages_classify import write_colour_classifier
from tests.tiny_detector import write_tiny_detector

FLOATS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
PIXELS = {"dtype": np.dtype(np.uint8), "layout": "NHWC", "color": "BGR", "mean": (0,) * 3, "std": (1,) * 3}


def write(
    path: Path,
    spec: InputSpec,
    *,
    shape: tuple[Any, ...] | None = None,
    dtype: int | None = None,
    opset: int = 17,
    operator: str = "Identity",
    beside: bool = False,
) -> Path:
    """A model that answers with its input, and with what stands beside that."""
    dtype = FLOATS[spec.dtype.name] if dtype is None else dtype
    shape = spec.blob_shape if shape is None else shape
    nodes = [helper.make_node(operator, ["x"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", dtype, shape)]
    outputs = [helper.make_tensor_value_info("y", dtype, None)]
    if beside:
        nodes.append(helper.make_node("Identity", ["orig_target_sizes"], ["sizes"]))
        inputs.insert(0, helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["n", 2]))
        outputs.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, None))
    graph = helper.make_graph(nodes, "echo", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)
    helper.set_model_props(model, {"names": "kept"})
    onnx.save(model, path)
    return path


PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def fusion_of(path: Path, spec: InputSpec) -> Fusion:
    (image,) = (each for each in Session(path, "cpu").inputs if each.name == "x")
    return Fusion.of(path, image, spec)


triples = st.tuples(*[st.floats(0, 255, width=32)] * 3)
scales = st.tuples(*[st.floats(0.25, 255, width=32)] * 3)
specs = st.builds(
    InputSpec,
    height=st.sampled_from([4, 32]),
    width=st.sampled_from([5, 48]),
    color=st.sampled_from(["RGB", "BGR"]),
    mean=st.just((0.0, 0.0, 0.0)) | triples,
    std=st.sampled_from([(1.0,) * 3, (255.0,) * 3]) | scales,
    resize=st.sampled_from(["letterbox", "stretch", "crop"]),
    align=st.sampled_from(["center", "top-left"]),
    pad=st.integers(0, 255),
    dtype=st.sampled_from([np.dtype(np.float32), np.dtype(np.float16)]),
    layout=st.sampled_from(["NCHW", "NHWC"]),
)


@settings(deadline=None, max_examples=60)
@given(specs, st.booleans(), st.booleans(), st.integers(1, 3), st.integers(3, 60), st.integers(3, 60))
def test_the_graph_makes_of_pixels_what_the_blobber_would(
    tmp_path_factory, spec, on_cpu, free, count, height, width
):
    """The picture itself, and its pads; of one file with a size of its own, and of one without."""
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    shape = ["batch", *spec.blob_shape[1:]] if not free else ["batch", "a", "b", "c"]
    write(path, spec, shape=tuple(shape))
    images = np.random.default_rng(height).integers(0, 256, (count, height, width, 3), np.uint8)
    fused = fusion_of(path, spec)
    assert {key: getattr(fused.fed, key) for key in PIXELS} == PIXELS
    plain, pixels = (
        np.concatenate([Blobber(fed)(image)[0] for image in images]) for fed in (spec, fused.fed)
    )
    session = ort.InferenceSession(fused.applied(path, on_cpu=on_cpu))
    (asked,) = session.get_inputs()
    sides = [spec.height, spec.width] if not free else ["b", "c"] if spec.layout == "NCHW" else ["a", "b"]
    assert (asked.type, asked.shape) == ("tensor(uint8)", ["batch", *sides, 3])
    assert session.get_modelmeta().custom_metadata_map == {"names": "kept"}
    (answer,) = session.run(None, {asked.name: pixels})
    assert (answer.dtype, answer.shape) == (spec.dtype, plain.shape)
    # A mean and a deviation are rounded to float32 in the graph: a few times the last bit of what is divided.
    rounding = 4 * np.finfo(np.float32).eps * 255 / min(spec.std)
    last_bit = float(np.finfo(spec.dtype).eps)
    np.testing.assert_allclose(answer, plain, rtol=last_bit, atol=rounding)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_of_scaled_pixels_the_values_are_the_same_bit_for_bit(tmp_path, layout):
    spec = InputSpec(64, 64, layout=layout)
    path = write(tmp_path / "m.onnx", spec)
    fused = fusion_of(path, spec)
    session = Session(path, "cpu", fusion=fused)
    (answer,) = session.run(Blobber(fused.fed)(photograph())[0])
    np.testing.assert_array_equal(answer, Blobber(spec)(photograph())[0])


def test_names_that_the_graph_has_already_are_not_taken_again(tmp_path):
    spec = InputSpec(8, 8, mean=(1.0, 2.0, 3.0), std=(2.0,) * 3)
    path = write(tmp_path / "m.onnx", spec)
    model = onnx.load(path)
    plain = ort.InferenceSession(path).run(None, {"x": (blob := Blobber(spec)(PICTURE)[0])})[0]
    for name in ("x/pixels", "x/fused.0", "x/fused.1", "x/fused.constant1", "x/fused.constant3"):
        model.graph.node.append(helper.make_node("Identity", ["x"], [name]))
    onnx.save(model, path)
    fusion = fusion_of(path, spec)
    session = ort.InferenceSession(fusion.applied(path, on_cpu=True))
    (asked,) = session.get_inputs()
    (answer,) = session.run(None, {asked.name: Blobber(fusion.fed)(PICTURE)[0]})
    np.testing.assert_allclose(answer, plain, atol=1e-5)
    assert blob.shape == answer.shape


def test_inputs_beside_the_picture_stay(tmp_path):
    spec = InputSpec(32, 48)
    path = write(tmp_path / "m.onnx", spec, shape=("n", 3, 32, 48), beside=True)
    session = Session(path, "cpu", fusion=fusion_of(path, spec))
    session.feed_size((32, 48))
    blob = np.zeros((2, 32, 48, 3), np.uint8)
    _, sizes = session.run(blob)
    assert sizes.tolist() == [[48, 32]] * 2
    assert session.batch is None
    assert (session.inputs[1].shape, session.inputs[1].dtype) == ((None, 32, 48, 3), "uint8")
    assert session.picture == session.inputs[1].name


def test_a_fixed_batch_is_still_filled_up(tmp_path):
    spec = InputSpec(32, 32)
    path = write(tmp_path / "m.onnx", spec, shape=(4, 3, 32, 32))
    session = Session(path, "cpu", fusion=fusion_of(path, spec))
    assert session.batch == 4
    blob = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    (answer,) = session.run(blob)
    np.testing.assert_array_equal(answer, (blob[..., ::-1] / 255).transpose(0, 3, 1, 2).astype(np.float32))


def test_a_graph_is_fused_and_rewritten(tmp_path, caplog):
    """A split of a convolution's channels goes into the convolution all the same."""
    caplog.set_level("INFO")
    weights = np.random.default_rng(0).standard_normal((32, 3, 3, 3)).astype(np.float32)
    constants = {"w": weights, "sizes": np.array([16, 16])}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Split", ["c", "sizes"], ["p", "q"], axis=1),
        ],
        "split",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "pq"],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path := tmp_path / "m.onnx")
    spec = InputSpec(16, 16, mean=(1, 2, 3), std=(60, 50, 70))
    fused = fusion_of(path, spec)
    caplog.clear()
    session = Session(path, "cpu", fusion=fused)
    assert "splits taken into their convolutions: 1" in caplog.text
    plain = Session(path, "cpu", rewrite=False).run(Blobber(spec)(photograph())[0])
    for now, before in zip(session.run(Blobber(fused.fed)(photograph())[0]), plain, strict=True):
        np.testing.assert_allclose(now, before, rtol=1e-4, atol=1e-4)


# What cannot be ---------------------------------------------------------------------------------


def in_two_files(path: Path) -> None:
    write_tiny_detector(path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=1000)


def of_bytes(path: Path) -> None:
    answer = np.zeros((1, 7, 84), np.float32)
    constant_model(path, {"output0": answer}, dtype=TensorProto.UINT8)


SPEC = InputSpec(64, 64)
REFUSED: dict[str, tuple[Callable[[Path], Any], InputSpec]] = {
    "takes the pixels themselves": (of_bytes, InputSpec(64, 96, **PIXELS)),
    "weights lie in files beside it": (in_two_files, SPEC),
    "no batch axis": (lambda path: write(path, SPEC, shape=(3, 64, 64)), SPEC),
    "of opset 6; at least 7": (lambda path: write(path, SPEC, opset=6), SPEC),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_fused_is_refused_with_the_reason(tmp_path, why):
    make, spec = REFUSED[why]
    make(tmp_path / "m.onnx")
    (image,) = Session(tmp_path / "m.onnx", "cpu").inputs
    with pytest.raises(ModelError, match=rf"m\.onnx: .*{why}.*; leave out fuse") as refused:
        Fusion.of(tmp_path / "m.onnx", image, spec)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_too_large_is_refused(cheap_model, monkeypatch):
    monkeypatch.setattr(fusion, "LARGEST", 1000)
    with pytest.raises(
        ModelError, match=r"cheap\.onnx: it has [\d,]+ bytes, and graphs are edited up to 1,0"
    ):
        open_model(cheap_model, "cpu", fuse=True)


def test_run_says_in_one_line_that_it_cannot(tmp_path):
    in_two_files(tmp_path / "m.onnx")
    done = framerail("run", "synthetic:64x48?frames=3", "--model", str(tmp_path / "m.onnx"), "--fuse")
    assert_one_line(done, 3, "cannot be fused into model m.onnx: its weights lie in files beside it")


# In the line ------------------------------------------------------------------------------------


def found_by(fuse: bool, **options: Any) -> Any:
    """Detections in pictures of the bundled clip, half a second apart."""
    stream = {"source": str(SAMPLE), "every_nth": 15}
    with Pipeline(Config(streams=[stream], fuse=fuse, provider="cpu", profile=False, **options)) as line:
        results = [(result.detections, result.frame.seq) for result in line]
        assert line.model is not None
        assert (line.model.spec.dtype == np.uint8) == fuse
    return results


@pytest.mark.parametrize("batch", [1, 3])
def test_the_line_finds_the_same(tmp_path, batch):
    """A box that lies where the red of a picture says: so each answer is its own picture's."""
    model = str(write_cheap_model(tmp_path / "m.onnx", echo=8.0, dynamic_batch=True))
    plain, fused = (
        found_by(fuse, model=model, batch=batch, linger_ms=5, conf_threshold=0.3) for fuse in (False, True)
    )
    assert len({float(each.xyxy[0, 0]) for each, _ in plain}) > 3
    for (before, number), (now, same) in zip(plain, fused, strict=True):
        assert number == same
        np.testing.assert_allclose(now.xyxy, before.xyxy, atol=1e-3)
        np.testing.assert_allclose(now.confidence, before.confidence, atol=1e-6)


def test_the_default_model_finds_the_same_on_the_bundled_clip():
    plain, fused = found_by(False), found_by(True)
    assert sum(len(each) for each, _ in plain) > 6
    for (before, _), (now, _) in zip(plain, fused, strict=True):
        assert now.labels == before.labels
        np.testing.assert_allclose(now.xyxy, before.xyxy, atol=0.01)
        np.testing.assert_allclose(now.confidence, before.confidence, atol=1e-4)


@pytest.mark.assets
@pytest.mark.parametrize("name", ["yolov8n_int8_msh", "yolox_nano", "deimv2_femto", "nanodet_m_320"])
def test_real_models_answer_the_same(assets, name):
    """Sizes free and fixed, inputs beside the picture, int8, means, either order of colours."""
    path = str(assets / "models" / f"{name}.onnx")
    answers = []
    for fuse in (False, True):
        model = open_model(path, "cpu", fuse=fuse)
        spec = model.spec.for_picture(*photograph().shape[:2])
        outputs = model.session.run(Blobber(spec)(photograph())[0])
        answers.append(model.decode(outputs, 0.3, (spec.height, spec.width)))
    before, now = answers
    assert len(before.scores) > 0
    np.testing.assert_array_equal(now.class_id, before.class_id)
    np.testing.assert_allclose(now.xyxy, before.xyxy, atol=0.05)
    np.testing.assert_allclose(now.scores, before.scores, atol=1e-3)


def test_the_second_model_is_left_as_it_is(tmp_path, cheap_model):
    classifier = str(write_colour_classifier(tmp_path / "colours.onnx"))
    with Pipeline(
        "synthetic:64x48?frames=3", model=cheap_model, classify=classifier, fuse=True, provider="cpu"
    ) as line:
        assert line.model is not None
        assert line.second is not None
        assert (line.model.spec.dtype, line.second.spec.dtype) == (np.uint8, np.float32)
        assert len(list(line)) == 3


# Providers --------------------------------------------------------------------------------------


def test_an_accelerator_is_sent_bytes(tmp_path, monkeypatch):
    """Only the edited graph is started there, on each device, and its buffers are of bytes."""
    placed: list[Placement] = []

    def options(where: Placement) -> dict[str, str]:
        placed.append(where)
        return {"device_id": str(where.device)}

    started = fake_provider.install(monkeypatch, memory="cpu", options=options)
    sent: list[tuple[np.dtype[Any], int]] = []
    real = ort.OrtValue.update_inplace
    monkeypatch.setattr(
        ort.OrtValue,
        "update_inplace",
        lambda self, array: (sent.append((array.dtype, array.nbytes)), real(self, array))[1],
    )
    path = write_cheap_model(tmp_path / "m.onnx", echo=8.0, dynamic_batch=True)
    model = open_model(str(path), "fake", (0, 1), fuse=True)
    assert len(started) == 2
    assert [[each.dtype for each in session.inputs] for session in model.sessions] == [["uint8"]] * 2
    content = fusion_for(open_model(str(path), "cpu")).applied(path, on_cpu=False)
    assert [where.model for where in placed] == [content] * 2
    binding = model.session.bound(2, model.spec)
    blob = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    (answer,) = binding.run(blob)
    assert sent[-1] == (np.uint8, blob.nbytes)
    (expected,) = Session(path, "cpu").run((blob[..., ::-1].transpose(0, 3, 1, 2) / 255).astype(np.float32))
    np.testing.assert_allclose(answer, expected, rtol=1e-6)


def test_engines_of_a_fused_graph_lie_apart(tmp_path, monkeypatch):
    """From those of its file, and from those of the file with other preprocessing."""
    monkeypatch.setenv("FRAMERAIL_ENGINES", str(tmp_path / "engines"))
    path = write(tmp_path / "m.onnx", SPEC)
    contents: list[Path | bytes] = [path, path.read_bytes()]
    for spec in (SPEC, SPEC, InputSpec(64, 64, color="BGR"), InputSpec(64, 64, mean=(1, 2, 3))):
        contents.append(fusion_of(path, spec).applied(path, on_cpu=False))
    folders = [engines.engine_folder(each, "64x64", 0, gpu="A", tensorrt="10") for each in contents]
    assert folders[0] == folders[1]
    assert folders[2] == folders[3]
    assert len(set(folders)) == 4


def test_elsewhere_than_on_the_cpu_bytes_are_cast_at_once(tmp_path):
    path = write(tmp_path / "m.onnx", SPEC)
    for on_cpu, first in ((True, "Transpose"), (False, "Cast")):
        graph = onnx.load_from_string(fusion_of(path, SPEC).applied(path, on_cpu=on_cpu)).graph
        assert next(each for each in graph.node if graph.input[0].name in each.input).op_type == first


# How it is asked for ----------------------------------------------------------------------------


def steps(model: Model, **given: Any) -> tuple[dict[str, Any], list[str]]:
    """What ``tune`` would try, by the step's name, and what it says."""
    told: list[str] = []
    options = Options(source="synthetic:64x48", run={"provider": "cpu", "infer_workers": 1, **given})
    copied: Any = lambda _precision: type("Copy", (), {"path": None})()  # noqa: E731
    return {step.name: list(step.settings) for step in _steps(options, model, copied, told.append)}, told


def test_tune_tries_it_and_says_where_it_cannot(tmp_path, cheap_model):
    model = open_model(cheap_model, "cpu")
    found, told = steps(model)
    assert found["fused preprocessing"] == [{"fuse": True}]
    assert not told
    assert "fused preprocessing" not in steps(model, fuse=False)[0]
    in_two_files(tmp_path / "m.onnx")
    found, told = steps(open_model(str(tmp_path / "m.onnx"), "cpu"))
    assert "fused preprocessing" not in found
    assert "its weights lie in files beside it" in told[0]


def test_a_profile_may_say_it_and_the_user_has_the_last_word(tmp_path, monkeypatch, cheap_model):
    monkeypatch.setenv("FRAMERAIL_PROFILES", str(tmp_path))
    report = {"settings": {"fuse": True}, "speedup": 1.1, "ap_loss": 0, "truth": "labels", "provider": "cpu"}
    saved = profiles.save(locate(cheap_model), {**report, "date": "2026-11-21"})
    assert json.loads(saved.read_text())["settings"] == {"fuse": True}
    base = {"streams": [{"source": "synthetic:64x48"}], "model": cheap_model}
    assert profiles.applied(make_config(base))[0].fuse
    assert not profiles.applied(make_config({**base, "fuse": False}))[0].fuse


def test_the_bound_is_of_the_same_graph(cheap_model):
    """A model that is opened again for it, on one thread, is fused, too."""
    config = make_config(
        {"streams": [{"source": "synthetic:64x48"}], "model": cheap_model, "provider": "cpu"}
        | {"infer_workers": 1, "infer_threads": 2, "fuse": True}
    )
    with Pipeline(config) as line:
        bare = _on_one_thread(line)
        assert bare is not line.model
        assert bare.spec.dtype == np.uint8


def test_a_sweep_measures_both(cheap_model):
    model = open_model(cheap_model, "cpu")
    config = Config(streams=[{"source": "synthetic:64x48"}], model=cheap_model)
    planned = list(points(config, model, parse_sweep(["fuse"]), []))
    assert [point.config.fuse for point in planned] == [False, True]
