"""Providers verified, models located and understood, sessions that say what they run on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from benchmarks.cheap_model import NAMES, write_cheap_model
from pipeline.cores import usable_cores
from pipeline.doctor import one_node_model
from pipeline.errors import ConfigError, ModelError, ProviderError, UnknownLayoutError
from pipeline.runtime import providers, start
from pipeline.runtime.catalog import cards, locate
from pipeline.runtime.model import open_model
from pipeline.runtime.session import Session, concurrency


def test_a_session_says_what_it_really_runs_on(cheap_model: str) -> None:
    session = Session(Path(cheap_model))
    assert (session.requested, session.provider, session.active) == ("auto", "cpu", "CPUExecutionProvider")
    assert sum(session.nodes.values()) == session.nodes["CPUExecutionProvider"] >= 3


@pytest.mark.parametrize("name", [name for name in providers.PROVIDERS if name not in providers.on_offer()])
def test_an_explicit_provider_that_is_not_here_is_an_error_with_a_remedy(cheap_model: str, name: str) -> None:
    with pytest.raises(
        ProviderError, match=rf"provider '{name}' cannot be had: this build .* has: .*cpu"
    ) as raised:
        Session(Path(cheap_model), name)
    assert providers.PROVIDERS[name].remedy in str(raised.value)


def test_a_device_that_the_provider_does_not_have_is_not_reported(
    cheap_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert Session(Path(cheap_model), "cpu", device=7).device == 0
    assert "device 7 is ignored" in caplog.text


def test_an_unknown_provider_name_is_bad_usage(cheap_model: str) -> None:
    with pytest.raises(ConfigError, match="unknown provider 'cuda12'"):
        Session(Path(cheap_model), "cuda12")


def test_a_provider_that_silently_falls_back_is_found_out(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's own silent fallback, for real: it lists no CUDA, warns, and gives a CPU session.

    Only the list of what is compiled in is faked here: a GPU build cannot be had in CI.
    """
    real = ort.get_available_providers()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", *real])
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(ProviderError, match=r"put no node of the model on it .4 on CPUExecutionProvider"),
    ):
        Session(Path(cheap_model), "cuda")


def test_a_session_that_lists_the_provider_but_runs_nothing_on_it(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a CUDA session whose every node fell to the CPU. It is real; that it lists CUDA is not."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    real = ort.InferenceSession(cheap_model, options, providers=["CPUExecutionProvider"])
    monkeypatch.setattr(real, "get_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(providers, "_accelerated", lambda *_: real)
    monkeypatch.setattr(providers, "on_offer", lambda: ["cuda", "cpu"])
    with pytest.raises(ProviderError, match="put no node of the model on it"):
        Session(Path(cheap_model), "cuda")


def test_auto_takes_the_next_best_and_says_why(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = ort.get_available_providers()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", *real])
    with pytest.warns(UserWarning, match="not in available provider names"):
        session = Session(Path(cheap_model), "auto")
    assert session.active == "CPUExecutionProvider"
    assert "provider auto: provider 'cuda' was asked for" in caplog.text


def test_openvino_really_runs_where_its_plugin_is(cheap_model: str) -> None:
    if "openvino" not in providers.plugged_in():
        pytest.skip("needs the package onnxruntime-ep-openvino")
    session = Session(Path(cheap_model), "openvino")
    assert session.nodes["OpenVINOExecutionProvider"] >= 1


def test_the_one_node_model_is_valid_and_runs() -> None:
    data = one_node_model()
    onnx.checker.check_model(onnx.load_from_string(data))
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": np.array([-3.0], np.float32)})
    assert answer.tolist() == [0.0]


def test_threads_are_as_asked_and_do_not_spin(cheap_model: str) -> None:
    options = Session(Path(cheap_model), "cpu", threads=3)._session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "cameras", "expected"),
    [
        (1, None, None, 1, (1, 1)),
        (2, None, None, 1, (2, 1)),
        (4, None, None, 1, (2, 2)),
        (8, None, None, 2, (2, 4)),
        (8, None, None, 3, (4, 2)),
        (16, None, None, 40, (8, 2)),
        (8, 2, None, 1, (2, 4)),
        (8, None, 2, 1, (4, 2)),
    ],
)
def test_cameras_get_a_run_each_but_two_at_least_and_no_core_is_left_over(
    cores: int, workers: int | None, threads: int | None, cameras: int, expected: tuple[int, int]
) -> None:
    """Unless either was asked for."""
    assert concurrency(cores, workers, threads, cameras) == expected


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "expected"),
    [
        (2, None, None, (2, 1)),
        (1, None, None, (1, 1)),
        (16, None, None, (8, 2)),
        (4, 1, None, (1, 4)),
        (4, None, 4, (1, 4)),
        (4, 3, 2, (3, 2)),
        (2, None, 8, (1, 8)),
    ],
)
def test_concurrency_uses_the_cores(
    cores: int, workers: int | None, threads: int | None, expected: tuple[int, int]
) -> None:
    assert concurrency(cores, workers, threads) == expected


