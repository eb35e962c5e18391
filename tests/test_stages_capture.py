"""Capture by itself: of a call that was given up nothing counts, wherever its source answers late."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest

from pipeline import Pipeline
from pipeline.accounts import StreamAccount, told
from pipeline.config import StreamConfig, make_config
from pipeline.errors import SourceReadError
from pipeline.link import Link
from pipeline.sources import Picture, SourceSpec, Timestamps, parse_source
from pipeline.stages.capture import Capture

CAM = parse_source("rtsp://127.0.0.1:9/cam")
OTHER = parse_source("synthetic:64x48")


class Scripted:
    """A camera that gives a black picture, calls each of ``late`` and gives one more after it, then dies."""

    live, frame_count = True, 7
    declared_fps: float | None = 25.0

    def __init__(self, *late: Callable[[], None], dies: bool = False, opened: int = 0) -> None:
        self.late, self.dies = late, dies
        self.corrupt_packets = 0
        self.description = f"camera {opened}"
        self._opened = opened

    def __iter__(self) -> Iterator[Picture]:
        black = np.zeros((48, 64, 3), np.uint8)
        yield Picture(black, 1000 * self._opened, Fraction(1, 25), 0.001, key=False)
        for number, act in enumerate(self.late):
            act()
            self.corrupt_packets += 3
            if self.dies:
                raise SourceReadError("it is gone", cause="network")
            yield Picture(black, 1000 * self._opened + 1 + number, Fraction(1, 25), 0.001, damaged=True)

    def close(self) -> None:
        pass


def all_told(account: StreamAccount, timestamps: Timestamps) -> dict[str, Any]:
    """Everything that is said of a stream, but for what passes with the time."""
    passes = {"for_seconds", "since_picture", "retry_in", "lost_for"}
    said = {key: value for key, value in told(account).items() if key not in passes}
    health = account.health
    said["state_episodes"] = {state: held["times"] for state, held in said["state_episodes"].items()}
    return said | {
        "error": account.error,
        "frame_count": account.frame_count,
        "backoff": account.link.backoff,
        "unfit": (health.states, health.watched, health.declared_fps),
        "clock": vars(timestamps) | {"repaired": dict(timestamps.repaired)},
    }


@pytest.mark.parametrize("how", ["paused", "changed", "removed", "resumed"])
@pytest.mark.parametrize("where", ["picture", "end", "lost", "open", "refused"])
def test_what_answers_late_does_not_count(how: str, where: str) -> None:
    account, timestamps = StreamAccount("cam"), Timestamps()
    before: dict[str, Any] = {}

    def give_up() -> None:
        if how == "changed":
            capture.change(OTHER, StreamConfig(source="synthetic:64x48", health=False))
        else:
            capture.begin()
        account.ended("removed" if how == "removed" else "paused")
        if how == "resumed":
            account.begun()
        before.update(all_told(account, timestamps))

    def open_source(*_: object) -> Scripted:
        opened.append(source := sources.pop(0))
        if source is late:
            give_up()
            if where == "refused":
                raise SourceReadError("it is not there", cause="network")
        return source

    late = Scripted(opened=1)
    first = [Scripted(), late] if where in ("open", "refused") else [Scripted(give_up, dies=where == "lost")]
    if where == "end":
        first[0].late = ()
    sources, opened = list(first), list[Scripted]()
    config = StreamConfig(source="rtsp://127.0.0.1:9/cam", loop=True, backoff=0.001, health=True)
    capture = Capture(CAM, config, account, open_source, timestamps)
    if where in ("open", "refused"):  # lost, and opened once more
        first[0].late, first[0].dies = (lambda: None,), True
    frames = capture()
    next(frames)
    if where == "end":
        give_up()
        first[0].corrupt_packets = 5
    assert list(frames) == []
    assert opened == first
    assert before
    assert all_told(account, timestamps) == before


@pytest.mark.parametrize("how", ["changed", "changed lightly", "added once more"])
def test_health_is_of_the_source(how: str) -> None:
    """What was wrong with the pictures of another one says nothing; without one it stays."""
    account = StreamAccount("cam")
    config = StreamConfig(source="rtsp://127.0.0.1:9/cam", black_seconds=0.01, health=True)
    capture = Capture(CAM, config, account, lambda *_: Scripted(partial(time.sleep, 0.02)))
    frames = capture()
    next(frames)
    next(frames)
    assert account.health.states == ("black",)
    if how == "added once more":
        Capture(CAM, config, account)
    else:
        spec = OTHER if how == "changed" else CAM
        capture.change(spec, config.model_copy(update={"every_nth": 2}))
    assert account.health.states == (("black",) if how == "changed lightly" else ())


def test_what_answers_in_time_does() -> None:
    account = StreamAccount("cam")
    source = Scripted(lambda: None, lambda: None)
    config = StreamConfig(source="rtsp://127.0.0.1:9/cam", reconnect=False)
    frames = Capture(CAM, config, account, lambda *_: source)()
    next(frames)
    assert account.up
    assert len(list(frames)) == 2
    assert (account.corrupt_packets, account.damaged, account.ending) == (6, 2, "end")


@pytest.mark.parametrize(("declared", "seconds"), [(None, 7.0), (0.25, 40.0), (25.0, 2.0)])
def test_for_how_long_the_second_picture_is_waited_for(declared: float | None, seconds: float) -> None:
    now, account, source = [1000.0], StreamAccount("cam"), Scripted(lambda: None)
    account.link, source.declared_fps = Link("cam", None, lambda: now[0]), declared
    config = StreamConfig(source="rtsp://127.0.0.1:9/cam", stall_timeout=7)
    frames = Capture(CAM, config, account, lambda *_: source)()
    next(frames)
    now[0] += seconds - 0.1
    assert account.up
    now[0] += 0.2
    assert account.link.state == "stalled"


def test_nor_does_what_answers_when_the_line_is_over(
    cheap_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, answers = threading.Event(), threading.Event()

    def hang() -> None:
        stuck.set()
        answers.wait(20)

    monkeypatch.setattr("pipeline.app.STOP_GRACE_SECONDS", 0.05)
    make = partial(Capture, open_source=lambda *_: Scripted(hang))
    monkeypatch.setattr("pipeline.streams.Capture", make)
    stream = {"source": "rtsp://127.0.0.1:9/cam", "name": "cam"}
    config = make_config({"streams": [stream], "model": cheap_model})
    with Pipeline(config) as line:
        stopper = threading.Thread(target=lambda: stuck.wait(20) and line.stop())
        stopper.start()
        line.run()
        stopper.join()
        ((name, account),) = line.accounts.streams.items()
        before = account.link.state, account.ending, account.corrupt_packets
        assert before == ("ended", "abandoned", 0)
        (capture,) = [each for each in threading.enumerate() if each.name == f"capture:{name}"]
        answers.set()
        capture.join(10)
        assert (account.link.state, account.ending, account.corrupt_packets) == before


def test_a_refused_password_rests_also_where_the_stream_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cameras lock accounts; another password is tried at once, and a stop ends the wait."""
    account, opened, states = StreamAccount("cam"), list[str](), list[str]()

    def open_source(spec: SourceSpec, *_: object) -> Scripted:
        opened.append(spec.address)
        raise SourceReadError("refused", cause="auth")

    def run() -> None:
        stop = capture.begin()

        def wait(seconds: float | None = None) -> bool:
            states.append(account.link.state if seconds else "no wait")
            if seconds:
                stop.set()  # which ends it
            return stop.is_set()

        monkeypatch.setattr(stop, "wait", wait)
        account.begun()
        assert list(capture(stop=stop)) == []

    config = StreamConfig(source=CAM.address)
    capture = Capture(CAM, config, account, open_source)
    run()
    capture.change(CAM, config.model_copy(update={"open_timeout": 6.0}))
    run()
    assert opened == [CAM.address]
    assert states == ["no wait", "auth_failed", "auth_failed"]
    capture.change(OTHER, config)
    run()
    assert opened == [CAM.address, OTHER.address]
