"""FFmpeg's log lines reach Python's logging, redacted, and only when asked for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import av
import av.logging
import pytest

from pipeline.config import StreamConfig
from pipeline.errors import SourceOpenError
from pipeline.sources import open_source, parse_source, read_number, route_ffmpeg_log
from pipeline.sources.fflog import frame_threads_allowed
from tests.clips import make_clip
from tests.servers import http_server


@pytest.fixture(autouse=True)
def _switched_off() -> Iterator[None]:
    yield
    route_ffmpeg_log(None)


def opened(text: str):
    return open_source(parse_source(text), StreamConfig(source=text), threading.Event())


def test_off_by_default(tmp_path, caplog, capfd):
    path = tmp_path / "x.mp4"
    path.write_bytes(bytes(100))
    with pytest.raises(SourceOpenError):
        opened(str(path))
    assert caplog.text == "" and capfd.readouterr().err == ""


def test_lines_are_routed_without_the_password(tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    route_ffmpeg_log(logging.DEBUG)
    with http_server(tmp_path) as server, pytest.raises(SourceOpenError):
        opened(server.with_login("me", "s3cret") + "/status/404?token=t0ken")
    lines = [r for r in caplog.records if r.name == "pipeline.sources.ffmpeg"]
    assert any("404" in r.getMessage() for r in lines)
    assert {r.name for r in caplog.records} == {"pipeline.sources.ffmpeg"}
    assert "s3cret" not in caplog.text and "t0ken" not in caplog.text
    assert capfd.readouterr().err == ""


def test_redaction_of_a_line_that_holds_an_address(caplog):
    route_ffmpeg_log(logging.WARNING)
    av.logging.log(av.logging.ERROR, "rtsp", "cannot reach rtsp://me:s3cret@cam/x\n")
    assert "rtsp: cannot reach rtsp://***@cam/x" in caplog.text


def test_level(caplog):
    route_ffmpeg_log(logging.ERROR)
    av.logging.log(av.logging.WARNING, "x", "a warning")
    assert caplog.text == ""
    with pytest.raises(ValueError, match="expected one of"):
        route_ffmpeg_log(17)


def test_frame_threads_are_off_while_routed(tmp_path):
    clip = make_clip(tmp_path / "a.mp4", frames=30)
    for level, allowed, threads in (
        (None, True, "AUTO"),
        (logging.WARNING, False, "SLICE"),
        (None, True, "AUTO"),
    ):
        route_ffmpeg_log(level)
        assert frame_threads_allowed() is allowed
        with opened(str(clip)) as source:
            assert source._video.thread_type.name == threads
            assert [read_number(p.image) for p in source] == list(range(30))
