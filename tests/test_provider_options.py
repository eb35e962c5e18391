"""What a provider is given: from the config to the session, and what the session says it got."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from benchmarks.cheap_model import write_cheap_model
from pipeline.app import Pipeline
from pipeline.bench.machine import machine
from pipeline.config import make_config
from pipeline.configfile import load_config
from pipeline.errors import ConfigError, ModelError, ProviderError
from pipeline.runtime import engines, providers
from pipeline.runtime.card import sha256_of
from pipeline.runtime.catalog import locate
from pipeline.runtime.hashing import model_sha256
from pipeline.runtime.provider_table import PROVIDERS, Placement
from pipeline.runtime.session import Session
from pipeline.summary import summarize
from tests import fake_provider
from tests.test_cli import assert_one_line, framerail

STREAM = {"streams": [{"source": "synthetic:64x48@25?frames=4"}]}


def test_options_reach_the_session_and_the_summary_says_what_it_says(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is a fake and is named so; the way of the options to it is not."""
    fake_provider.install(monkeypatch)
    given = {"fake": {"arena_extend_strategy": "kSameAsRequested"}, "cuda": {"use_tf32": "0"}}
    config = make_config({**STREAM, "model": cheap_model})
    with Pipeline(config.model_copy(update={"provider_options": given})) as line:
        line.run()
    provider = summarize(line)["provider"]
    assert provider["active"] == "FakeExecutionProvider"
    assert provider["options"] == {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "0",
    }


def test_what_is_given_wins_over_what_a_provider_starts_with(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_provider.install(
        monkeypatch, options=lambda _: {"enable_cuda_graph": "1", "arena_extend_strategy": "kSameAsRequested"}
    )
    begun = Session(Path(cheap_model), "fake").options
    assert (begun["enable_cuda_graph"], begun["arena_extend_strategy"]) == ("1", "kSameAsRequested")
    given = Session(Path(cheap_model), "fake", options={"fake": {"arena_extend_strategy": "x"}}).options
    assert (given["enable_cuda_graph"], given["arena_extend_strategy"]) == ("1", "x")


def test_an_option_that_the_provider_does_not_know(cheap_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_provider.install(monkeypatch)
    with pytest.raises(
        ProviderError, match=r"^provider 'fake' knows no option 'arena'; .*Fake.* lists"
    ) as bad:
        Session(Path(cheap_model), "fake", options={"fake": {"arena": "1"}})
    assert "\n" not in str(bad.value)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("arena_extend_strategy", r"'fake': its option 'arena_extend_strategy' cannot be 'x': .* enum name"),
        ("device_id", r"'fake' \(device 0\) could not start: "),
    ],
)
def test_a_value_that_the_provider_cannot_read(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch, option: str, says: str
) -> None:
    """The sentence is CUDA's own, of ONNX Runtime 1.31; that of device_id is about the machine instead."""

    def refused(*_: object, **given: object) -> None:
        raise RuntimeError(f'Failed to parse provider option "{option}": x.h:56 Failed to map enum name: x')

    fake_provider.install(monkeypatch)
    monkeypatch.setattr(ort, "InferenceSession", refused)
    with pytest.raises(ProviderError, match=says):
        providers.create_session(cheap_model, "fake", 0, ort.SessionOptions(), {"arena_extend_strategy": "x"})


def test_the_cpu_ignores_options_so_they_are_refused(cheap_model: str) -> None:
    """ONNX Runtime, for real: it takes any option of the CPU provider and says nothing."""
    silent = ort.InferenceSession(cheap_model, providers=[("CPUExecutionProvider", {"arena": "1"})])
    assert silent.get_provider_options() == {"CPUExecutionProvider": {}}
    with pytest.raises(ProviderError, match="provider 'cpu' has no options, so it cannot have arena"):
        Session(Path(cheap_model), "cpu", options={"cpu": {"arena": "1"}})


