"""The model of a running line: replaced in place, and opened afresh when its provider fails."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from benchmarks.cheap_model import write_cheap_model
from pipeline import Pipeline
from pipeline.config import Config
from pipeline.errors import ConfigError, ModelError, ProviderError, ProviderFault
from pipeline.line import open_first
from pipeline.metrics import health, readiness
from pipeline.runtime.model import Model
from pipeline.serving import Serving
from tests import fake_provider
from tests.test_monitor import until
from tests.test_stages_classify import write_colour_classifier
from tests.test_supervision import running

CAM = {"source": "synthetic:64x48@200", "name": "cam", "live": False}


def write_poisonable_model(path: Path) -> Path:
    """A cheap model on which a run fails, really, where a picture has no dark place in it."""
    return poisonable(write_cheap_model(path))


def poisonable(path: Path) -> Path:
    """The model at ``path``, made one on which such a run fails."""
    model = onnx.load(path)
    graph = model.graph
    answer = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["answered" if name == answer else name for name in node.output]
    constants = {"scale": np.float32(1.05), "one": np.array([1], np.int64), "nothing": np.float32(0)}
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    # One value is brought into the shape [1 + (1 if all is bright else 0)], and then plays no part.
    graph.node.extend(
        [
            helper.make_node("ReduceMin", ["images"], ["darkest"], keepdims=0),
            helper.make_node("Mul", ["darkest", "scale"], ["scaled"]),
            helper.make_node("Cast", ["scaled"], ["bright"], to=onnx.TensorProto.INT64),
            helper.make_node("Add", ["one", "bright"], ["shape"]),
            helper.make_node("Reshape", ["darkest", "shape"], ["shaped"]),
            helper.make_node("ReduceSum", ["shaped"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "nothing"], ["zero"]),
            helper.make_node("Add", ["answered", "zero"], [answer]),
        ]
    )
    onnx.save(model, path)
    return path


class Broken:
    """In the place of a session: each run of it fails."""

    def __init__(self, fault: Exception) -> None:
        self.fault = fault

    def run(self, *_: object) -> None:
        raise self.fault


def pictures(folder: Path, white: set[int], count: int = 30) -> str:
    folder.mkdir()
    for number in range(count):
        picture = np.full((32, 32, 3), 255 if number in white else number, np.uint8)
        cv2.imwrite(str(folder / f"{number:03}.png"), picture)
    return str(folder)


@pytest.fixture(params=["cpu", "fake", "fake, bound"])
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Providers whose faults ONNX Runtime tells each in its own way: with I/O binding it has one class for
    all that goes wrong."""
    if request.param == "cpu":
        return "cpu"
    fake_provider.install(monkeypatch, memory="cpu" if "bound" in request.param else None)
    return "auto"


@pytest.mark.parametrize("workers", [1, 3])
def test_a_fault_costs_its_frames_and_the_line_goes_on(tmp_path: Path, provider: str, workers: int) -> None:
    model = write_poisonable_model(tmp_path / "m.onnx")
    source = pictures(tmp_path / "p", white={7, 19})
    with Pipeline(source, model=str(model), provider=provider, infer_workers=workers) as line:
        numbers = [result.frame.seq for result in line]
    assert numbers == [number for number in range(30) if number not in (7, 19)]
    (account,) = line.accounts.streams.values()
    assert account.counts().dropped == {("infer", "provider_fault"): 2}
    # Several workers may fail on one and the same session: that is opened afresh once.
    assert line.restarts == 2 if workers == 1 else line.restarts in (1, 2)


