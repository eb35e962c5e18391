"""JSON Lines: what a line says, that lines stay whole, and how outputs fail."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.classification import Classification, Labels
from pipeline.detections import Detections
from pipeline.errors import SinkOpenError, SinkWriteError
from pipeline.frame import Frame, Result
from pipeline.sinks import JsonLines
from pipeline.sinks.jsonl import record
from tests.test_sinks_common import REPOSITORY, in_child, make_result

SCHEMA = json.loads((REPOSITORY / "docs" / "result.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

WRITER = """
import sys
from pipeline.errors import SinkError
from pipeline.sinks import JsonLines
from tests.test_sinks_common import make_result
try:
    with JsonLines(sys.argv[1]) as sink:
        for seq in range(int(sys.argv[2])):
            sink.write(make_result(seq=seq, boxes=[(1, 2, 3, 4)]), 0)
except SinkError as error:
    print(type(error).__name__, type(error.__cause__).__name__, error, file=sys.stderr)
"""


def strict(line: str) -> dict:
    """Parse a line, refusing NaN and Infinity, which Python's reader lets through."""
    return json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def read(path) -> list[dict]:
    text = path.read_bytes().decode("utf-8")
    assert text.endswith("\n") or not text
    return [strict(line) for line in text.split("\n")[:-1]]


names = st.text(st.characters(codec="utf-8"), max_size=12)


@st.composite
def results(draw):
    height, width = draw(st.integers(1, 50)), draw(st.integers(1, 50))
    count = draw(st.integers(0, 6))
    numbers = st.floats(-100, 200, width=32) | st.sampled_from([math.inf, -math.inf, -0.0])
    boxes = draw(st.lists(st.tuples(*[numbers] * 4), min_size=count, max_size=count))
    confidences = draw(st.lists(st.floats(0, 1, width=32), min_size=count, max_size=count))
    class_ids = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    labels = draw(st.lists(names, max_size=5))
    stages = st.sampled_from(["capture", "preprocess", "infer", "postprocess", "track"])
    frame = Frame(
        draw(names),
        draw(st.integers(0, 10**12)),
        np.zeros((height, width, 3), np.uint8),
        draw(st.none() | st.integers(-(2**40), 2**40)),
        draw(st.none() | st.fractions(Fraction(1, 10**6), Fraction(1))),
        draw(st.floats(0, 1e6)),
        draw(st.floats(0, 4e9)),
        draw(st.dictionaries(stages, st.floats(0, 1e4))),
    )
    return Result(
        frame,
        Detections(
            np.array(boxes, np.float32).reshape(count, 4),
            np.array(confidences, np.float32),
            np.array(class_ids, np.int32),
            labels,
        ),
    )


