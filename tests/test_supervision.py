"""A lost camera comes back by itself, told truthfully, while others go on: against real servers."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline import Pipeline, chaos
from pipeline.config import Config
from pipeline.frame import Result
from pipeline.link import State
from pipeline.metrics import readiness
from pipeline.sources import read_number
from tests.clips import make_clip, need_encoder
from tests.servers import free_port, gst_rtsp_server, http_server, silent_server

OTHER = {"source": "synthetic:64x48@50", "name": "other", "live": True}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(
        tmp_path_factory.mktemp("clips") / "live.mp4", frames=600, fps=50, size=(128, 96), gop=10
    )


class Running:
    """A line that runs in a thread of its own, and what came out of it."""

    def __init__(self, line: Pipeline) -> None:
        self.line = line
        self.results: list[Result] = []
        self.raised: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.until(lambda: line.flow is not None)

    def _run(self) -> None:
        try:
            for result in self.line:
                self.results.append(result)
        except BaseException as error:
            self.raised = error

    def of(self, name: str) -> list[Result]:
        return [result for result in list(self.results) if result.stream == name]

    def state(self, name: str = "cam") -> State:
        return self.line.accounts.streams[name].link.state

    def until(self, condition: Callable[[], object], seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.raised is None, self.raised
            assert time.monotonic() < deadline, {
                name: account.link.status() for name, account in self.line.accounts.streams.items()
            }
            time.sleep(0.01)

    def until_results(self, name: str, count: int) -> None:
        have = len(self.of(name))
        self.until(lambda: len(self.of(name)) >= have + count)

    def end(self) -> None:
        self.line.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()


@contextmanager
def running(cheap_model: str, *streams: dict[str, object], **options: object) -> Iterator[Running]:
    config = Config.model_validate({"model": cheap_model, "streams": streams, **options})
    with Pipeline(config) as line:
        run = Running(line)
        try:
            yield run
        finally:
            run.end()
    if run.raised is not None:
        raise run.raised
    assert not line.accounts.violations(line.left_in_line())


def cam(url: str, **keys: object) -> dict[str, object]:
    return {"source": url, "name": "cam", "backoff": 0.1, "backoff_max": 0.4, "stall_timeout": 2, **keys}


def test_another_address_begins_with_the_shortest_wait(cheap_model: str) -> None:
    gone = cam(f"rtsp://127.0.0.1:{free_port()}/gone", backoff=0.08, backoff_max=60)
    with running(cheap_model, gone, OTHER) as run:
        link = run.line.accounts.streams["cam"].link
        run.until(lambda: link.status().failures_in_a_row >= 5)
        run.line.change_stream("cam", source=f"rtsp://127.0.0.1:{free_port()}/gone-too")
        before = sum(link.failures.values())
        run.until(lambda: sum(link.failures.values()) >= before + 2)
        since = link.status().failures_in_a_row
        assert sum(link.failures.values()) - since >= 5  # those of before don't count


def test_a_killed_server_that_is_started_again(cheap_model: str, clip: Path) -> None:
    port = free_port()
    with running(cheap_model, cam(f"rtsp://127.0.0.1:{port}/stream"), OTHER) as run:
        for round_ in range(3):
            with gst_rtsp_server(clip, port=port) as server:
                run.until_results("cam", 10)
                assert run.state() == "live"
                server.kill()
                run.until(lambda: run.state() == "backing_off")
            assert sum(run.line.accounts.streams["cam"].link.reconnects.values()) == round_
            run.until_results("other", 10)
        threads = threading.active_count()
        assert threads < 20
    came = run.of("cam")
    dropped = run.line.accounts.streams["cam"].counts().dropped_total
    assert [result.frame.seq for result in came] == sorted({result.frame.seq for result in came})
    assert came[-1].frame.seq < len(came) + dropped
    came = [result for result in came if result.frame.pts is not None]
    times = [result.frame.pts_seconds for result in came]
    assert all(a < b for a, b in pairwise(times))
    # One clock for the stream: a second of it is one of the wall's, also over the gaps.
    wall = came[-1].frame.captured_at - came[0].frame.captured_at
    assert times[-1] - times[0] == pytest.approx(wall, abs=1.5)


def test_a_camera_that_is_offline_at_first_keeps_nobody_waiting(cheap_model: str, clip: Path) -> None:
    port = free_port()
    with running(cheap_model, cam(f"rtsp://127.0.0.1:{port}/stream"), OTHER) as run:
        run.until_results("other", 20)
        assert run.state() in ("backing_off", "connecting")
        assert run.line.accounts.streams["cam"].link.failures["refused"] >= 1
        with gst_rtsp_server(clip, port=port):
            run.until_results("cam", 5)
        assert run.line.accounts.streams["cam"].link.reconnects == {}  # it had not been lost


def test_a_refused_password_is_not_hammered(cheap_model: str, clip: Path) -> None:
    with gst_rtsp_server(clip, user="me", password="right") as server:
        source = cam(server.with_login("me", "wrong"))
        with running(cheap_model, source, OTHER, metrics="127.0.0.1:0") as run:
            run.until(lambda: run.state() == "auth_failed")
            run.until_results("other", 50)
            link = run.line.accounts.streams["cam"].link
            assert link.failures == {"auth": 1}
            assert link.status().retry_in > 20
            assert run.line.metrics is not None
            base = f"http://127.0.0.1:{run.line.metrics.port}"
            with urllib.request.urlopen(f"{base}/streams") as answer:
                told = json.load(answer)["streams"]
            assert told["cam"]["state"] == "auth_failed" and told["other"]["state"] == "live"
            assert "user name or password" in told["cam"]["last_error"]
            assert "wrong" not in json.dumps(told)
            with urllib.request.urlopen(f"{base}/metrics") as answer:
                metrics = answer.read().decode()
            assert 'framerail_stream_state{state="auth_failed",stream="cam"} 1.0' in metrics
            assert 'framerail_stream_state{state="live",stream="cam"} 0.0' in metrics
            assert 'framerail_stream_failures_total{cause="auth",stream="cam"} 1.0' in metrics
            # The stop does not wait for the wait.
            begun = time.monotonic()
            run.end()
            assert time.monotonic() - begun < 3


def test_the_transport_that_worked_is_tried_first(cheap_model: str, clip: Path, caplog) -> None:
    port = free_port()
    with running(cheap_model, cam(f"rtsp://127.0.0.1:{port}/stream")) as run:
        with gst_rtsp_server(clip, port=port, transport="udp") as server:
            run.until_results("cam", 5)
            assert caplog.text.count("it is read over UDP") == 1
            server.kill()
            run.until(lambda: run.state() == "backing_off")
        with gst_rtsp_server(clip, port=port, transport="udp"):
            run.until_results("cam", 5)
        assert caplog.text.count("it is read over UDP") == 1


def test_a_server_that_falls_silent_is_stalled_then_opened_again(cheap_model: str, tmp_path: Path) -> None:
    with http_server(tmp_path, fps=50) as server:
        source = cam(f"{server.url}/cut.mjpeg", stall_timeout=3)
        with running(cheap_model, source) as run:
            run.until_results("cam", 5)
            run.until(lambda: run.state() == "stalled")
            run.until(lambda: run.line.accounts.streams["cam"].link.reconnects["timeout"] == 1)
            assert [read_number(r.frame.image) for r in run.of("cam")][-1] <= 9


def test_a_live_address_that_the_server_closes_is_opened_again(cheap_model: str, tmp_path: Path) -> None:
    with (
        http_server(tmp_path, fps=100, frames=10) as server,
        running(cheap_model, cam(f"{server.url}/live.mjpeg")) as run,
    ):
        run.until(lambda: run.line.accounts.streams["cam"].link.reconnects.total() >= 2)


@pytest.mark.parametrize("live", [None, True])
def test_one_that_has_an_end_for_once_is_opened_again(
    cheap_model: str, tmp_path: Path, live: bool | None
) -> None:
    """A list that is closed; with ``live: true`` the address may be a file's from the start."""
    clip = make_clip(tmp_path / "clip.mp4", frames=10).read_bytes()
    place = tmp_path / ("live.mp4" if live else "list.m3u8")
    if live:
        place.write_bytes(clip)
    else:
        make_clip(place, frames=10, format="hls")
        closed = place.read_text()
        place.write_text(closed.replace("#EXT-X-ENDLIST\n", ""))
    with (
        http_server(tmp_path) as server,
        running(cheap_model, cam(f"{server.url}/{place.name}", live=live)) as run,
    ):
        run.until_results("cam", 1)
        if not live:
            place.write_text(closed)
        link = run.line.accounts.streams["cam"].link
        # All that a closed list has was given before.
        run.until(lambda: (link.reconnects if live else link.failures)["ended"] >= 2)
        assert run.line.accounts.streams["cam"].ending is None