def test_too_many_faults_end_the_run(tmp_path: Path, provider: str) -> None:
    model = write_poisonable_model(tmp_path / "m.onnx")
    source = pictures(tmp_path / "p", white={3, 6, 9, 12})
    line = Pipeline(source, model=str(model), provider=provider, infer_workers=1, restarts=2)
    with pytest.raises(ExceptionGroup) as raised, line:
        line.run()
    (fault,) = raised.value.exceptions
    assert isinstance(fault, ProviderFault) and fault.exit_code == 4
    assert "2 restarts within 10 minutes did not help" in str(fault)
    assert line.restarts == 2
    (account,) = line.accounts.streams.values()
    counts = account.counts()
    assert counts.captured == counts.emitted + counts.dropped_total
    good, body = health(line)
    assert not good and "2 restarts" in body["errors"][0]
    assert not readiness(line)[0]


def test_restarts_long_ago_do_not_count(tmp_path: Path) -> None:
    model = write_poisonable_model(tmp_path / "m.onnx")
    source = pictures(tmp_path / "p", white=set(range(2, 30, 4)))
    options = {"provider": "cpu", "infer_workers": 1, "restarts": 1, "restart_minutes": 1e-6}
    with Pipeline(source, model=str(model), **options) as line:
        line.run()
    assert line.restarts == 7


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_that_is_gone_ends_the_run(tmp_path: Path, workers: int) -> None:
    model = write_poisonable_model(tmp_path / "m.onnx")
    source = pictures(tmp_path / "p", white={20, 21})
    line = Pipeline(source, model=str(model), provider="cpu", infer_workers=workers, restarts=1)
    with pytest.raises(ExceptionGroup, match="failed") as raised, line:
        model.unlink()
        line.run()
    (fault,) = raised.value.exceptions  # both workers' frames were hit, and it is told once
    assert "cannot be opened" in str(fault) and isinstance(fault, ProviderFault)