@given(results(), st.integers(0, 10**6))
def test_every_line_fits_the_schema_and_says_what_the_result_says(tmp_path_factory, result, dropped):
    path = tmp_path_factory.mktemp("lines") / "out.jsonl"
    with JsonLines(path) as sink:
        sink.write(result, dropped)
    (line,) = read(path)
    VALIDATOR.validate(line)
    frame, detections = result.frame, result.detections
    assert (line["stream"], line["frame"], line["dropped_before"]) == (frame.stream, frame.seq, dropped)
    assert (line["height"], line["width"]) == frame.image.shape[:2]
    assert line["pts"] == (
        pytest.approx(frame.pts_seconds, abs=1e-6) if frame.pts_seconds is not None else None
    )
    captured = datetime.strptime(line["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp()
    assert captured == pytest.approx(frame.wall_time, abs=0.0011)
    # Video decode comes before the capture, from which latency counts.
    assert set(line["latency_ms"]) == {*frame.timings, "total"} - {"capture"}
    for name, seconds in frame.timings.items():
        if name == "capture":
            continue
        assert line["latency_ms"][name] == pytest.approx(seconds * 1000, abs=0.006)
    assert len(line["detections"]) == len(detections)
    for found, box, confidence, class_id, label in zip(
        line["detections"],
        detections.xyxy.tolist(),
        detections.confidence.tolist(),
        detections.class_id.tolist(),
        detections.labels,
        strict=True,
    ):
        limits = (frame.width, frame.height) * 2
        clipped = [min(max(side, 0), limit) for side, limit in zip(box, limits, strict=True)]
        assert found["box"] == pytest.approx(clipped, abs=0.0051)
        assert [round(side, 2) for side in found["box"]] == found["box"]
        assert all(math.copysign(1, side) > 0 for side in found["box"])
        assert found["confidence"] == pytest.approx(confidence, abs=0.0000501)
        assert (found["class_id"], found["label"]) == (class_id, label)


def test_the_line_of_the_manual(tmp_path):
    frame = Frame(
        "cam1",
        12,
        np.zeros((1080, 1920, 3), np.uint8),
        12,
        Fraction(1, 10),
        100.0,
        1_767_225_600.0,
        {"preprocess": 0.0011, "infer": 0.0202, "postprocess": 0.0004},
    )
    detections = Detections(
        np.array([[1.25, 2.5, 300, 400]], np.float32),
        np.array([0.87], np.float32),
        np.array([0], np.int32),
        ("person",),
    )
    expected = (
        '{"schema": 1, "stream": "cam1", "frame": 12, "pts": 1.2, "time": "2026-01-01T00:00:00.000Z", '
        '"width": 1920, "height": 1080, "detections": [{"box": [1.25, 2.5, 300.0, 400.0], '
        '"confidence": 0.87, "class_id": 0, "label": "person"}], "latency_ms": {"preprocess": 1.1, '
        '"infer": 20.2, "postprocess": 0.4, "total": 24.9}, "dropped_before": 0}'
    )
    assert json.dumps(record(Result(frame, detections), 0, 100.0249)) == expected


class OneMask:
    def __len__(self):
        return 1

    def rle(self, index):
        assert index == 0
        return {"size": [48, 64], "counts": "`0P1"}


def test_keypoints_polygons_and_masks_are_written_where_there_are_any(tmp_path):
    path = tmp_path / "out.jsonl"
    result = make_result(boxes=[(1, 2, 3, 4)])
    found = replace(
        result.detections,
        keypoints=np.array([[[1.005, 0.1, 0.98768], [3, 2.25, 0]]], np.float32),
        polygons=np.array([[[-0.001, 2.5], [4.25, -7.128], [5, 6], [0.1, 0.2]]], np.float32),
        masks=OneMask(),
    )
    with JsonLines(path) as sink:
        sink.write(Result(result.frame, found), 0)
        sink.write(result, 0)
    line, plain = read(path)
    VALIDATOR.validate(line)
    (detection,) = line["detections"]
    assert detection["keypoints"] == [[pytest.approx(1.0, abs=0.011), 0.1, 0.9877], [3.0, 2.25, 0.0]]
    assert detection["polygon"] == [[0.0, 2.5], [4.25, -7.13], [5.0, 6.0], [0.1, 0.2]]
    assert math.copysign(1, detection["polygon"][0][0]) > 0
    assert detection["mask"] == {"size": [48, 64], "counts": "`0P1"}
    assert set(plain["detections"][0]) == {"box", "confidence", "class_id", "label"}
    for bad in (
        {"keypoints": [[1, 2]]},
        {"keypoints": [[1, 2, 1.5]]},
        {"polygon": [[1, 2]] * 3},
        {"mask": {"size": [4, 4]}},
        {"mask": {"size": [4], "counts": ""}},
    ):
        assert not VALIDATOR.is_valid({**line, "detections": [{**detection, **bad}]}), bad


def test_a_keypoint_that_is_no_number_is_an_error(tmp_path):
    result = make_result(boxes=[(1, 2, 3, 4)])
    found = replace(result.detections, keypoints=np.full((1, 2, 3), np.nan, np.float32))
    with JsonLines(tmp_path / "out.jsonl") as sink, pytest.raises(SinkWriteError, match="cannot be written"):
        sink.write(Result(result.frame, found), 0)


def test_total_is_the_time_since_capture(tmp_path):
    path = tmp_path / "out.jsonl"
    with JsonLines(path) as sink:
        sink.write(make_result(captured_at=time.monotonic() - 5), 0)
    assert 5000 <= read(path)[0]["latency_ms"]["total"] < 15000


def test_the_schema_refuses_what_is_not_in_it():
    good = record(make_result(pts=3, boxes=[(1, 2, 3, 4)]), 0, time.monotonic())
    VALIDATOR.validate(good)
    detection = good["detections"][0]
    for bad in (
        {**good, "extra": 1},
        {key: value for key, value in good.items() if key != "pts"},
        {**good, "schema": 2},
        {**good, "time": "2026-01-01 00:00:00"},
        {**good, "latency_ms": {"infer": 1.0}},
        {**good, "detections": [{**detection, "box": [1, 2, 3]}]},
        {**good, "detections": [{**detection, "confidence": 1.5}]},
        {**good, "detections": [{**detection, "score": 0.5}]},
    ):
        assert not VALIDATOR.is_valid(bad), bad
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_labels_are_utf8_and_a_name_without_utf8_is_escaped(tmp_path):
    path = tmp_path / "out.jsonl"
    result = make_result(stream="cam\udce9", boxes=[(1, 2, 3, 4)])
    detections = Detections(
        result.detections.xyxy, result.detections.confidence, result.detections.class_id, ("Gewürz 犬",)
    )
    with JsonLines(path) as sink:
        sink.write(Result(result.frame, detections), 0)
    assert "Gewürz 犬".encode() in path.read_bytes()
    assert read(path)[0]["stream"] == "cam\udce9"


def test_not_a_number_is_an_error_and_no_line(tmp_path):
    path = tmp_path / "out.jsonl"
    with JsonLines(path) as sink:
        sink.write(make_result(), 0)
        with pytest.raises(SinkWriteError, match="frame 7 of 'cam1' cannot be written as JSON"):
            sink.write(make_result(seq=7, boxes=[(1, 2, math.nan, 4)]), 0)
    assert [line["frame"] for line in read(path)] == [0]


def test_a_follower_sees_each_line_at_once_and_the_old_file_is_gone(tmp_path, caplog):
    path = tmp_path / "out.jsonl"
    path.write_text("old\n" * 1000)
    with JsonLines(path) as sink:
        assert "out.jsonl, 4,000 bytes of an earlier run, is replaced" in caplog.text
        assert path.read_bytes() == b""
        for seq in range(3):
            sink.write(make_result(seq=seq), 0)
            assert len(read(path)) == seq + 1


def test_two_runs_do_not_write_one_file(tmp_path):
    path = tmp_path / "out.jsonl"
    with JsonLines(path) as first:
        first.write(make_result(seq=0), 0)
        with pytest.raises(SinkOpenError, match="another run is writing it"):
            JsonLines(path)
        first.write(make_result(seq=1), 0)
    assert len(read(path)) == 2
    JsonLines(path).close()


def test_aborting_leaves_whole_lines(tmp_path):
    path = tmp_path / "out.jsonl"
    sink = JsonLines(path)
    sink.write(make_result(), 0)
    sink.abort()
    sink.close()
    assert len(read(path)) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "is a folder; give the name of a file"),
        ("missing/out.jsonl", r"the folder \S*missing does not exist; create it"),
        ("file/out.jsonl", "file is not a folder"),
        ("x" * 300, "the name is too long"),
        ("a\0b", "null"),
    ],
)
def test_an_output_that_cannot_be_opened_says_why_at_once(tmp_path, name, says):
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkOpenError, match=says):
        JsonLines(os.path.join(tmp_path, name))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_device_is_one_line_of_error():
    with (
        JsonLines("/dev/full") as sink,
        pytest.raises(SinkWriteError, match="cannot write /dev/full: no space left on the device; 0 lines"),
    ):
        sink.write(make_result(), 0)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("limit", [10, 1000, 1500])
