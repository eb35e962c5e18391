"""The chaos kit's proxy before real servers, and the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from pipeline import chaos
from pipeline.errors import ConfigError, SourceOpenError
from tests.chaos_clients import (
    FPS,
    numbers,
    opened,
    packets,
    pictures,
    sequence,
    until_lost,
    until_open,
    with_login,
)
from tests.clips import make_clip
from tests.servers import free_port, gst_rtsp_server, http_server

PASSWORD = "s3cret-W0rd"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "a.mp4", frames=150, fps=FPS, gop=10)


def test_nothing_is_changed_without_a_fault(clip):
    with chaos.serve(clip) as kit, chaos.proxy(kit.rtsp) as between:
        through = packets(between.port, 60)
        assert numbers(pictures(between.url, 60)) == list(range(60))
    with chaos.serve(clip) as kit:
        # The same connection's number, seed and so the same packets.
        assert packets(kit.port, 60) == through
    assert not between.injected


def test_a_gstreamer_server_behind_it(clip):
    with (
        gst_rtsp_server(clip, user="me", password=PASSWORD) as server,
        chaos.proxy(server.with_login("me", PASSWORD), ["drop@0:rate=0.1,times=3"]) as between,
    ):
        # The server is asked by the address of the proxy, and demands the password itself.
        assert between.url.endswith(f"@127.0.0.1:{between.port}/stream")
        with pytest.raises(SourceOpenError) as caught:
            opened(f"rtsp://127.0.0.1:{between.port}/stream")
        assert caught.value.cause == "auth"
        assert len(pictures(between.url, 60)) == 60
        assert between.injected["drop"] == 3


def test_packets_are_told_apart_in_rtsp(clip):
    with chaos.serve(clip) as kit, chaos.proxy(kit.rtsp, ["drop:rate=0.3,times=5"], seed=1) as between:
        got = sequence(packets(between.port, 60))
    assert between.injected["drop"] == 5
    assert got[-1] + 1 - len(got) in range(1, 6)


@pytest.mark.parametrize(
    ("fault", "causes"),
    [
        ("stall@9000B", {"timeout"}),
        ("reset@9000B", {"ended", "network"}),
        ("close@9000B", {"ended", "network"}),
    ],
)
def test_bytes_of_any_server(clip, fault, causes):
    with chaos.serve(clip) as kit, chaos.proxy(kit.ts, [fault]) as between:
        got, error = until_lost(opened(between.url, stall_timeout=0.5))
    # The last picture may be cut through.
    whole = [picture for picture in got if not picture.damaged]
    assert error.cause in causes and numbers(whole) == list(range(len(whole)))
    assert len(got) - len(whole) <= 1
    assert between.injected.total() == 1


def test_a_file_over_http_that_stalls_and_goes_on(clip):
    with http_server(clip.parent) as server:
        target = f"{server.url}/{clip.name}"
        with chaos.proxy(target, ["stall@5000B:for=0.2,times=1"]) as between:
            assert numbers(pictures(between.url, 200)) == list(range(150))
        assert between.injected["stall"] == 1
        with chaos.proxy(target, ["silent"]) as between, pytest.raises(SourceOpenError) as caught:
            opened(between.url, open_timeout=0.3)
    assert caught.value.cause == "timeout"


def test_restart_through_a_proxy(clip):
    with chaos.serve(clip) as kit, chaos.proxy(kit.rtsp) as between:
        source = opened(between.url)
        rest = iter(source)
        next(rest)
        between.inject("restart:for=0.2")
        with source, pytest.raises(OSError, match=r"closed|ended|broke|reset"):
            list(rest)
        with until_open(between.url) as again:
            assert numbers(list(islice(again, 3))) == [0, 1, 2]


def test_udp_would_go_past_it(clip):
    with gst_rtsp_server(clip) as server, chaos.proxy(server.url) as between:
        with pytest.raises(SourceOpenError, match="does not offer this transport"):
            opened(between.url, rtsp_transport="udp")
        assert len(pictures(between.url, 5)) == 5


def test_a_server_that_is_not_there():
    with (
        chaos.proxy(f"rtsp://127.0.0.1:{free_port()}/x") as between,
        pytest.raises(SourceOpenError) as caught,
    ):
        opened(between.url)
    # By where the reset meets FFmpeg, which does not always call it one.
    assert caught.value.cause in ("network", "format")


@pytest.mark.parametrize(
    ("target", "faults", "said"),
    [
        ("nonsense", [], "expected an address"),
        ("rtsp://host:99999/", [], "expected an address"),
        ("tcp://127.0.0.1", [], "expected a port"),
        ("rtsp://127.0.0.1/x", ["freeze@1"], "use chaos serve"),
        ("http://127.0.0.1/x", ["drop:rate=0.1"], "there is garble"),
    ],
)
def test_what_cannot_be_meant(target, faults, said):
    with pytest.raises(ConfigError, match=said):
        chaos.proxy(target, faults)


def test_the_command(clip, tmp_path):
    script = tmp_path / "script.yaml"
    script.write_text("seed: 3\nfaults:\n- {kind: drop, rate: 0.1, times: 4}\n")
    # Which begins `python -m pipeline chaos`.
    command = [sys.executable, "-m", "pipeline.chaos", "serve", str(clip)]
    command += ["--user", "me", "--password", "${CAMERA_PASSWORD}", "--json"]
    command += ["--script", str(script), "--fault", "reset@9000B"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CAMERA_PASSWORD": PASSWORD},
    )
    assert process.stderr is not None
    try:
        said = ""
        while not said.startswith("rtsp://"):
            said = process.stderr.readline().strip()
            assert said, "it ended"
        got, _ = until_lost(opened(with_login(said, PASSWORD)))
        assert got
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert json.loads(out) == {"connections": 1, "injected": {"drop": 4, "reset": 1}}
    assert "connection 1: reset@9000B" in err and PASSWORD not in err
