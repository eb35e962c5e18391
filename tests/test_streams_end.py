"""A stream that is added while the line ends: it is in the line, or was never there; and the line ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline import Pipeline
from pipeline.config import make_config
from pipeline.errors import PipelineError, SourceOpenError
from pipeline.sources import Source, open_source
from pipeline.stages.capture import Capture
from tests.test_stages_classify import write_colour_classifier
from tests.test_streams import ENDLESS
from tests.test_supervision import OTHER, running

FRAMES = 3
FILE = {"source": f"synthetic:64x48?frames={FRAMES}", "name": "first"}


@pytest.fixture
def classifier(tmp_path: Path) -> str:
    return str(write_colour_classifier(tmp_path / "colours.onnx"))


def wait_for(condition: Callable[[], object], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return bool(condition())


@contextmanager
def in_the_middle(line: Pipeline, act: Callable[[], None]) -> Iterator[None]:
    """``act`` where the line hears of the stream ``new``, before anything else does."""
    assert line._line is not None
    told = line._line.streams._added

    def told_of(name: str) -> None:
        if name == "new":
            act()

    told.insert(0, told_of)
    yield
    told.remove(told_of)


def test_it_is_refused_while_the_last_frames_are_with_the_second_model(
    cheap_model: str, classifier: str
) -> None:
    going = threading.Event()
    with Pipeline(make_config({"streams": [FILE], "model": cheap_model, "classify": classifier})) as line:
        run = line.second.session.run

        def stand_still(blob: np.ndarray) -> object:
            assert going.wait(10)
            return run(blob)

        line.second.session.run = stand_still
        runs = threading.Thread(target=line.run, daemon=True)
        runs.start()
        try:
            assert wait_for(lambda: line.flow is not None)
            objects = line.flow._merges[1]
            assert wait_for(lambda: all(lane._closed for lane in objects._channels))
            with pytest.raises(PipelineError, match="cannot start stream 'new': the line has ended"):
                line.add_stream(ENDLESS, name="new")
        finally:
            going.set()
        runs.join(10)
        ended = not runs.is_alive()
        line.cancel()
    assert ended
    assert list(line.accounts.streams) == list(line.sources) == ["first"]
    assert line.accounts.streams["first"].counts().emitted == FRAMES


def test_it_is_refused_while_the_last_results_are_taken(cheap_model: str, classifier: str) -> None:
    with Pipeline(make_config({"streams": [FILE], "model": cheap_model, "classify": classifier})) as line:
        for number, _ in enumerate(line):
            if number == 0:
                assert wait_for(lambda: line.flow._merges[1]._over)
                with pytest.raises(PipelineError, match="cannot start stream 'new': the line has ended"):
                    line.add_stream(ENDLESS, name="new")
    assert list(line.accounts.streams) == list(line.sources) == ["first"]


def test_the_line_does_not_end_in_the_middle_of_it(cheap_model: str, classifier: str) -> None:
    first = {**FILE, "source": ENDLESS}
    with Pipeline(make_config({"streams": [first], "model": cheap_model, "classify": classifier})) as line:
        runs = threading.Thread(target=line.run, daemon=True)
        runs.start()
        account = line.accounts.streams["first"]
        assert wait_for(lambda: account.counts().emitted)

        def no_other_stream() -> None:
            line._line.streams._streams["first"].capture.stop.set()
            assert wait_for(lambda: account.ending is not None and account.wait_idle(0.0))
            wait_for(lambda: line.flow._merges[0]._over, 0.2)

        with in_the_middle(line, no_other_stream):
            line.add_stream(FILE["source"], name="new")
        runs.join(10)
        ended = not runs.is_alive()
        line.cancel()
    assert ended
    assert line.accounts.streams["new"].counts().emitted == FRAMES


@pytest.mark.parametrize(
    ("end", "why"), [(Pipeline.stop, "the line is being stopped"), (Pipeline.cancel, "the line has ended")]
)
def test_the_line_is_ended_in_the_middle_of_it(
    end: Callable[[Pipeline], None], why: str, cheap_model: str, classifier: str
) -> None:
    with running(cheap_model, OTHER, classify=classifier, target_age_ms=1000) as run:
        run.until_results("other", 3)
        with (
            in_the_middle(run.line, lambda: end(run.line)),
            pytest.raises(PipelineError, match=f"cannot start stream 'new': {why}"),
        ):
            run.line.add_stream(ENDLESS, name="new", live=True)
    assert list(run.line.accounts.streams) == list(run.line.sources) == ["other"]


def test_one_that_never_was_in_the_line_does_not_hide_that_no_other_opened(cheap_model: str) -> None:
    gone = {"source": "rtsp://127.0.0.1:9/x", "reconnect": False, "name": "gone"}
    tries = {"source": "rtsp://127.0.0.1:9/y", "backoff": 20, "name": "tries"}
    with Pipeline(make_config({"model": cheap_model, "streams": [gone, tries]})) as line:
        failed: list[ExceptionGroup] = []

        def run() -> None:
            try:
                line.run()
            except* SourceOpenError as group:
                failed.append(group)

        runs = threading.Thread(target=run)
        runs.start()
        lost = [line.accounts.streams[name].link for name in ("gone", "tries")]
        assert wait_for(lambda: all(sum(link.failures.values()) for link in lost))

        def end() -> None:
            line._line.streams.remove("tries")
            line.stop()

        with in_the_middle(line, end), pytest.raises(PipelineError, match="being stopped"):
            line.add_stream(ENDLESS, name="new")
        runs.join(10)
        assert not runs.is_alive()
    assert len(failed) == 1


def test_a_stop_reaches_one_that_is_just_starting(cheap_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its source sits in a native call by then, as other streams' may."""
    monkeypatch.setattr("pipeline.app.STOP_GRACE_SECONDS", 0.2)
    opens, answers = threading.Event(), threading.Event()
    with running(cheap_model, OTHER) as run:
        run.until_results("other", 3)
        flow, stopper = run.line.flow, threading.Thread(target=run.line.stop)
        feed = flow.feed

        def feed_and_be_stopped(*arguments) -> threading.Thread:
            stopper.start()
            stopper.join(0.3)
            thread = feed(*arguments)
            opens.wait(1)
            return thread

        def silent(*arguments) -> Source:
            opens.set()
            assert answers.wait(20)
            return open_source(*arguments)

        monkeypatch.setattr(flow, "feed", feed_and_be_stopped)
        monkeypatch.setattr("pipeline.streams.Capture", partial(Capture, open_source=silent))
        run.line.add_stream(ENDLESS, name="new", live=True)
        stopper.join()
        run._thread.join(3)
        ended = not run._thread.is_alive()
        answers.set()
        assert ended