def test_when_the_disk_is_full_the_last_line_is_whole(tmp_path, limit):
    path = tmp_path / "out.jsonl"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    child = in_child(limited + WRITER, path, 100)
    lines = read(path)
    assert limit - 300 < path.stat().st_size <= limit  # a line has about 240 bytes
    assert [line["frame"] for line in lines] == list(range(len(lines)))
    assert child.stderr.startswith("SinkWriteError OSError cannot write")
    assert child.stderr.strip().endswith(f"; {len(lines)} lines were written")


def test_standard_output_stays_open_and_in_order():
    script = (
        'print("before")\n'
        + WRITER
        + "print('after')\nwith JsonLines('-') as sink:\n    sink.write(make_result(seq=9), 0)"
    )
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    child = in_child(script, "-", 2, env=buffered)
    before, first, second, after, again = child.stdout.splitlines()
    assert (before, after) == ("before", "after")
    assert [strict(line)["frame"] for line in (first, second, again)] == [0, 1, 9]
    assert child.stderr == ""


def test_a_reader_that_goes_away_is_an_error_that_says_so():
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, "-", "100000"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        strict(child.stdout.readline())
        child.stdout.close()
        said = child.stderr.read()
        assert child.wait(30) == 0
    assert said.startswith(
        "SinkWriteError BrokenPipeError cannot write standard output: the reader went away"
    )
    assert said.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs non-blocking pipes")
