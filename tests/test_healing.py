"""Several models of one line: the second one is opened afresh as the first is, within what both may have."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from pipeline import Pipeline
from pipeline.config import make_config
from pipeline.detections import Detections
from pipeline.errors import ModelError, ProviderError, ProviderFault
from pipeline.flow import Dropped
from pipeline.frame import Result
from pipeline.healing import Healed, Restarts
from pipeline.line import open_second
from pipeline.metrics import Collector, readiness
from pipeline.runtime.faults import BoundRunError
from pipeline.runtime.model import open_model
from pipeline.serving import SecondServer
from pipeline.stages.classify import Classify
from pipeline.stages.match import Match, Matched
from pipeline.summary import summarize
from tests import fake_provider
from tests.test_serving import CAM, Broken, pictures, poisonable
from tests.test_stages_classify import answers, scene, write_colour_classifier
from tests.test_supervision import running

FAULT = RuntimeException("CUDA failure 2: out of memory")


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is set, no session starts on the fake provider, which is the first choice."""
    fake_provider.install(monkeypatch, memory="cpu")
    away, start = threading.Event(), ort.InferenceSession

    def session(model: Any, options: Any = None, **given: Any) -> Any:
        if away.is_set() and given["providers"] != ["CPUExecutionProvider"]:
            raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected")
        return start(model, options, **given)

    monkeypatch.setattr(ort, "InferenceSession", session)
    return away