def test_a_model_that_cannot_be_opened_at_once_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.healing.RETRY_SECONDS", 0.01)
    model = write_poisonable_model(tmp_path / "m.onnx")
    source = pictures(tmp_path / "p", white={20})
    line = Pipeline(source, model=str(model), provider="cpu", infer_workers=1, restarts=3)
    away = model.rename(tmp_path / "away.onnx")
    log: list[str] = []

    def back_at_the_second(record: logging.LogRecord) -> bool:
        log.append(record.getMessage())
        if "restart 3 of 3" in log[-1]:
            away.rename(model)
        return True

    away.rename(model)
    with line:
        model.rename(away)
        logging.getLogger("pipeline.healing").addFilter(back_at_the_second)
        try:
            numbers = [result.frame.seq for result in line]
        finally:
            logging.getLogger("pipeline.healing").removeFilter(back_at_the_second)
    assert numbers == [number for number in range(30) if number != 20]
    assert line.restarts == 1 and sum("cannot be opened" in each for each in log) == 2


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A provider that is a fake, on whose device nothing finds room once there is something in this list, of
    which each try takes one."""
    fake_provider.install(monkeypatch, memory="cpu")
    left: list[str] = []
    make = ort.OrtValue.ortvalue_from_shape_and_type

    def made(*arguments: Any) -> Any:
        if left:
            raise RuntimeError(left.pop())
        return make(*arguments)

    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_shape_and_type", staticmethod(made))
    return left


def test_a_model_whose_buffers_find_no_room_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: list[str]
) -> None:
    monkeypatch.setattr("pipeline.healing.RETRY_SECONDS", 0.01)
    model = write_poisonable_model(tmp_path / "m.onnx")
    shortages = [["Failed to allocate memory"], ["Failed to allocate memory"], []]

    def reopened(config: Config) -> Model:
        full.extend(shortages.pop(0))
        return open_first(config)

    monkeypatch.setattr("pipeline.line.open_first", reopened)
    with Pipeline(pictures(tmp_path / "p", white={7}), model=str(model), infer_workers=1) as line:
        numbers = [result.frame.seq for result in line]
    assert numbers == [number for number in range(30) if number != 7]
    assert line.restarts == 1 and not full and not shortages


def test_a_reload_for_which_there_is_no_room_is_refused(cheap_model: str, full: list[str]) -> None:
    with running(cheap_model, CAM) as run:
        run.until_results("cam", 3)
        model = run.line.model
        full += ["Failed to allocate memory"]
        with pytest.raises(ProviderError, match=r"could not make ready for .*: Failed to allocate memory; "):
            run.line.reload_model()
        assert run.line.model is model
        run.until_results("cam", 3)


@pytest.mark.parametrize("ending", ["stop", "cancel"])
@pytest.mark.parametrize("second", [False, True])
def test_a_line_that_is_to_end_waits_for_no_model(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    ending: str,
    second: bool,
) -> None:
    monkeypatch.setattr("pipeline.healing.RETRY_SECONDS", 60.0)
    detector = write_cheap_model(tmp_path / "d.onnx")
    if second:
        model = poisonable(write_colour_classifier(tmp_path / "m.onnx"))
        options = {"model": str(detector), "classify": str(model), "classify_every": 1}
    else:
        model = write_poisonable_model(tmp_path / "m.onnx")
        options = {"model": str(model)}
    source = pictures(tmp_path / "p", white={2})
    errors: list[Exception] = []

    def run() -> None:
        try:
            line.run()
        except ExceptionGroup as group:
            errors.extend(group.exceptions)

    with Pipeline(source, provider="cpu", restarts=5, **options) as line:
        model.unlink()
        thread = threading.Thread(target=run)
        thread.start()
        try:
            until(lambda: "restart 1 of 5" in caplog.text)
        finally:
            getattr(line, ending)()
            thread.join(10)
    totals = line.accounts.totals()
    assert totals.captured == totals.dropped_total + totals.emitted
    if ending == "stop":  # what happened is told
        (fault,) = errors
        assert isinstance(fault, ProviderFault)
    else:
        assert not errors


@pytest.mark.parametrize("workers", [1, 2])
def test_another_model_takes_the_place_of_one_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    """Which is what an operator does about it."""
    monkeypatch.setattr("pipeline.healing.RETRY_SECONDS", 60.0)
    model = write_poisonable_model(tmp_path / "m.onnx")
    good = write_cheap_model(tmp_path / "good.onnx")
    options = {"provider": "cpu", "restarts": 5, "infer_workers": workers}
    with running(str(model), {"source": CAM["source"], "name": "cam", "live": True}, **options) as run:
        run.until_results("cam", 3)
        model.unlink()
        fault = RuntimeException("the device is lost")
        monkeypatch.setattr(run.line._line.server.current.infer[0], "_session", Broken(fault))
        run.until(lambda: "restart 1 of 5" in caplog.text)
        run.line.reload_model(str(good))
        run.until_results("cam", 20)
        assert readiness(run.line)[0]
    assert "restart 2 of 5" not in caplog.text


def test_tries_end_though_they_take_longer_than_the_minutes_in_which_they_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.healing.RETRY_SECONDS", 0.01)
    model = write_poisonable_model(tmp_path / "m.onnx")
    source = pictures(tmp_path / "p", white={2})
    options = {"provider": "cpu", "restarts": 3, "restart_minutes": 1e-6}
    line = Pipeline(source, model=str(model), **options)
    with pytest.raises(ExceptionGroup), line:
        model.unlink()
        line.run()
    assert caplog.text.count("the model is opened afresh") == 3


def test_an_error_of_ours_is_no_fault_of_the_provider(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.stages.infer import Infer

    def wrong(*_: object) -> None:
        raise TypeError("ours")

    monkeypatch.setattr(Infer, "__call__", wrong)
    line = Pipeline("synthetic:64x48?frames=9", model=cheap_model)
    with pytest.raises(ExceptionGroup) as raised, line:
        line.run()
    assert isinstance(raised.value.exceptions[0], TypeError)
    assert line.restarts == 0


@pytest.mark.parametrize("batch", [1, 4])
def test_another_model_takes_over_without_a_frame_lost(tmp_path: Path, batch: int) -> None:
    """Also one that is fed in another size: each frame is answered by the model that it was prepared for."""
    small = write_cheap_model(tmp_path / "small.onnx", dynamic_batch=True)
    large = write_cheap_model(tmp_path / "large.onnx", size=64, scores=(0.8,), dynamic_batch=True)
    with running(str(small), CAM, provider="cpu", infer_workers=2, batch=batch) as run:
        for model, score in ((large, 0.8), (small, 0.9), (large, 0.8)):
            run.until_results("cam", 20)
            run.line.reload_model(str(model))
            assert run.line.model.name == model.stem
            run.until(lambda score=score: run.of("cam")[-1].detections.confidence[0] == pytest.approx(score))
        assert run.line.flow.errors == []
    came = run.of("cam")
    assert [result.frame.seq for result in came] == list(range(len(came)))
    # One change at each: none goes back.
    scores = [round(float(result.detections.confidence[0]), 2) for result in came]
    assert sum(a != b for a, b in pairwise(scores)) == 3


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many models had gone at each time that memory was given back; garbage is not collected."""
    opened: list[weakref.ref[object]] = []
    times: list[int] = []

    class Noted(Serving):
        def __init__(self, model: Model, *arguments: Any, **options: Any) -> None:
            opened.append(weakref.ref(model.session))
            super().__init__(model, *arguments, **options)

    monkeypatch.setattr("pipeline.line.Serving", Noted)
    monkeypatch.setattr(
        "pipeline.serving.give_back", lambda: times.append(sum(each() is None for each in opened))
    )
    gc.collect()
    gc.disable()
    try:
        yield times
    finally:
        gc.enable()