def test_a_non_blocking_output_is_waited_for():
    fill = """
import os, sys
try:
    while True:
        os.write(1, b"\\n" * 4096)
except BlockingIOError:
    print("full", file=sys.stderr, flush=True)
"""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with (
        subprocess.Popen(
            [sys.executable, "-c", fill + WRITER, "-", "1000"],
            cwd=REPOSITORY,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        ) as child,
        open(reader, encoding="utf-8") as stream,
    ):
        os.close(writer)
        assert child.stderr.readline() == "full\n"
        # Nothing tells that it waits now; too early a reading would only make the test easier.
        threading.Event().wait(0.5)
        lines = [line for line in stream if line.strip()]
        assert child.stderr.read() == ""
    assert [strict(line)["frame"] for line in lines] == list(range(1000))


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX descriptors")
def test_a_closed_standard_output_is_an_open_error():
    child = in_child("import os, sys; os.close(1)\n" + WRITER, "-", 1)
    assert child.stderr.startswith("SinkOpenError OSError cannot write standard output")


def test_what_a_frame_or_an_object_was_taken_for():
    frame = make_result(np.zeros((48, 64, 3), np.uint8)).frame
    second = Labels(np.array([2, -1], np.int32), np.array([0.87654, 0], np.float32), ("a", "b", "van"))
    detections = Detections(
        np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32),
        np.array([0.9, 0.8], np.float32),
        np.array([0, 1], np.int32),
        ("car", "dog"),
        second,
    )
    line = record(Result(frame, detections), 0, frame.captured_at)
    assert line["detections"][0]["second"] == {"class_id": 2, "label": "van", "confidence": 0.8765}
    assert "second" not in line["detections"][1] and "classes" not in line
    VALIDATOR.validate(json.loads(json.dumps(line)))
    whole = Classification(np.array([1, 0], np.int32), np.array([0.7, 0.1], np.float32), ("cat", "tabby"))
    line = record(Result(frame, Detections.empty(), whole), 0, frame.captured_at)
    assert line["classes"] == [
        {"class_id": 1, "label": "tabby", "confidence": 0.7},
        {"class_id": 0, "label": "cat", "confidence": 0.1},
    ]
    assert line["detections"] == []
    VALIDATOR.validate(json.loads(json.dumps(line)))


def test_a_line_that_cannot_be_cut_off_again_is_said(tmp_path: Path) -> None:
    """As on a disk that became read-only in the middle of it."""

    class Failing(io.FileIO):
        calls = 0

        def write(self, data: Any) -> int:
            self.calls += 1
            if self.calls > 1:
                raise OSError(errno.EIO, "Input/output error")
            return super().write(data[: len(data) // 2])

        def truncate(self, size: int | None = None) -> int:
            raise OSError(errno.EROFS, "Read-only file system")

    sink = JsonLines(tmp_path / "o.jsonl")
    sink.close()
    sink._file = Failing(tmp_path / "o.jsonl", "w")
    with pytest.raises(
        SinkWriteError, match="input/output error; 0 lines were written, and a part of another"
    ):
        sink.write(make_result(), 0)
    sink.close()
    assert (tmp_path / "o.jsonl").read_bytes().count(b"\n") == 0