def test_usable_cores_is_what_this_process_may_use() -> None:
    import os

    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("text", "cores"), [("100000 100000", 1), ("30000 100000", 1), ("max 100000", None)])
def test_a_containers_quota_counts(tmp_path: Path, text: str, cores: int | None) -> None:
    import os

    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    assert usable_cores(quota) == (cores or len(os.sched_getaffinity(0)))
    quota.write_text(f"{100_000 * 4096} 100000")
    assert usable_cores(quota) == len(os.sched_getaffinity(0))


# Catalogue --------------------------------------------------------------------------------------


def test_the_default_model_is_in_the_catalogue() -> None:
    assert "nanodet-g" in cards()
    model = open_model("nanodet-g")
    assert (model.family.name, model.spec.color, model.spec.pad) == ("nanodet", "BGR", 0)
    assert model.conf_threshold == 0.4
    assert len(model.labels) == 80
    assert model.labels[0] == "person"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nanodet-gg", "did you mean 'nanodet-g'"),
        ("folder/none.onnx", "there is no model file"),
        (".", "is a folder"),
    ],
)
def test_what_is_not_there(name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        locate(name)


def test_a_file_that_is_not_the_cards(tmp_path: Path) -> None:
    card = cards()["nanodet-g"]
    shutil.copy(card, tmp_path / card.name)
    (tmp_path / "nanodet-g-416.onnx").write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"is not the file that its card names: sha256 is .*14 bytes"):
        locate(str(tmp_path / card.name))


def test_a_card_beside_a_file_wins_over_the_guess(tmp_path: Path) -> None:
    write_cheap_model(tmp_path / "mine.onnx")
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nfile = "mine.onnx"\nfamily = "yolov8"\nconf_threshold = 0.7\n'
        f"labels = {[f'other{n}' for n in range(80)]}\n[input]\ncolor = 'BGR'\npad = 3\n"
    )
    model = open_model(str(tmp_path / "mine.onnx"))
    assert (model.name, model.spec.color, model.spec.pad, model.conf_threshold) == ("mine", "BGR", 3, 0.7)
    assert model.labels[3] == "other3"
    for key in ("color", "pad", "labels", "thresholds"):
        assert model.reasons[key] == "model card"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = 'm'", "'file' is missing"),
        ("name = 'm'\nfile = 'm.onnx'\nfamily = 'yolov8'\ncolour = 'BGR'", "unknown key 'colour'"),
        ("name = 'm'\nfile = 'm.onnx'\nfamily = 'yolov99'", "unknown family 'yolov99'"),
        ("name = 'm'\nfile = 'm.onnx'\nfamily = 'nanodet'", "nanodet"),
        ("name = 'm'\nfile = 'm.onnx'\nfamily = 'yolov8'\nlabels = ['a', 'b']", "80|84"),
        ("name = 'm'\nfile = 'm.onnx'\nfamily = 'yolov8'\n[input]\nsize = [64, 64]", "the file takes 32x32"),
        ("name = 'm'\nfile = 'm.onnx'\nfamily = 'yolov8'\n[input]\nstd = [0, 1, 1]", "std: expected"),
        (
            "name = 'm'\nfile = 'm.onnx'\nfamily = 'yolov8'\n[input]\nmean = [0, 0.5, 1]\nstd = [0.23, 1, 1]",
            "input: mean and std are of pixels in 0..255: multiply by 255",
        ),
        ("name = ", "not valid TOML"),
    ],
)
def test_cards_that_cannot_be_right(tmp_path: Path, text: str, says: str) -> None:
    write_cheap_model(tmp_path / "m.onnx")
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(ModelError, match=says):
        open_model(str(tmp_path / "m.toml"))


