"""Several devices: a session on each, verified by itself, with a fair share of the frames.

The provider is a fake, and named so in every answer: this shows where frames go, not how fast.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.cheap_model import write_cheap_model
from pipeline.app import Pipeline
from pipeline.config import make_config
from pipeline.errors import ConfigError, ProviderError
from pipeline.metrics import Collector
from pipeline.runtime.model import open_model
from pipeline.summary import summarize
from tests import fake_provider
from tests.test_cli import framerail

STREAM = {"streams": [{"source": "synthetic:32x32@25?frames=120"}]}


def test_each_device_has_a_session_that_is_verified_by_itself(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    fake_provider.install(monkeypatch)
    model = open_model(cheap_model, device=(1, 0))
    assert [(one.active, one.device, one.options["device_id"]) for one in model.sessions] == [
        ("FakeExecutionProvider", 1, "1"),
        ("FakeExecutionProvider", 0, "0"),
    ]
    assert "runs on FakeExecutionProvider, device 1" in caplog.text
    assert "runs on FakeExecutionProvider, device 0" in caplog.text
    blob = np.zeros((1, 3, 32, 32), np.float32)
    np.testing.assert_array_equal(*(session.run(blob)[0] for session in model.sessions))


def test_a_device_that_is_not_there_is_an_error(cheap_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the provider: that another device works does not make up for it."""
    fake_provider.install(monkeypatch, devices=2)
    for provider in ("auto", "fake"):
        with pytest.raises(ProviderError, match=r"'fake' \(device 2\) could not start: CUDA failure 101"):
            open_model(cheap_model, provider, device=(0, 2))


def test_a_second_session_that_falls_back_is_found_out(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = fake_provider.install(monkeypatch)
    assigned = ort.InferenceSession.get_provider_graph_assignment_info

    def fallen(session: Any) -> Any:
        on_second = len(sessions) == 2 and session is sessions[1]
        return (
            fake_provider.Real.get_provider_graph_assignment_info(session) if on_second else assigned(session)
        )

    monkeypatch.setattr(ort.InferenceSession, "get_provider_graph_assignment_info", fallen)
    with pytest.raises(ProviderError, match=r"put no node of the model on it \(4 on CPUExecutionProvider\)"):
        open_model(cheap_model, "fake", device=(0, 1))


def test_a_session_on_another_device_than_asked_is_found_out(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_provider.install(monkeypatch, options=lambda _: {"device_id": "0"})
    with pytest.raises(ProviderError, match="was asked for device 1 and runs on 0"):
        open_model(cheap_model, "fake", device=(0, 1))


def test_the_workers_are_split_over_the_devices_and_frames_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All four workers are inside a run at once, two on each device; each frame is emitted once, in order."""
    fake_provider.install(monkeypatch)
    model = str(write_cheap_model(tmp_path / "m.onnx"))
    run = ort.InferenceSession.run
    meeting = threading.Barrier(4)
    on_device: dict[str, str] = {}

    def noted(session: Any, *arguments: Any) -> Any:
        worker = threading.current_thread().name
        if worker.startswith("infer") and worker not in on_device:
            on_device[worker] = session.get_provider_options()["FakeExecutionProvider"]["device_id"]
            meeting.wait(10)
        return run(session, *arguments)

    monkeypatch.setattr(ort.InferenceSession, "run", noted)
    config = make_config({**STREAM, "model": model, "device": "0,1", "channel_capacity": 8})
    config = config.model_copy(update={"provider": "fake"})
    with Pipeline(config) as line:
        assert [result.frame.seq for result in line] == list(range(120))
        metrics = Collector(line)._provider().samples
    assert on_device == {"infer-0": "0", "infer-1": "1", "infer-2": "0", "infer-3": "1"}
    shown = [(each["device"], each["active"]) for each in summarize(line)["provider"]["devices"]]
    assert shown == [(0, "FakeExecutionProvider"), (1, "FakeExecutionProvider")]
    assert sorted(sample.labels["device"] for sample in metrics) == ["0", "1"]


def test_devices_of_a_provider_that_has_none_are_ignored_and_said_to_be(
    cheap_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = open_model(cheap_model, "cpu", device=(0, 1, 2))
    assert [session.device for session in model.sessions] == [0]
    assert "provider cpu has no devices to choose from: device 1, 2 is ignored" in caplog.text


def test_fewer_workers_than_devices(cheap_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_provider.install(monkeypatch)
    config = make_config({**STREAM, "model": cheap_model, "device": [0, 1], "infer_workers": 1})
    with pytest.raises(ConfigError, match="infer_workers: 1 cannot keep 2 devices at work"), Pipeline(config):
        pass


@pytest.mark.parametrize(("given", "means"), [(3, (3,)), ([0, 1], (0, 1)), ("0, 1", (0, 1)), ("2", (2,))])
def test_ways_to_write_devices(given: object, means: tuple[int, ...]) -> None:
    config = make_config({**STREAM, "device": given})
    assert config.device == means
    assert make_config(config.model_dump(exclude_unset=True)) == config


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([0, 0], "device 0 stands twice"),
        ("1,1", "device 1 stands twice"),
        (-1, "-1 is none"),
        ("0,-1", "'-1' is none"),
        ("gpu", "'gpu' is none"),
        (True, "expected a device's index"),
        ([0, True], "True is none"),
        ([], "expected a device's index"),
        (256, "from 0 to 255"),
        (1.5, "expected a device's index"),
    ],
)
def test_devices_that_cannot_be_meant(given: object, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_config({**STREAM, "device": given})
    assert says in str(raised.value)


def test_the_flag(cheap_model: str) -> None:
    source = "synthetic:32x32@25?frames=4"
    done = framerail("run", source, "--model", cheap_model, "--provider", "cpu", "--device", "0,1")
    assert done.returncode == 0, done.stderr
    assert "device 1 is ignored" in done.stderr
    done = framerail("run", source, "--model", cheap_model, "--device", "0,0")
    assert done.returncode == 2
    assert "device 0 stands twice" in done.stderr
