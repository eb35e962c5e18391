"""A live stream that is decoded too slowly: some is left out, the lag stays bounded, all is counted."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import chaos
from pipeline.errors import SourceReadError
from pipeline.sources import Missed, Picture, read_number, readahead
from pipeline.sources.playlist import Flags
from pipeline.sources.readahead import GAIN_SECONDS, MOST_BEHIND, SKIP_SECONDS, Ahead, Steps, Unpaced
from tests.chaos_clients import FPS, opened
from tests.clips import make_clip

GROUP = 2.0
"""Seconds from one key picture to the next."""


def decoded(
    sent: Sequence[float], fps: float, work: Callable[[float], float]
) -> Iterator[tuple[float, float, int]]:
    """Of each picture that is decoded: when, its age then, and how many were left out before. They come when
    they are ``sent``, and say that they are of ``fps``; one takes ``work`` seconds, by the time."""
    pace, now, number, group = Unpaced(), 0.0, 0, round(GROUP * fps)
    while number < len(sent):
        now = max(now, sent[number])
        there, left_out = bisect_right(sent, now), 0
        if pace.leaves((there - number) / fps, now) is not None:
            keys = [
                n for n in range(number + 1, there) if n % group == 0 and n - number <= SKIP_SECONDS * fps
            ]
            left_out = keys[-1] - number if keys else 0
        number += left_out
        yield now, now - sent[number], left_out
        now += work(now)
        number += 1


def even(fps: float, minutes: float) -> list[float]:
    return [number / fps for number in range(int(60 * minutes * fps))]


@pytest.mark.parametrize("says", [0.5, 1.0, 1.2])
@pytest.mark.parametrize("fps", [5, 30])
@pytest.mark.parametrize("share", [1.03, 1.15, 1.5, 4.0])
def test_the_lag_is_bounded_however_slow_decoding_is(share: float, fps: float, says: float) -> None:
    """Whatever rate the stream's times say."""
    given = list(decoded(even(fps, 10), fps * says, lambda _: share / fps))
    bound = (MOST_BEHIND + 2 * GAIN_SECONDS + 2 * GROUP) * max(says, 1 / says)
    assert max(age for _, age, _ in given) < bound + 2 * share / fps
    assert any(left_out for *_, left_out in given)