def test_memory_of_a_model_is_given_back_once_it_has_gone(cheap_model: str, gone: list[int]) -> None:
    """By itself it stays with glibc: a model that was reloaded a hundred times had 350 MB more."""
    with running(cheap_model, CAM) as run:
        for reloads in range(1, 4):
            run.until_results("cam", 3)
            run.line.reload_model()
            run.until(lambda count=reloads: count in gone)


def test_memory_of_a_model_that_failed_is_given_back_too(
    tmp_path: Path, provider: str, gone: list[int]
) -> None:
    model = write_poisonable_model(tmp_path / "m.onnx")
    source = pictures(tmp_path / "p", white={7, 14})
    with Pipeline(source, model=str(model), provider=provider, infer_workers=1) as line:
        line.run()
        assert line.restarts == 2
        assert 2 in gone


def test_thresholds_may_change_too(cheap_model: str) -> None:
    with running(cheap_model, CAM) as run:
        run.until_results("cam", 3)
        run.line.reload_model(conf_threshold=0.95)
        run.until(lambda: len(run.of("cam")[-1].detections) == 0)
        run.line.reload_model(conf_threshold=0.5)
        run.until(lambda: len(run.of("cam")[-1].detections) == 1)


def test_what_cannot_be_served_is_refused_and_changes_nothing(cheap_model: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    fixed = write_cheap_model(tmp_path / "two.onnx", fixed_batch=2)
    with running(cheap_model, CAM, provider="cpu", infer_workers=2) as run:
        run.until_results("cam", 3)
        model = run.line.model
        with pytest.raises(ModelError):
            run.line.reload_model(str(broken))
        with pytest.raises(ConfigError, match="takes 1 frames a run, and this asks for 2"):
            run.line.reload_model(str(fixed))
        with pytest.raises(ConfigError, match="is for the task detect, and 'colours' for classify; start it"):
            run.line.reload_model(str(write_colour_classifier(tmp_path / "colours.onnx", 1)))
        with pytest.raises(ConfigError, match="jsonl: it is no key of the model's"):
            run.line.reload_model(jsonl="x.jsonl")
        with pytest.raises(ConfigError, match="conf_threshold"):
            run.line.reload_model(conf_threshold=7)
        assert run.line.model is model
        run.until_results("cam", 3)