def test_labels_and_size_come_from_the_models_own_metadata(cheap_model: str) -> None:
    model = open_model(cheap_model)
    assert tuple(model.labels) == NAMES
    assert (model.spec.height, model.spec.width) == (32, 32)
    assert "metadata" in model.reasons["labels"]


def test_float16_models_are_fed_float16(tmp_path: Path) -> None:
    model = open_model(str(write_cheap_model(tmp_path / "half.onnx", dtype=TensorProto.FLOAT16)))
    assert model.spec.dtype == np.float16


def test_a_fixed_batch_is_filled_up_and_the_rest_left_out(tmp_path: Path) -> None:
    model = open_model(str(write_cheap_model(tmp_path / "four.onnx", echo=8.0, fixed_batch=4)))
    assert model.max_batch == 4
    for count in (1, 3, 4):
        reds = np.linspace(0, 1, count, dtype=np.float32)
        blob = np.broadcast_to(reds[:, None, None, None], (count, 3, 32, 32)).copy()
        (output,) = model.session.run(blob)
        assert output.shape[0] == count
        np.testing.assert_allclose(output[:, 0, 0], 16 + 8 * reds, atol=1e-5)


def test_a_model_that_answers_nan_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_model(str(write_cheap_model(tmp_path / "good.onnx")))
    assert "looks broken" not in caplog.text
    open_model(str(write_cheap_model(tmp_path / "bad.onnx", scores=(float("nan"),))))
    assert "model bad.onnx looks broken: output output0 is not finite" in caplog.text


def test_a_broken_model_of_no_known_layout_is_called_broken(tmp_path: Path) -> None:
    nan = graph(tmp_path / "g.onnx", [("images", TensorProto.FLOAT, [1, 3, 32, 32])], [1, 84, 21], np.nan)
    with pytest.raises(UnknownLayoutError, match="it looks broken: output out is not finite"):
        open_model(nan)


def graph(path: Path, inputs: list[tuple[str, int, list[int]]], output: list[int], fill: float = 0.0) -> str:
    """A model with these inputs and one constant output."""
    values = np.full(int(np.prod(output)), fill, np.float32)
    value = helper.make_tensor("v", TensorProto.FLOAT, output, values)
    made = helper.make_graph(
        [helper.make_node("Constant", [], ["out"], value=value)],
        "g",
        [helper.make_tensor_value_info(*entry) for entry in inputs],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, output)],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        ([("images", TensorProto.FLOAT, [1, 3, 32, 32])], [3, 7, 5]),
        ([("x", TensorProto.FLOAT, [1, 10])], [1, 84, 21]),
        ([("x", TensorProto.FLOAT, [1, 3, 4, 32, 32])], [1, 84, 21]),
        ([("a", TensorProto.FLOAT, [1, 3, 32, 32]), ("b", TensorProto.FLOAT, [1, 2])], [1, 84, 21]),
    ],
)
def test_what_is_no_detector_or_has_no_known_layout(
    tmp_path: Path, inputs: list[tuple[str, int, list[int]]], output: list[int]
) -> None:
    with pytest.raises(UnknownLayoutError):
        open_model(graph(tmp_path / "g.onnx", inputs, output))


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0"), "memory is short"),
        (RuntimeError("bad allocation"), "memory is short"),
        (MemoryError(), "memory is short"),
        (RuntimeError("Protobuf parsing failed"), "is it a complete ONNX file"),
    ],
)
def test_a_model_for_which_there_is_no_memory_is_not_called_broken(tmp_path, error, remedy):
    assert remedy in str(start._unreadable(tmp_path / "m.onnx", error))
