"""The command against real servers, with the default model: live, with passwords, and for long."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.sample import SAMPLE
from tests.servers import gst_rtsp_server, http_server, rtsp_rs_server, silent_server

CANARY = "s3cretcanary"
MEMORY = """
import gc, sys
import psutil
from pipeline import Pipeline

process = psutil.Process()
source = "synthetic:64x48?frames=30000"
with Pipeline(source, model=sys.argv[1], infer_workers=2, channel_capacity=4) as line:
    for result in line:
        if result.frame.seq % 500 == 0:
            gc.collect()
            print(result.frame.seq, process.memory_info().rss / 2**20)
assert line.accounts.totals().emitted == 30_000
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "run", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 30) -> tuple[str, str]:
    try:
        return process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.timeout(90)
@pytest.mark.parametrize("serve", [rtsp_rs_server, gst_rtsp_server])
def test_an_rtsp_camera_is_read_live_and_stops_cleanly(tmp_path: Path, serve) -> None:  # type: ignore[no-untyped-def]
    """Four seconds from a real server; detections come out, and SIGTERM ends it with everything finished."""
    with serve(SAMPLE) as server:
        process = start(
            tmp_path,
            server.url,
            "--name",
            "cam",
            "--jsonl",
            "out.jsonl",
            "--video",
            "v.mp4",
            "--summary",
            "s.json",
        )
        deadline = time.monotonic() + 30
        out = tmp_path / "out.jsonl"
        while time.monotonic() < deadline and process.poll() is None:
            if out.exists() and len(out.read_text().splitlines()) >= 40:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = finish(process)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    summary = json.loads((tmp_path / "s.json").read_text())
    stream = summary["streams"]["cam"]
    assert summary["conserved"] is True
    assert stream["emitted"] >= 40
    assert set(stream["dropped"]) <= {"capture/drop_oldest"}
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == stream["emitted"]
    assert [line["frame"] for line in lines] == sorted({line["frame"] for line in lines})
    assert any(found["label"] in ("person", "cat") for line in lines for found in line["detections"])
    with av.open(tmp_path / "v.mp4") as video:
        written = summary["outputs"]["video"]["written"]
        assert sum(1 for _ in video.decode(video=0)) == written
        # On a busy machine some may find no room: they are counted.
        assert written + summary["outputs"]["video"]["dropped"].get("cam", 0) == stream["emitted"]


@pytest.mark.timeout(90)
def test_a_camera_that_dies_ends_its_stream_while_the_others_go_on(cheap_model: str, tmp_path: Path) -> None:
    with gst_rtsp_server(SAMPLE) as server:
        process = start(
            tmp_path, server.url, "synthetic:64x48@50", "--live", "--name", "cam", "--name", "other",
            "--model", cheap_model, "--jsonl", "out.jsonl", "--summary", "s.json", "--no-reconnect",
        )  # fmt: skip
        out = tmp_path / "out.jsonl"
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and '"cam"' not in (out.read_text() if out.exists() else ""):
            time.sleep(0.1)
        assert server.process is not None
        server.process.kill()
        time.sleep(4)
        seen = len(out.read_text().splitlines())
        time.sleep(0.5)
        assert len(out.read_text().splitlines()) > seen  # the other one goes on
        process.send_signal(signal.SIGTERM)
        _, err = finish(process)
    assert process.returncode == 0, err
    streams = json.loads((tmp_path / "s.json").read_text())["streams"]
    assert streams["cam"]["error"]
    assert streams["cam"]["ending"] not in (None, "end", "stopped")
    assert (streams["other"]["ending"], streams["other"]["error"]) == ("stopped", None)


@pytest.mark.timeout(60)
def test_a_camera_that_says_nothing_does_not_hold_up_the_stop(cheap_model: str, tmp_path: Path) -> None:
    with silent_server() as server:
        url = f"rtsp://127.0.0.1:{server.port}/x"
        process = start(
            tmp_path,
            url,
            "synthetic:64x48@50",
            "--live",
            "--model",
            cheap_model,
            "--jsonl",
            "-",
            "--summary",
            "s.json",
        )
        assert process.stdout is not None
        process.stdout.readline()  # the other stream is not delayed by this one
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, err = finish(process)
    assert process.returncode == 0, err
    assert time.monotonic() - started < 8  # the open time-out is 10 s
    assert json.loads((tmp_path / "s.json").read_text())["conserved"] is True


@pytest.mark.timeout(90)
@pytest.mark.parametrize("debug", [False, True])
def test_a_password_is_in_no_output(cheap_model: str, tmp_path: Path, debug: bool) -> None:
    """Right and wrong passwords, in addresses of four kinds; debug output, FFmpeg's own included."""
    shown = []
    extra = ["--debug"] if debug else []
    with http_server(SAMPLE.parent, user="admin", password=CANARY) as web, silent_server() as silent:
        addresses = [
            f"http://admin:{CANARY}@127.0.0.1:{web.port}/sample.mp4",
            f"http://admin:{CANARY}x@127.0.0.1:{web.port}/sample.mp4",
            f"rtsp://admin:{CANARY}@127.0.0.1:{silent.port}/x",
            f"rtsp://admin:{CANARY}@127.0.0.1:1/x?password={CANARY}",
            f"http://127.0.0.1:{web.port}/sample.mp4?user=admin&password={CANARY}",
        ]
        for log_format in ("text", "json"):
            process = start(
                tmp_path, *addresses, "--model", cheap_model, "--max-frames", "3", "--jsonl", "-",
                "--open-timeout", "1", "--no-reconnect", "--summary", "s.json", *extra,
                "--log-format", log_format,
            )  # fmt: skip
            shown += finish(process)
            shown.append((tmp_path / "s.json").read_text())
            assert process.returncode == 2
    streams = json.loads(shown[-1])["streams"]
    assert [bool(stream["emitted"]) for stream in streams.values()] == [True, False, False, False, False]
    for text in shown:
        assert CANARY not in text
    for name in os.listdir(tmp_path):
        assert CANARY not in name


@pytest.mark.timeout(120)
def test_memory_is_flat_over_30_000_frames(cheap_model: str) -> None:
    """RSS is read every 500 frames; the trend of the last 20,000 stays below 1 MB.

    In a process of its own: one that has run other tests has free memory that comes back page by page.
    Channels are kept short: with 64 places each, on a busy machine the most frames that ever were under way
    at once may be reached at any time, and looks like a trend.
    """
    said = subprocess.run(
        [sys.executable, "-c", MEMORY, cheap_model], check=True, capture_output=True, text=True
    )
    readings = np.array([line.split() for line in said.stdout.splitlines()], np.float64)
    assert len(readings) == 60
    frames, megabytes = readings[readings[:, 0] >= 10_000].T
    slope = np.polyfit(frames, megabytes, 1)[0]
    assert slope * 20_000 < 1.0
