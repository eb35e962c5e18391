"""A live stream that is decoded too slowly: some is left out, the lag stays bounded, all is counted."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import chaos
from pipeline.sources import Missed, Picture, feed, lag, read_number
from pipeline.sources.feed import LiveFeed
from pipeline.sources.lag import MOST_SECONDS, WINDOW_SECONDS
from pipeline.sources.readahead import Steps
from tests.chaos_clients import FPS, opened
from tests.clips import make_clip

DARK = 5.0


class Camera:
    """Sends ``fps`` pictures a second, which wait where they are not read, in groups of ``gop``. Its clock is
    slower than ours by ``drift``; ``bursts``: seconds of which it sends at once. A read takes up to ``busy``
    seconds also of what is there. ``hang``: from when, and until when, nothing comes."""

    def __init__(
        self,
        *,
        fps: float = 25,
        gop: int = 50,
        drift: float = 0.0,
        bursts: float = 0.0,
        busy: float = 0.0,
        hang: tuple[float, float] = (0, 0),
    ) -> None:
        self.now, self.waited = 0.0, 0.0
        self._fps, self._gop, self._drift, self._bursts = fps, gop, drift, bursts
        self._busy, self._hang = busy, hang
        self._numbers, self._random = count(), random.Random(1)

    def sent(self, number: int) -> float:
        at = number / self._fps
        if self._bursts:
            at = (at // self._bursts + 1) * self._bursts
        at *= 1 + self._drift
        return self._hang[1] if self._hang[0] < at < self._hang[1] else at

    def __next__(self) -> Any:
        number = next(self._numbers)
        self.waited = max(self.sent(number) - self.now, 0) + self._random.uniform(0, self._busy)
        self.now += self.waited
        at = round(number / self._fps * 90_000)
        key = number % self._gop == 0
        stream = SimpleNamespace(index=0)
        return SimpleNamespace(
            pts=at,
            dts=at,
            time_base=Fraction(1, 90_000),
            size=1,
            is_keyframe=key,
            stream=stream,
            number=number,
        )


def decoded(
    camera: Camera, works: Any, minutes: float, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[float, int, float, int]]:
    """Of each picture that is decoded: when, its number, its age then, and how many were left out before."""
    monkeypatch.setattr(feed, "time", SimpleNamespace(monotonic=lambda: camera.now))
    tested = LiveFeed(camera, Steps(0, 10), "camera", DARK)  # type: ignore[arg-type]
    while camera.now < 60 * minutes:
        packet = tested.read()
        if tested.has_turn(packet):  # type: ignore[arg-type]
            number = packet.number  # type: ignore[union-attr]
            left_out = tested.left_out()
            assert tested.resumes() == bool(left_out)
            yield camera.now, number, camera.now - camera.sent(number), left_out
            camera.now += works(camera.now) if callable(works) else works


@pytest.mark.parametrize("busy", [0.0, 0.005])
@pytest.mark.parametrize("fps", [5, 30])
@pytest.mark.parametrize("share", [1.03, 1.5, 4.0])
def test_the_lag_is_bounded_however_slow_decoding_is(
    share: float, fps: float, busy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = Camera(fps=fps, gop=round(2 * fps), busy=busy)
    given = list(decoded(camera, share / fps, 5, monkeypatch))
    # What it may be behind, the window in which it comes to be, the one in which that is seen, a picture.
    assert max(age for _, _, age, _ in given) < MOST_SECONDS + 2 * WINDOW_SECONDS + 2 * share / fps
    assert any(left_out for *_, left_out in given)
    for (_, before, *_), (_, after, _, left_out) in pairwise(given):
        assert after - before - 1 == left_out, "each is told, and before the next one"
        assert not left_out or after % round(2 * fps) == 0, "it goes on with a key picture"


@pytest.mark.parametrize("drift", [2e-3, -2e-3])
@pytest.mark.parametrize("bursts", [0.0, 3.0])
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_nothing_is_left_out_where_decoding_keeps_up(
    share: float, bursts: float, drift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = Camera(fps=10, bursts=bursts, drift=drift, busy=0.005)
    assert not any(left_out for *_, left_out in decoded(camera, share / 10, 40, monkeypatch))


def test_nothing_is_left_out_where_decoding_just_keeps_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(left_out for *_, left_out in decoded(Camera(busy=0.002), 0.95 / 25, 10, monkeypatch))


def test_what_a_hang_held_up_is_caught_up_with(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera(hang=(30, 45))
    given = list(decoded(camera, 0.3 / 25, 2, monkeypatch))
    assert not any(left_out for *_, left_out in given)
    assert given[-1][2] < 0.1


def test_a_slow_network_is_no_slow_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets come ever later, and have to be waited for."""
    assert not any(left_out for *_, left_out in decoded(Camera(drift=0.2), 0.3 / 25, 10, monkeypatch))


def test_after_an_overload_it_is_live_again_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    given = list(decoded(Camera(), lambda now: 0.08 if 60 < now < 90 else 0.01, 3, monkeypatch))
    assert any(left_out for *_, left_out in given)
    assert not any(left_out for when, _, _, left_out in given if when > 100)
    assert max(age for when, _, age, _ in given if when > 100) < 0.1


def test_without_key_pictures_it_is_dark_for_some_seconds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    given = list(decoded(Camera(gop=10**9), 0.06, 5, monkeypatch))
    gaps = [(after - before, left_out) for (before, *_), (after, *_, left_out) in pairwise(given)]
    assert DARK < max(gap for gap, _ in gaps) < DARK + 1


@pytest.mark.parametrize("way", ["rtsp", "ts"])
def test_of_a_real_stream_each_picture_is_given_or_told_missed(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "MOST_SECONDS", 0.2)
    monkeypatch.setattr(lag, "WINDOW_SECONDS", 0.2)
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