def test_an_option_that_the_session_does_not_confirm_is_warned_of(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_provider.install(monkeypatch)
    monkeypatch.setattr(ort.InferenceSession, "get_provider_options", lambda _: {})
    session = Session(Path(cheap_model), "fake", options={"fake": {"enable_cuda_graph": "1"}})
    assert session.options == {}
    assert "provider fake does not say whether it took the option 'enable_cuda_graph'" in caplog.text


def test_a_plugin_gets_its_options(cheap_model: str) -> None:
    if "openvino" not in providers.plugged_in():
        pytest.skip("needs the package onnxruntime-ep-openvino")
    session = Session(Path(cheap_model), "openvino", options={"openvino": {"num_streams": "2"}})
    assert session.options["num_streams"] == "2"


def test_a_plugin_gets_its_options_by_its_own_call(cheap_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, where no plugin is installed: what the session options are told is recorded."""
    told: list[object] = []

    class Told(ort.SessionOptions):
        def add_provider_for_devices(self, devices: object, options: object) -> None:
            told.extend([devices, options])

    monkeypatch.setattr(providers, "on_offer", lambda: ["openvino"])
    monkeypatch.setattr(providers, "_plugin_device", lambda provider, device: f"{provider.name} {device}")
    with pytest.raises(ProviderError, match="put no node"):
        providers.create_session(cheap_model, "openvino", 1, Told(), {"cache_dir": "x"})
    assert told == [["openvino 1"], {"cache_dir": "x"}]


def test_cuda_and_tensorrt_start_with_what_was_found_to_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMERAIL_ENGINES", str(tmp_path / "engines"))
    cuda = PROVIDERS["cuda"].options(Placement(device=3))
    assert cuda == {
        "device_id": "3",
        "arena_extend_strategy": "kSameAsRequested",
        "use_ep_level_unified_stream": "1",
    }
    (tmp_path / "m.onnx").write_bytes(b"m")
    tensorrt = PROVIDERS["tensorrt"].options(Placement(tmp_path / "m.onnx", 1))
    assert (tensorrt["device_id"], tensorrt["trt_engine_cache_enable"]) == ("1", "1")
    assert Path(tensorrt["trt_engine_cache_path"]).is_relative_to(tmp_path / "engines")
    assert Path(tensorrt["trt_engine_cache_path"]).is_dir()
    assert PROVIDERS["tensorrt"].options(Placement(device=1)) == {"device_id": "1"}
    other = PROVIDERS["tensorrt"].options(Placement(tmp_path / "m.onnx", 1, "1x3x320x320"))
    assert other["trt_engine_cache_path"] != tensorrt["trt_engine_cache_path"], "an engine of another shape"
    assert other["trt_timing_cache_path"] == other["trt_engine_cache_path"]


def test_the_real_rows_of_the_table() -> None:
    """What the fake provider, which has a row of its own, cannot show: words of ONNX Runtime's."""
    special = {name: (row.memory, row.graphs) for name, row in PROVIDERS.items() if row.memory or row.graphs}
    assert special == {
        "cuda": ("cuda", "enable_cuda_graph"),
        "tensorrt": ("cuda", "trt_cuda_graph_enable"),
    }
    by_number = {
        name: row.options(Placement(device=3)) for name, row in PROVIDERS.items() if row.takes_device
    }
    assert set(by_number) == {"cuda", "tensorrt", "directml", "migraphx", "rocm"}
    assert {options["device_id"] for options in by_number.values()} == {"3"}


def test_a_number_of_a_device_means_nothing_to_openvino_as_it_is_compiled_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not providers.has_devices("cpu") and providers.has_devices("cuda")
    assert providers.has_devices("openvino"), "a plugin: devices are listed, and one is taken by its number"
    built_in = [*ort.get_available_providers(), "OpenVINOExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: built_in)
    assert not providers.has_devices("openvino")
    monkeypatch.setattr(providers, "_registered", {"openvino"})
    assert providers.has_devices("openvino"), "a plugin that is registered is listed, too"


def test_engines_of_one_kind_share_a_folder_and_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMERAIL_ENGINES", str(tmp_path / "engines"))
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    one.write_bytes(b"one")
    other.write_bytes(b"other")

    def folder(
        model: Path = one, shape: str = "640x640", gpu: str = "Card A", tensorrt: str = "10.1"
    ) -> Path:
        return engines.engine_folder(model, shape, 0, gpu=gpu, tensorrt=tensorrt)

    base = folder()
    assert base == folder()
    assert base.is_dir()
    monkeypatch.setattr(ort, "__version__", "1.99")
    newer = folder()
    others = [
        folder(other),
        folder(shape="320x320"),
        folder(shape=""),
        folder(gpu="B/../C"),
        folder(tensorrt="10.2"),
    ]
    assert len({base, newer, *others}) == 7
    assert all(each.parent == tmp_path / "engines" for each in others)
    one.write_bytes(b"one, exported anew")
    assert folder() not in (base, newer, *others)


def test_an_engine_of_other_weights_in_a_file_beside_the_model_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMERAIL_ENGINES", str(tmp_path / "engines"))
    path = write_cheap_model(tmp_path / "m.onnx")
    assert model_sha256(path) == sha256_of(path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    folders, hashes = set(), set()
    weights = (tmp_path / "w.bin").read_bytes()
    for content in (weights, weights[:-1] + b"x"):
        (tmp_path / "w.bin").write_bytes(content)
        folders.add(engines.engine_folder(path, "64x64", 0))
        hashes |= {model_sha256(path), locate(str(path)).sha256}
    assert len(folders) == len(hashes) == 2
    assert sha256_of(path) not in hashes
    card = f'name = "m"\nfile = "m.onnx"\nfamily = "yolov8"\nlabels = {[str(n) for n in range(80)]}\n'
    for stated in (sha256_of(path), model_sha256(path)):  # of the file, and as it is shown
        (tmp_path / "m.toml").write_text(f'{card}sha256 = "{stated}"\n')
        assert locate(str(path)).sha256 == model_sha256(path)
    (tmp_path / "m.toml").write_text(f'{card}sha256 = "{"0" * 64}"\n')
    with pytest.raises(ModelError, match="is not the file that its card names"):
        locate(str(path))
    (tmp_path / "m.toml").unlink()
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"weights in the file .w.bin., which is not there: copy it, too"):
        locate(str(path))


def test_the_engines_folder_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("FRAMERAIL_ENGINES", str(tmp_path / "file"))
    with pytest.raises(ProviderError, match=r"cannot make the folder .* name another by FRAMERAIL_ENGINES"):
        engines.engine_folder(tmp_path / "file", "", 0)


def test_the_gpus_name_is_asked_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is a fake, as is its card."""

    class Driver:
        def cuInit(self, flags: int) -> int:
            return flags

        def cuDriverGetVersion(self, number: object) -> int:
            number._obj.value = 12080  # type: ignore[attr-defined]
            return 0

        def getInferLibVersion(self) -> int:  # TensorRT's, which is asked in the same way
            return 101000

        def cuDeviceGet(self, handle: object, device: int) -> int:
            handle._obj.value = device + 40  # type: ignore[attr-defined]
            return 0 if device < 2 else 101

        def cuDeviceGetName(self, name: object, size: int, handle: object) -> int:
            name.value = f"Fake {handle.value}".encode()[:size]  # type: ignore[attr-defined]
            return 0

    monkeypatch.setattr(engines.ctypes, "CDLL", lambda _: Driver())
    assert engines.gpu_name(1) == "Fake 41"
    assert engines.gpu_name(2) == "unknown"
    assert engines.gpus() == ["Fake 40", "Fake 41"]
    assert engines.driver_version() == "12.8"
    about = machine()
    assert about["gpus"] == ["Fake 40", "Fake 41"]
    assert about["versions"]["CUDA"] == "12.8"
    monkeypatch.undo()
    assert ("CUDA" in machine()["versions"]) is bool(machine()["gpus"])


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"provider_options": {"cuda": {"a": 1, "b": True}}}, {"cuda": {"a": "1", "b": "True"}}),
        ({"provider": "tensorrt", "provider_options": {"a": "x"}}, {"tensorrt": {"a": "x"}}),
    ],
)
def test_both_ways_of_writing_them(keys: dict[str, object], expected: object) -> None:
    config = make_config({**STREAM, **keys})
    assert config.provider_options == expected
    assert make_config(config.model_dump(exclude_unset=True)) == config


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"provider_options": {"a": "1"}}, "for which provider? Say provider (--provider)"),
        ({"provider_options": {"cdua": {"a": "1"}}}, "unknown provider 'cdua'; did you mean 'cuda'?"),
        ({"provider_options": {"auto": {"a": "1"}}}, "unknown provider 'auto'"),
        ({"provider_options": {"cuda": {"device_id": 1}}}, "the key device (--device) says it"),
        ({"provider_options": {"cuda": {"a": [1]}}}, "cuda.a: expected a text, a number, true or false"),
        ({"provider": "nope", "provider_options": {"a": "1"}}, "unknown provider 'nope'"),
    ],
)
def test_options_that_cannot_be_meant(keys: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_config({**STREAM, **keys})
    assert says in str(raised.value)


def test_flags_give_them_to_the_provider_that_is_asked_for(tmp_path: Path) -> None:
    run = ("run", "synthetic:64x48@25?frames=4", "--provider", "cpu")
    assert_one_line(
        framerail(*run, "--provider-option", "a=1", "--provider-option", "b=x=y"),
        3,
        "provider 'cpu' has no options, so it cannot have a, b",
    )
    done = framerail(*run, "--provider-option", "a")
    assert done.returncode == 2
    assert "NAME=VALUE" in done.stderr
    path = tmp_path / "line.yaml"
    path.write_text("streams: [{source: a}]\nprovider: cuda\nprovider_options: {cuda: {a: 1}}\n")
    assert load_config(path, {"provider_options": {"b": "2"}}).provider_options == {"cuda": {"b": "2"}}


def test_doctor_shows_the_options_of_what_runs() -> None:
    report = json.loads(framerail("doctor", "--json").stdout)
    for name, entry in report["providers"].items():
        assert ("options" in entry) == entry["proven"], name
