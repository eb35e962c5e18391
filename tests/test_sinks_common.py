"""The table of sinks, the null sink, and how leaving a sink's context treats errors."""

from __future__ import annotations

import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline import Pipeline
from pipeline.config import make_config
from pipeline.detections import Detections
from pipeline.errors import SinkOpenError, SinkWriteError
from pipeline.frame import Frame, Image, Result
from pipeline.sinks import SINKS, JsonLines, Null, Sink, VideoFiles, open_sinks

REPOSITORY = Path(__file__).resolve().parent.parent


def make_result(
    image: Image | None = None,
    *,
    seq: int = 0,
    stream: str = "cam1",
    pts: int | None = None,
    time_base: Fraction | None = Fraction(1, 1000),
    captured_at: float | None = None,
    boxes: list[tuple[float, float, float, float]] | None = None,
    source: str | None = None,
) -> Result:
    """A result of a grey picture (or of ``image``) with one person in each of ``boxes``."""
    if image is None:
        image = np.full((48, 64, 3), 128, np.uint8)
    captured_at = time.monotonic() if captured_at is None else captured_at
    frame = Frame(stream, seq, image, pts, time_base, captured_at, 1_767_225_600.0, source=source)
    count = len(boxes or ())
    return Result(
        frame,
        Detections(
            np.array(boxes or np.zeros((0, 4)), np.float32),
            np.full(count, 0.9, np.float32),
            np.zeros(count, np.int32),
            ("person",),
        ),
    )


def in_child(script: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own; its warnings are errors."""
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    return subprocess.run(
        command, cwd=REPOSITORY, text=True, timeout=50, check=False, **{"capture_output": True, **options}
    )  # type: ignore[call-overload, no-any-return]


class Failing(Sink):
    """A sink whose disk is full when it is closed."""

    def write(self, result: Result, dropped_before: int) -> None:
        pass

    def close(self) -> None:
        raise SinkWriteError("cannot write x: no space left on the device")

    def abort(self) -> None:
        pass


def test_the_null_sink_takes_everything_and_can_be_ended_either_way():
    with Null() as sink:
        sink.write(make_result(), 3)
    sink.abort()


def test_a_sink_made_from_the_null_sink_is_told_of_results(cheap_model: str) -> None:
    class Counting(Null):
        seen = 0

        def write(self, result: Result, dropped_before: int) -> None:
            self.seen += 1

    sink = Counting()
    with Pipeline("synthetic:64x48?frames=7", sinks=[sink], model=cheap_model) as line:
        line.run()
    assert sink.seen == 7


def test_an_error_of_closing_is_raised():
    with pytest.raises(SinkWriteError, match="no space left"), Failing():
        pass


def test_an_error_of_closing_does_not_hide_the_failure_under_way():
    with pytest.raises(ZeroDivisionError) as caught, Failing():
        raise ZeroDivisionError
    assert any("no space left" in note for note in caught.value.__notes__)


def config_of(**options):
    return make_config({"streams": [{"source": "a.mp4"}], **options})


def test_no_output_asked_for_gives_the_null_sink():
    (sink,) = open_sinks(config_of(), ["a"], on_quit=lambda: None)
    assert isinstance(sink, Null)


def test_every_output_asked_for_is_opened(tmp_path):
    config = config_of(jsonl=str(tmp_path / "a.jsonl"), video=str(tmp_path / "a.mp4"))
    sinks = open_sinks(config, ["a"], on_quit=lambda: None)
    assert {type(sink) for sink in sinks} == {JsonLines, VideoFiles}
    for sink in sinks:
        sink.close()


def test_a_wrong_video_name_does_not_cost_the_old_results(tmp_path):
    results = tmp_path / "a.jsonl"
    results.write_text("old")
    with pytest.raises(SinkOpenError, match="unknown extension"):
        open_sinks(config_of(jsonl=str(results), video="a.gif"), ["a"], on_quit=lambda: None)
    assert results.read_text() == "old"


def test_a_wrong_name_for_the_results_leaves_no_part_of_a_video(tmp_path):
    config = config_of(jsonl=str(tmp_path / "missing" / "a.jsonl"), video=str(tmp_path / "a.mp4"))
    with pytest.raises(SinkOpenError, match="does not exist"):
        open_sinks(config, ["a"], on_quit=lambda: None)
    assert list(tmp_path.iterdir()) == []


def test_the_names_of_the_table_are_keys_of_the_configuration():
    assert set(SINKS) - {"null"} <= set(type(config_of()).model_fields)