@pytest.mark.parametrize("reconnect", [False, None])
def test_what_is_not_to_come_back_ends(cheap_model: str, tmp_path: Path, reconnect: bool | None) -> None:
    """A live one by --no-reconnect, a file by itself."""
    with http_server(tmp_path, fps=100, frames=10) as server:
        url = f"{server.url}/live.mjpeg" if reconnect is False else "synthetic:64x48@50?frames=10"
        with running(cheap_model, cam(url, reconnect=reconnect)) as run:
            run.until(lambda: run.state() == "ended")
        assert len(run.of("cam")) + run.line.accounts.streams["cam"].counts().dropped_total == 10


def test_a_stop_ends_a_stream_that_waits(cheap_model: str) -> None:
    with silent_server() as server:
        url = f"rtsp://127.0.0.1:{server.port}/x"
        with running(cheap_model, cam(url, open_timeout=0.3, backoff=30, backoff_max=30), OTHER) as run:
            run.until(lambda: run.state() == "backing_off")
            begun = time.monotonic()
            run.end()
            assert time.monotonic() - begun < 3
        assert run.line.accounts.streams["cam"].ending == "stopped"
        assert run.state() == "ended"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_that_is_being_opened_when_the_line_is_stopped_did_not_fail(
    cheap_model: str, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with running(cheap_model, cam(str(tmp_path / "pipe"), open_timeout=30), OTHER) as run:
        run.until_results("other", 10)
        assert run.state() == "connecting"
        run.end()
        account = run.line.accounts.streams["cam"]
        assert (account.ending, account.error) == ("stopped", None)


def test_an_error_that_was_got_over_is_none_of_a_stream_that_is_stopped(cheap_model: str, clip: Path) -> None:
    with chaos.serve([clip]) as kit, running(cheap_model, cam(kit.rtsp)) as run:
        run.until_results("cam", 5)
        kit.inject("reset")
        run.until(lambda: run.line.accounts.streams["cam"].link.reconnects)
        run.end()
        (state,) = readiness(run.line)[1]["streams"].values()
        assert state["ending"] == "stopped" and run.line.accounts.streams["cam"].link.status().error
        assert state["error"] is None


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("video.mjpg?size=a.mp4", {}),
        ("stream.ts", {}),
        ("index.m3u8", {}),
        ("", {}),
        ("clip.mp4", {"live": True}),
        ("clip.mp4", {"reconnect": True}),
    ],
)
def test_a_camera_over_http_that_is_off_at_the_start_is_tried_again(
    cheap_model: str, path: str, more: dict[str, object]
) -> None:
    """HTTP tells only when it is open whether it is live: what does not look like a recording may be."""
    with running(cheap_model, cam(f"http://127.0.0.1:{free_port()}/{path}", **more), OTHER) as run:
        run.until(lambda: run.line.accounts.streams["cam"].link.failures["refused"] >= 2)
        assert run.line.accounts.streams["cam"].ending is None


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("clip.MP4?token=x", {}),
        ("snapshot.jpg", {}),
        ("stream.ts", {"live": False}),
        ("stream.ts", {"loop": True}),
        ("stream.ts", {"pace": 25}),
        ("stream.ts", {"reconnect": False}),
    ],
)
def test_a_recording_over_http_that_is_not_there_ends(
    cheap_model: str, path: str, more: dict[str, object]
) -> None:
    with running(cheap_model, cam(f"http://127.0.0.1:{free_port()}/{path}", **more), OTHER) as run:
        run.until(lambda: run.line.accounts.streams["cam"].ending == "refused")
        run.until_results("other", 3)