@pytest.mark.parametrize("share", [0.05, 0.7, 0.98])
@pytest.mark.parametrize("bursts", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("says", [0.5, 1.0, 1.2])
def test_nothing_is_left_out_where_decoding_keeps_up(says: float, bursts: float, share: float) -> None:
    """Also of a camera whose clock is wrong, or that sends so many seconds at once."""
    sent = [(at // bursts + 1) * bursts if bursts else at for at in even(10, 20)]
    assert not any(left_out for *_, left_out in decoded(sent, 10 * says, lambda _: share / 10))


def test_what_a_hang_held_up_is_caught_up_with() -> None:
    sent = [max(at, 45) if at > 30 else at for at in even(25, 2)]
    given = list(decoded(sent, 25, lambda _: 0.3 / 25))
    assert not any(left_out for *_, left_out in given)
    assert given[-1][1] < 0.1


def test_after_an_overload_it_is_live_again_and_whole() -> None:
    given = list(decoded(even(25, 3), 25, lambda now: 0.08 if 60 < now < 90 else 0.01))
    assert any(left_out for *_, left_out in given)
    after = [(age, left_out) for when, age, left_out in given if when > 100]
    assert max(age for age, _ in after) < 0.1
    assert not any(left_out for _, left_out in after)


def test_pictures_with_pauses_between_them_lag_no_more_than_others() -> None:
    """As of a camera that sends fewer pictures of what does not move."""
    sent = [3 * (n // 20) + n % 20 / 25 for n in range(20 * 200)]
    given = list(decoded(sent, 25, lambda _: 0.17))
    assert any(left_out for *_, left_out in given)
    assert max(age for _, age, _ in given) < 5 * (MOST_BEHIND + 2 * GAIN_SECONDS + 2 * GROUP)


@pytest.mark.parametrize("keys", [10**9, 300])
def test_it_goes_on_with_a_key_picture_unless_there_is_none(
    keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readahead, "GAIN_SECONDS", -1)
    monkeypatch.setattr(readahead, "_GAIN", 1e9)
    stream, over = SimpleNamespace(index=0), threading.Event()

    def packets() -> Iterator[Any]:
        for number in range(400):  # 16 s
            key, base = number % keys == 0, Fraction(1, 25)
            yield SimpleNamespace(
                pts=number,
                dts=number,
                time_base=base,
                size=1,
                is_keyframe=key,
                stream=stream,
                is_corrupt=False,
            )
        over.set()

    stop = threading.Event()
    reader = Ahead(Flags(packets(), 0, segments=False), Steps(0, 10), stop, Unpaced())
    assert over.wait(10)
    first, second = next(reader), next(reader)
    left_out = [first.pts, second.pts - first.pts - 1]
    assert max(left_out) > 7 * 25 if keys > 400 else max(left_out) in (299, 300)
    stop.set()
    reader.close(lambda: None, 0.1)


@pytest.mark.parametrize("way", ["rtsp", "ts", "mjpeg"])
def test_of_a_real_stream_each_picture_is_given_or_told_missed(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readahead, "MOST_BEHIND", 0.2)
    monkeypatch.setattr(readahead, "GAIN_SECONDS", 0.2)
    clip = make_clip(tmp_path / "c.mp4", frames=1000, fps=FPS, gop=10)
    given = missed = 0
    with chaos.serve(clip) as kit, opened(getattr(kit, way)) as source:
        for each in source:
            if isinstance(each, Missed):
                missed += 1
                continue
            assert isinstance(each, Picture)
            assert read_number(each.image) == given + missed
            given += 1
            if given == 60 or missed > 100:
                break
            time.sleep(6 / FPS)  # as slow as that decoding is
    assert missed > given


def test_the_server_of_a_slow_camera_is_told_of_the_end_too(tmp_path: Path) -> None:
    """By the time that it is closed: the process may end then."""
    clip = make_clip(tmp_path / "c.mp4", frames=8, fps=2, gop=2)
    with chaos.serve(clip) as kit, opened(kit.rtsp) as source:
        next(iter(source))
        source.close()
        assert not any(each.name.endswith(":ahead") for each in threading.enumerate())


def test_a_picture_in_three_seconds_is_no_lag_by_itself() -> None:
    """Else two that come together, after a hang, would be too many at once."""
    stop, stream, pace = threading.Event(), SimpleNamespace(index=0), Unpaced()
    come: SimpleQueue[Any] = SimpleQueue()
    reader = Ahead(Flags(iter(come.get, None), 0, segments=False), Steps(0, 10), stop, pace)
    for number in range(5):
        come.put(
            SimpleNamespace(
                pts=3 * number, dts=None, time_base=Fraction(1), size=1, is_keyframe=True, stream=stream,
                is_corrupt=False,
            )
        )  # fmt: skip
        assert next(reader).pts == 3 * number
        assert pace._since is None
    come.put(None)
    reader.close(lambda: None, 1)


def test_whatever_closes_it_closes_the_container_once() -> None:
    """FFmpeg's thread may do so, and two at once end the process."""
    go_on, closing, go_on_closing = threading.Event(), threading.Event(), threading.Event()
    closed = []

    def packets() -> Iterator[Any]:
        go_on.wait(10)
        yield from ()

    def close() -> None:
        closed.append(1)
        closing.set()
        go_on_closing.wait(10)

    reader = Ahead(Flags(packets(), 0, segments=False), Steps(0, 10), threading.Event(), Unpaced())
    reader.close(close, 0.0)
    go_on.set()
    assert closing.wait(10)
    reader.close(close, 0.0)
    go_on_closing.set()
    reader._thread.join(10)
    assert len(closed) == 1


def test_a_lost_connection_keeps_nothing_alive(tmp_path: Path) -> None:
    """Nor for the next collection of garbage: a decoder has the memory of many pictures."""
    clip = make_clip(tmp_path / "c.mp4", frames=200, fps=FPS, gop=10)
    gc.collect()
    gc.disable()
    try:
        with chaos.serve(clip, ["reset@0.3"]) as kit:
            source = opened(kit.ts)
            with contextlib.suppress(SourceReadError):
                for _ in source:
                    pass
            left = weakref.ref(source)
            del source
            assert left() is None
    finally:
        gc.enable()


def packet_of(number: int, pts: int, size: int) -> Any:
    return SimpleNamespace(
        pts=pts, dts=pts, time_base=Fraction(1, 25), size=size, is_keyframe=number % 25 == 0,
        is_corrupt=False, stream=SimpleNamespace(index=0),
    )  # fmt: skip


@pytest.mark.parametrize("time_of", [lambda _: 0, lambda number: 1000 * (number % 2)], ids=["still", "jumps"])
def test_what_waits_is_seen_whatever_its_times_say(time_of: Callable[[int], int]) -> None:
    stop, over = threading.Event(), threading.Event()

    def packets() -> Iterator[Any]:
        for number in range(400):
            yield packet_of(number, time_of(number), 1)
        over.set()

    reader = Ahead(Flags(packets(), 0, segments=False), Steps(0, 10), stop, Unpaced())
    assert over.wait(10)
    next(reader)
    time.sleep(GAIN_SECONDS)
    next(reader)
    assert 200 <= len(reader.skipped) <= 225
    assert reader.skipped_seconds == pytest.approx(0.04 * len(reader.skipped))
    stop.set()
    reader.close(lambda: None, 0.1)


def test_small_packets_take_no_more_memory_than_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held of them is mostly not their data: a server of tiny ones had 1.5 GB."""
    monkeypatch.setattr(readahead, "MOST_BYTES", 1_000_000)
    stop, count = threading.Event(), 0

    def packets() -> Iterator[Any]:
        nonlocal count
        while not stop.is_set():
            count += 1
            yield packet_of(count, count, 10)

    reader = Ahead(Flags(packets(), 0, segments=False), Steps(0, 10), stop, Unpaced())
    deadline = time.monotonic() + 10
    while reader.held_bytes < 1_000_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert 1_000_000 <= reader.held_bytes < 1_003_000
    assert 600 < count < 1000
    stop.set()
    reader.close(lambda: None, 1)


@pytest.mark.parametrize(("size", "step"), [(1, 0.04), (0, 0.0)])
def test_packets_without_a_time_count_as_25_a_second(size: int, step: float) -> None:
    """Else no lag of theirs would be seen. An empty one is no picture."""
    stream = SimpleNamespace(index=0)
    packet: Any = SimpleNamespace(pts=None, dts=None, time_base=None, size=size, stream=stream)
    assert Steps(0, 10).after(packet) == step