class Failing:
    """In the place of a session's ``run``: the nth call fails."""

    def __init__(self, run: Callable[[Any], Any], at: int = 1) -> None:
        self._run, self._left = run, at

    def __call__(self, blob: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            raise FAULT
        return self._run(blob)


def asking(folder: Path) -> dict[str, Any]:
    """Each frame's object is asked about; a white one makes a run fail, really."""
    return {"classify": str(poisonable(write_colour_classifier(folder / "c.onnx"))), "classify_every": 1}


def test_a_fault_of_the_second_model_costs_its_frames_and_the_line_goes_on(
    cheap_model: str, tmp_path: Path
) -> None:
    source = pictures(tmp_path / "p", white={7, 19})
    gc.collect()
    gc.disable()  # what failed goes by itself
    try:
        with Pipeline(source, model=cheap_model, provider="cpu", **asking(tmp_path)) as line:
            before = weakref.ref(line.second.session)
            results = list(line)
        assert before() is None
    finally:
        gc.enable()
    assert [result.frame.seq for result in results] == [
        number for number in range(30) if number not in (7, 19)
    ]
    assert all(answers(result)[0] is not None for result in results)
    assert line.accounts.totals().dropped == {("classify", "provider_fault"): 2}
    assert line.restarts == 2 and line.second.name == "colours"
    (told,) = [each for each in Collector(line).collect() if each.name == "framerail_model_restarts"]
    assert told.samples[0].value == summarize(line)["model_restarts"] == 2


def test_too_many_faults_of_the_second_model_end_the_run(cheap_model: str, tmp_path: Path) -> None:
    source = pictures(tmp_path / "p", white={3, 6, 9, 12})
    line = Pipeline(source, model=cheap_model, provider="cpu", restarts=2, **asking(tmp_path))
    with pytest.raises(ExceptionGroup) as raised, line:
        line.run()
    (fault,) = raised.value.exceptions
    assert isinstance(fault, ProviderFault) and fault.exit_code == 4
    assert "2 restarts within 10 minutes did not help" in str(fault)
    assert line.restarts == 2 and not line.healing
    counts = line.accounts.totals()
    assert counts.captured == counts.emitted + counts.dropped_total
    assert counts.dropped[("classify", "provider_fault")] == 2


def test_a_second_model_that_has_become_another_one_is_not_taken(cheap_model: str, tmp_path: Path) -> None:
    """Answers are kept as numbers: they would be told with its names."""
    source = pictures(tmp_path / "p", white={20})
    options = asking(tmp_path)
    line = Pipeline(source, model=cheap_model, provider="cpu", restarts=1, **options)
    with pytest.raises(ExceptionGroup) as raised, line:
        card = Path(options["classify"]).with_suffix(".toml")
        card.write_text(card.read_text().replace("green", "lime"))
        line.run()
    (fault,) = raised.value.exceptions
    assert isinstance(fault, ProviderFault) and "'colours' has other labels now" in str(fault)


def test_streams_without_objects_go_on_while_the_second_model_is_opened_afresh(
    cheap_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 100
    names = ("asking", "other")
    streams = [{"source": f"synthetic:64x48?frames={count}", "name": name} for name in names]
    classifier = str(write_colour_classifier(tmp_path / "colours.onnx"))
    order: dict[str, list[int]] = {name: [] for name in names}
    through = threading.Event()
    match = Match.__call__

    def nothing_in_the_other(self: Match, results: list[Result]) -> list[Result | Matched]:
        seen = [
            result if result.stream == "asking" else replace(result, detections=Detections.empty())
            for result in results
        ]
        return match(self, seen)

    def opened_late(config: Any) -> Any:
        assert line.healing and not readiness(line)[0]
        assert through.wait(10), f"only so many came past: {len(order['other'])}"
        return open_second(config)

    config = make_config({"streams": streams, "model": cheap_model, "classify": classifier})
    with Pipeline(config) as line:
        monkeypatch.setattr(Match, "__call__", nothing_in_the_other)
        monkeypatch.setattr("pipeline.line.open_second", opened_late)
        monkeypatch.setattr(line.second.session, "run", Failing(line.second.session.run))
        for result in line:
            order[result.stream].append(result.frame.seq)
            if len(order["other"]) == count:
                through.set()
    assert order == {"other": list(range(count)), "asking": list(range(1, count))}
    assert line.accounts.totals().dropped == {("classify", "provider_fault"): 1}


def test_the_first_model_is_reloaded_beside_a_second_one_that_was_healed(
    cheap_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = str(write_colour_classifier(tmp_path / "colours.onnx"))
    with running(cheap_model, CAM, classify=classifier, classify_every=1) as run:
        for times in (1, 2):
            run.until_results("cam", 3)
            session = run.line.second.session
            monkeypatch.setattr(session, "run", Failing(session.run))
            run.until(lambda times=times: run.line.restarts == times)
            assert run.line.second.session is not session
            before = run.line.model
            run.line.reload_model()
            assert run.line.model is not before
        run.until_results("cam", 3)
    came = [result.frame.seq for result in run.of("cam")]
    assert came == sorted(set(came)) and len(came) == came[-1] + 1 - 2


def test_only_frames_without_an_answer_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One crop a run: the second of three fails, and another frame has waited behind one of its stream."""
    path = str(write_colour_classifier(tmp_path / "colours.onnx", 1))
    model = open_model(path, "cpu")
    monkeypatch.setattr(model.session, "run", Failing(model.session.run, at=2))
    server = SecondServer(Classify(model), lambda: Classify(open_model(path, "cpu")), Restarts(3, 600))
    match = Match(model.labels, None, 10)
    items = match([scene(0, [("red", 40, 40, 0)], stream) for stream in "abc"])
    behind = scene(1, [], "d")
    first, second, third, fourth = server([*items, behind])
    assert answers(first) == ["red"] and fourth is behind
    assert second == Dropped(items[1], "provider_fault") and third == Dropped(items[2], "provider_fault")
    # Their objects are asked about with the next frame that shows them.
    (later,) = server(match([scene(1, [("blue", 40, 40, 0)], "b")]))
    assert answers(later) == ["blue"]


class Stub:
    """What a line made of a model: a stand-in, with calls that fail or don't."""

    def __init__(self) -> None:
        self.model: Any = SimpleNamespace(session=SimpleNamespace(active="FakeExecutionProvider"))


def fail(_: list[Any]) -> list[Any]:
    raise RuntimeException("the device is lost")


def test_models_of_one_line_share_their_restarts() -> None:
    now = 0.0
    restarts = Restarts(2, 60, lambda: now)
    one, other = (Healed(Stub(), Stub, restarts) for _ in range(2))
    for healed in (one, other):
        before = healed.current
        assert healed.attempt(before, fail, []) is None and healed.current is not before
    now = 61.0  # those are forgotten
    for healed in (other, one):
        assert healed.attempt(healed.current, fail, []) is None
    assert restarts.made == 4
    with pytest.raises(ProviderFault, match="2 restarts within 1 minutes did not help"):
        other.attempt(other.current, fail, [])
    assert one.attempt(one.current, fail, []) is None  # told once
    assert restarts.made == 4 and not restarts.healing


@pytest.mark.parametrize(
    "fault",
    [FAULT, MemoryError(), ModelError("it is being copied"), BoundRunError("CUDA failure 2")],
    ids=repr,
)
def test_a_fault_while_a_model_is_opened_afresh_is_a_try_that_failed(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr("pipeline.healing.RETRY_SECONDS", 0.0)
    restarts, tries = Restarts(3, 60), iter([fault, fault])

    def reopen() -> Stub:
        if (error := next(tries, None)) is not None:
            raise error
        return Stub()

    healed = Healed(Stub(), reopen, restarts)
    assert healed.attempt(healed.current, fail, []) is None
    assert restarts.made == 1 and restarts.left() == 0


def test_an_error_of_ours_while_a_model_is_opened_afresh_is_raised_at_once() -> None:
    def wrong() -> Stub:
        raise TypeError("ours")

    restarts = Restarts(3, 60)
    healed = Healed(Stub(), wrong, restarts)
    with pytest.raises(TypeError, match="ours"):
        healed.attempt(healed.current, fail, [])
    assert restarts.left() == 2 and not restarts.healing


def test_models_are_opened_afresh_one_at_a_time() -> None:
    """Else two that lost one device use up within a second the tries that are to outlast its reset."""
    restarts = Restarts(4, 60)
    seen: list[str] = []

    def reopen_one() -> Stub:
        thread.start()
        thread.join(0.2)
        seen.append("one")
        return Stub()

    def reopen_other() -> Stub:
        seen.append("other")
        return Stub()

    one, other = Healed(Stub(), reopen_one, restarts), Healed(Stub(), reopen_other, restarts)
    thread = threading.Thread(target=lambda: other.attempt(other.current, fail, []))
    assert one.attempt(one.current, fail, []) is None
    thread.join(10)
    assert seen == ["one", "other"] and restarts.made == 2


def test_a_second_model_is_opened_afresh_by_the_config_of_now(
    cheap_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unplugged: threading.Event
) -> None:
    """Whoever moves the line off a device that is broken moves both models."""
    classifier = str(write_colour_classifier(tmp_path / "colours.onnx"))
    with running(cheap_model, CAM, classify=classifier, classify_every=1, restarts=1) as run:
        run.until_results("cam", 3)
        unplugged.set()
        run.line.reload_model(provider="cpu")
        session = run.line.second.session
        assert session.active == "FakeExecutionProvider"  # which serves it still
        monkeypatch.setattr(session, "run", Failing(session.run))
        run.until(lambda: run.line.restarts == 1)
        assert run.line.second.session.requested == "cpu"
        run.until_results("cam", 3)


def test_a_model_is_opened_in_another_way_where_that_is_said_between_two_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.healing.RETRY_SECONDS", 0.0)
    good = Stub()

    def away() -> Stub:
        healed.reopen_by(lambda: good)
        raise ProviderError("the device is away")

    healed = Healed(Stub(), away, Restarts(2, 60))
    assert healed.attempt(healed.current, fail, []) is None
    assert healed.current is good


@pytest.mark.parametrize("cores", [1, 4])
def test_a_model_that_lands_on_another_provider_is_served_by_the_lines_workers(
    cheap_model: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    unplugged: threading.Event,
    cores: int,
) -> None:
    """Of which an accelerator would have two, and the CPU one for each core."""
    monkeypatch.setattr("pipeline.decide.usable_cores", lambda: cores)
    caplog.set_level(logging.INFO)
    with running(cheap_model, CAM, infer_threads=1) as run:

        def told() -> list[str]:
            """Where the model runs, by all that says it."""
            (info,) = [each for each in Collector(run.line).collect() if each.name == "framerail_provider"]
            summary = summarize(run.line)
            assert summary["settings"]["workers"] == len(run.line._line.server.current.infer) == 2
            return [
                run.line.model.session.active,
                summary["provider"]["active"],
                *(sample.labels["active"] for sample in info.samples),
            ]

        run.until_results("cam", 3)
        assert told() == ["FakeExecutionProvider"] * 3
        unplugged.set()
        for infer in run.line._line.server.current.infer:
            monkeypatch.setattr(infer, "_session", Broken(FAULT))
        run.until(lambda: run.line.restarts == 1)
        run.until_results("cam", 20)
        assert told() == ["CPUExecutionProvider"] * 3
        assert "the model runs again on CPUExecutionProvider, not FakeExecutionProvider" in caplog.text
        unplugged.clear()
        run.line.reload_model()
        run.until_results("cam", 20)
        assert told() == ["FakeExecutionProvider"] * 3
        run.line.reload_model(infer_threads=2)  # less workers on the CPU, had the line begun so
        run.line.reload_model(provider="cpu")
        run.until_results("cam", 20)
        assert told() == ["CPUExecutionProvider"] * 3
    assert run.line.restarts == 1
