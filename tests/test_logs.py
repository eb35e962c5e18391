"""The log is written by a thread of its own: whoever does not read it holds up nothing."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from pipeline import logs
from pipeline.logs import Behind, JsonFormatter
from pipeline.redact import conceal


class Reader(logging.Handler):
    """Reads when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may, self.read, self.begun = threading.Event(), list[str](), threading.Event()
        self.each = 0.0
        """Seconds that a line takes."""

    def emit(self, record: logging.LogRecord) -> None:
        self.begun.set()
        assert self.may.wait(20)
        time.sleep(self.each)
        self.read.append(self.format(record))


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.setattr(logs, "HANGING_SECONDS", 0.05)
    reader = Reader()
    yield reader
    reader.may.set()


def record(text: str, *arguments: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("a", level, "", 0, text, arguments, None)


def test_what_was_said_is_written_in_order_as_it_was_then(reader: Reader) -> None:
    behind, changing = Behind(reader), ["then"]
    behind.handle(record("it was %s", changing))
    behind.handle(record("second"))
    changing[0] = "now"
    reader.may.set()
    assert behind.end()
    assert reader.read == ["it was ['then']", "second"]


def test_nobody_waits_for_a_reader_and_what_there_is_no_room_for_is_counted(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MOST_RECORDS", 3)
    behind = Behind(reader)
    behind.handle(record("0"))
    assert reader.begun.wait(20)
    for number in range(1, 9):
        behind.handle(record("%d", number))
    assert not behind.end()
    reader.may.set()
    behind._thread.join(20)
    assert reader.read[:4] == ["0", "1", "2", "3"]
    (told,) = reader.read[4:]
    assert told.startswith("5 lines of the log are missing here")


def test_a_warning_is_written_before_whatever_comes_next(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a crash."""
    monkeypatch.setattr(logs, "MOMENT_SECONDS", 20)  # this machine may be slow
    behind, reader.each = Behind(reader), 0.01
    reader.may.set()
    for number in range(3):
        behind.handle(record("said"))
        behind.handle(record("warned", level=logging.WARNING))
        assert reader.read == ["said", "warned"] * (number + 1)
    assert behind.end()


def test_a_reader_that_hangs_is_waited_for_once(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOMENT_SECONDS", 0.5)
    behind, begun = Behind(reader), time.monotonic()
    for _ in range(20):
        behind.handle(record("warned", level=logging.WARNING))
    assert 0.5 <= time.monotonic() - begun < 5
    reader.may.set()
    assert behind.end() and len(reader.read) == 20


def test_nothing_is_lost_for_who_reads_slowly(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for want of room nor at the end."""
    monkeypatch.setattr(logs, "MOST_RECORDS", 30)
    monkeypatch.setattr(logs, "MOMENT_SECONDS", 20)
    monkeypatch.setattr(logs, "HANGING_SECONDS", 1)
    behind, reader.each = Behind(reader), 0.05
    reader.may.set()
    for number in range(40):
        behind.handle(record("%d", number))
    assert len(reader.read) < 15  # the others take longer than a reader may hang
    assert behind.end()
    assert reader.read == [str(number) for number in range(40)]


def test_what_waits_keeps_nothing_of_the_frames_of_an_error(reader: Reader) -> None:
    class Picture:
        pass

    def fails() -> None:
        picture = Picture()
        seen.append(weakref.ref(picture))
        raise ValueError("no picture")

    seen, behind = list[weakref.ref[Picture]](), Behind(reader)
    try:
        fails()
    except ValueError:
        said = record("it failed")
        said.exc_info = sys.exc_info()
        behind.handle(said)
        del said
    gc.collect()
    assert seen[0]() is None
    reader.may.set()
    assert behind.end()
    (text,) = reader.read
    assert "it failed" in text and "in fails" in text and text.endswith("ValueError: no picture")


def test_a_secret_is_in_no_part_of_a_line() -> None:
    conceal("s3cr-canary")
    said = record("it is s3cr-canary")
    said.data = {"s3cr-canary": ["s3cr-canary", {"a": "x s3cr-canary"}, 1.5]}
    line = JsonFormatter().format(said)
    assert "canary" not in line
    assert json.loads(line)["data"]["***"][2] == 1.5


@pytest.mark.parametrize(
    ("opened", "log_format"), [(os.pipe, "text"), (os.pipe, "json"), (os.openpty, "text")]
)
def test_a_log_that_nobody_reads_holds_up_neither_the_line_nor_its_end(
    cheap_model: str, tmp_path: Path, opened: Callable[[], tuple[int, int]], log_format: str
) -> None:
    """Nor does a terminal (Ctrl-S)."""
    ours, theirs = opened()
    lines, video = tmp_path / "a.jsonl", tmp_path / "a.mp4"
    arguments = ["synthetic:64x48@50", "--model", cheap_model, "--jsonl", lines, "--video", video]
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", *map(str, arguments), "--log-format", log_format],
        stderr=theirs, stdin=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    ) as process:  # fmt: skip
        try:
            text = b""
            while b"endless" not in text:
                text += os.read(ours, 1 << 16)
            full = os.open(f"/proc/self/fd/{theirs}", os.O_WRONLY | os.O_NONBLOCK)
            with pytest.raises(BlockingIOError):
                while True:
                    os.write(full, b" ")
            os.close(full)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            os.close(theirs)
            os.close(ours)
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(written)
