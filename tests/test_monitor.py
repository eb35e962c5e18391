"""What is stuck is reported with its stack and is not healthy; the service manager hears of it."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import Pipeline, chaos
from pipeline.flow import Busy
from pipeline.frame import Result
from pipeline.link import Link
from pipeline.metrics import health
from pipeline.monitor import HEALING_SECONDS, Damages, Monitor, Stalls
from pipeline.notify import notify, watchdog_seconds
from pipeline.sinks import Sink
from tests.clips import make_clip

ENDLESS = "synthetic:64x48@100"


class Stuck(Sink):
    """Takes five results, then waits until it is let go."""

    def __init__(self) -> None:
        self.taken = 0
        self.release = threading.Event()

    def write(self, result: Result, dropped_before: int) -> None:
        self.taken += 1
        if self.taken == 5:
            self.release.wait(20)

    def close(self) -> None:
        pass

    def abort(self) -> None:
        pass


def until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a service manager is told, as it comes; it wants to hear every 0.3 s."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "n"))
        listener.settimeout(0.05)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                try:
                    heard.extend(listener.recv(4096).decode().splitlines())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        try:
            yield heard
        finally:
            over.set()
            thread.join()


def test_a_stage_that_is_stuck(
    cheap_model: str, manager: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sink = Stuck()
    with Pipeline(ENDLESS, model=cheap_model, sinks=[sink], watchdog=0.4) as line:
        thread = threading.Thread(target=line.run, name="the-caller")
        thread.start()
        until(lambda: "READY=1" in manager and "WATCHDOG=1" in manager)
        until(lambda: line.stuck)
        assert line.stuck[0].startswith("emit (thread the-caller, ")
        good, body = health(line)
        assert not good and body["status"] == "stuck" and body["stuck"] == line.stuck
        (report,) = [each for each in caplog.records if each.levelno == logging.CRITICAL]
        said = report.getMessage()
        assert "stage emit makes no progress: thread the-caller has been in one call" in said
        assert "self.release.wait(20)" in said  # where it is stuck
        assert said.count("thread capture:synthetic:") == 1
        pings = manager.count("WATCHDOG=1")
        time.sleep(0.5)
        assert manager.count("WATCHDOG=1") <= pings + 1
        sink.release.set()
        until(lambda: not line.stuck)
        assert health(line)[0]
        until(lambda: manager.count("WATCHDOG=1") > pings + 1)
        line.stop()
        thread.join(10)
    until(lambda: "STOPPING=1" in manager)
    assert [each.name for each in threading.enumerate() if each.name == "monitor"] == []


def test_a_line_that_waits_for_an_output_is_not_stuck(
    cheap_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Stuck()
    sink.own_thread = True  # results of a file wait for it, as long as it takes
    with Pipeline("synthetic:64x48?frames=1000", model=cheap_model, sinks=[sink], watchdog=0.4) as line:
        thread = threading.Thread(target=line.run)
        thread.start()
        until(lambda: "output Stuck" in caplog.text)
        assert list(line.waited_for) == ["Stuck"] and line.stuck == []
        assert health(line)[0]
        time.sleep(0.5)
        (said,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert re.search(r"the line has waited \d+ s for output Stuck, so that no", said.getMessage())
        sink.release.set()
        thread.join(10)
    assert line.accounts.totals().emitted == 1000 and line.waited_for == {}


def test_a_limit_that_no_result_keeps_to_is_told(
    cheap_model: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.monitor.AGES_SECONDS", 0.3)
    options = {"model": cheap_model, "watchdog": 0.4}
    with Pipeline(ENDLESS, max_age_ms=0.001, **options) as line:
        thread = threading.Thread(target=line.run)
        thread.start()
        until(lambda: "no result is young enough" in caplog.text)
        time.sleep(0.8)
        line.stop()
        thread.join(10)
    assert caplog.text.count("no result is young enough") == 1
    caplog.clear()
    with Pipeline("synthetic:64x48@100?frames=100", max_age_ms=10_000, **options) as line:
        line.run()
    assert "young enough" not in caplog.text


def test_of_many_stalls_ever_fewer_are_told_and_one_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0

    def clock() -> float:
        return now

    link, stalls = Link("cam", None, clock), Stalls("cam", clock)
    for _ in range(2500):  # each 6 s, as seen twice a second
        for _ in range(20):
            link.picture(live=True)
            now += 0.1
        stalls.look(link.status())
        for _ in range(8):
            now += 0.5
            stalls.look(link.status())
    assert link.status().episodes["stalled"].times == 2500
    begun, over = caplog.messages[::2], caplog.messages[1::2]
    assert all("stream cam: stalled: no picture for 2." in each for each in begun)
    assert set(over) == {"stream cam: pictures come again"} and len(over) == len(begun)
    told = [int(found[1]) if (found := re.search(r"\(stall (\d+) so far\)", each)) else 1 for each in begun]
    hourly = told.pop(11)
    assert told == [2**n for n in range(12)]
    assert hourly - 1024 == pytest.approx(600, abs=1)


def test_damage_is_told_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = 0.0
    damages = Damages("cam", lambda: now)
    for second in range(300):
        now = float(second)
        spoilt = max(0, min(second, 100) - 10) + 5 * (second >= 250)
        damages.look(spoilt, spoilt // 3)
    begun, over, again = (record.getMessage() for record in caplog.records)
    assert begun == again and "stream cam: data is lost or damaged" in begun
    assert "no damage for 60 s; in the 89 s before, 90 pictures were damaged, and 30 packets" in over


def test_a_camera_that_loses_packets_is_told_of(
    cheap_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clip = make_clip(tmp_path / "c.mp4", frames=50, size=(128, 96))
    with chaos.serve(clip, ["drop@0.5:rate=0.2"]) as kit, Pipeline(kit.rtsp, model=cheap_model) as line:
        thread = threading.Thread(target=line.run)
        thread.start()
        until(lambda: "data is lost or damaged" in caplog.text)
        line.stop()
        thread.join(10)


def test_a_slow_call_is_not_stuck(cheap_model: str, caplog: pytest.LogCaptureFixture) -> None:
    with Pipeline("synthetic:64x48?frames=300", model=cheap_model, watchdog=5) as line:
        line.run()
    assert not [each for each in caplog.records if each.levelno >= logging.CRITICAL]


def test_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert notify(READY=1) is False
    assert watchdog_seconds() is None
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_seconds() is None


def test_an_abstract_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"framerail-test-{time.monotonic_ns()}"
        listener.bind(f"\0{name}")
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify(READY=1, STATUS="running")
        assert listener.recv(100) == b"READY=1\nSTATUS=running"


def test_a_manager_that_is_gone_does_not_end_the_line(
    cheap_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with Pipeline("synthetic:64x48?frames=3", model=cheap_model) as line:
        line.run()
    assert line.accounts.totals().emitted == 3
    assert "the service manager cannot be told READY" in caplog.text


@pytest.mark.parametrize(
    ("stage", "seconds", "stuck"),
    [
        ("infer", 100, False),
        ("infer", 10 + HEALING_SECONDS + 1, True),
        ("classify", 100, False),
        ("classify", 10 + HEALING_SECONDS + 1, True),
        ("preprocess", 100, True),
    ],
)
def test_a_model_that_is_opened_afresh_has_longer_but_not_for_ever(
    stage: str, seconds: float, stuck: bool
) -> None:
    """The line is a stand-in: a device whose driver hangs in a reset cannot be had."""
    flow = SimpleNamespace(busy=lambda: [Busy("thread", stage, seconds)])
    monitor = Monitor(SimpleNamespace(flow=flow, healing=True, waited_for={}), 10)
    monitor._look_for_stuck_stages()
    assert bool(monitor.stuck) is stuck


def test_a_file_that_waits_hides_no_stage_that_is_stuck(caplog: pytest.LogCaptureFixture) -> None:
    """Emit waits for no output with a thread of its own: where it does not return, that is something else."""
    flow = SimpleNamespace(busy=lambda: [Busy("thread", "emit", 11)])
    line = SimpleNamespace(flow=flow, healing=False, waited_for={"slow": 9.0, "hung": 12.0, "worse": 14.0})
    monitor = Monitor(line, 10)
    for _ in range(3):  # told once
        monitor._look_for_stuck_stages()
    assert monitor.stuck == ["emit (thread thread, 11 s)"]
    assert sorted(each.levelname for each in caplog.records) == ["CRITICAL", "WARNING"]
    assert "the line has waited 14 s for output hung, worse, so that no result" in caplog.text