def test_a_camera_over_http_that_is_switched_on_later_is_live(cheap_model: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=100, fps=25, size=(128, 96))
    port, path = free_port(), "stream.mjpeg"
    with running(cheap_model, cam(f"http://127.0.0.1:{port}/{path}"), OTHER) as run:
        run.until(lambda: run.line.accounts.streams["cam"].link.failures["refused"] >= 2)
        with chaos.serve([clip], listen=f"127.0.0.1:{port}") as kit:
            assert kit.mjpeg.endswith(path)
            run.until_results("cam", 3)
            assert run.line.accounts.streams["cam"].link.reconnects == {}


@pytest.mark.parametrize(("over", "cause"), [("rtsp", "ended"), ("ts", "changed")])
def test_a_camera_that_changes_its_codec_is_opened_again_with_the_new_one(
    cheap_model: str, tmp_path: Path, over: str, cause: str
) -> None:
    first = make_clip(tmp_path / "first.mp4", frames=100, fps=25, size=(128, 96))
    hevc = need_encoder("libx265")
    second = make_clip(tmp_path / "second.mp4", frames=100, fps=25, size=(256, 192), codec=hevc)
    with chaos.serve([first, second]) as kit:
        camera = cam(getattr(kit, over), stall_timeout=10)
        with running(cheap_model, camera, OTHER) as run:
            run.until_results("cam", 20)
            kit.inject("switch")
            run.until(lambda: run.of("cam")[-1].frame.width == 256)
            run.until_results("cam", 20)
            assert run.state() == "live"
            assert run.line.accounts.streams["cam"].link.reconnects == {cause: 1}
    assert {each.frame.width for each in run.of("cam") if not each.frame.damaged} == {128, 256}
