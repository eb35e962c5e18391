"""Live playlists: pictures at their pace, none twice, and no damage where segments meet."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
from av.packet import Packet

from pipeline.accounts import StreamAccount
from pipeline.config import StreamConfig
from pipeline.errors import SourceOpenError, SourceReadError
from pipeline.frame import Frame
from pipeline.sources import (
    Missed,
    Picture,
    Remembered,
    Unreadable,
    encode_number,
    open_source,
    parse_source,
    read_number,
    readahead,
)
from pipeline.sources.playlist import MOST_SEEN, Flags, Repeats
from pipeline.sources.readahead import EXCESS_SECONDS, MOST_RATE, SKIP_SECONDS, Ahead, Pace, Steps
from pipeline.stages.capture import Capture
from tests.clips import make_clip
from tests.servers import http_server

EACH = 10
"""Pictures of a segment."""


class Live:
    """A playlist in a folder. Each segment is a file by itself: it counts MPEG-TS's packets from 0."""

    def __init__(self, folder: Path, *, target: int = 60, claimed: float = 60) -> None:
        """After a ``claimed`` length, in seconds, and after half a ``target`` again, FFmpeg asks for a new
        list."""
        self.folder, self._target, self._claimed = folder, target, claimed
        self.count = 0

    def add(self, segments: int = 1, *, begins: int | None = None, codec: str = "libx264", **keys) -> None:
        """``begins``: numbers of pictures count from there, times do not."""
        for _ in range(segments):
            first = self.count * EACH
            numbers = range(EACH) if begins is None else range(begins, begins + EACH)
            shift = first if begins is None else 0
            images = [encode_number(number + shift, 48, 64) for number in numbers]
            make_clip(
                self.folder / f"{self.count}.ts", images=images, pts=range(first + EACH, first + 2 * EACH),
                gop=EACH, codec=codec, **keys,
            )  # fmt: skip
            self.count += 1

    def show(self, first: int = 0, *, closed: bool = False, between: str = "") -> None:
        listed = "".join(f"{between}#EXTINF:{self._claimed},\n{n}.ts\n" for n in range(first, self.count))
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:{self._target}\n#EXT-X-MEDIA-SEQUENCE:{first}\n{listed}"
        new = self.folder / "new.m3u8"
        new.write_text(text + "#EXT-X-ENDLIST\n" * closed)
        new.replace(self.folder / "list.m3u8")


@pytest.fixture
def live(tmp_path: Path) -> Live:
    return Live(tmp_path)


def read(url: str, remembered: Remembered, **stream) -> tuple[list[int], SourceReadError | None]:
    """The numbers of all pictures, and how it ended."""
    numbers: list[int] = []
    config = StreamConfig(source=url, **stream)
    source = open_source(parse_source(url), config, threading.Event(), remembered)
    try:
        with source:
            for picture in source:
                assert isinstance(picture, Picture)
                numbers.append(read_number(picture.image))
    except SourceReadError as error:
        return numbers, error
    return numbers, None


# Pace


def played(
    minutes: float,
    *,
    clock: float = 0.0,
    answer: float = 0.0,
    seconds: float = 2.0,
    hangs: Sequence[tuple[float, float]] = (),
    works: Sequence[tuple[float, float, float]] = (),
    loads: float = 1e9,
    room: float = 1e9,
) -> list[tuple[float, float]]:
    """When each picture is given, and how old it is then: of a camera of 10 fps whose clock is ``clock``
    slower than ours, in segments of ``seconds`` that a server takes ``answer`` to begin with, joined at the
    third from the end. At each of ``hangs`` (when, how long) the server says nothing. ``works`` (from when to
    when, how long): what decoding a picture takes. Each tenth one is a key picture. Segments come ``loads``
    times as fast as they are played. There is ``room`` for so many seconds that are read ahead.
    """
    each, count = int(10 * seconds), int(minutes * 600)
    read, now = list[float](), 3.5 * seconds * (1 + clock)
    for number in range(count):  # as it comes, whatever has been played by then
        if number % each == 0:
            now = max(now + answer, (number // each + 1) * seconds * (1 + clock))
            for begins, lasts in hangs:
                now = begins + lasts if begins <= now < begins + lasts else now
        now += 0.1 / loads
        read.append(now)
    pace, now, given, number = Pace(), 0.0, list[tuple[float, float]](), 0
    while number < count:
        now = max(now, read[number])
        there, step = min(bisect_right(read, now), number + int(10 * room)), None if number == 0 else 0.1
        left = pace.leaves((there - number) / 10 + 1e-9, now, full=there - number >= 9 * room)
        if left is not None:
            keys = [n for n in range(number + 1, there) if n % 10 == 0 and (there - n) / 10 >= left]
            near = [n for n in keys if n - number < 10 * SKIP_SECONDS] or keys[:1]
            number, step = (near[-1], None) if near else (number, step)
        now = pace.due(step, (there - number - 1) / 10, now)
        given.append((now, now - number / 10 * (1 + clock)))
        now += sum(lasts for begins, ends, lasts in works if begins <= now < ends)
        number += 1
    return given


def skipped(given: list[tuple[float, float]], clock: float = 0.0) -> list[tuple[float, float]]:
    """When pictures were left out, and of how many seconds."""
    taken = [(when, (when - age) / (1 + clock)) for when, age in given]
    return [(when, at - was - 0.1) for (_, was), (when, at) in pairwise(taken) if at - was > 0.15]


@pytest.mark.parametrize("clock", [0.0, -0.0005, 0.0005, 0.005])
@pytest.mark.parametrize(("answer", "seconds"), [(0.0, 2.0), (0.2, 2.0), (0.6, 1.0), (0.6, 10.0)])
def test_a_live_stream_is_played_evenly_and_falls_no_further_behind(
    clock: float, answer: float, seconds: float
) -> None:
    """Neither with a clock that differs, nor with a server that takes long to answer."""
    given = played(120, clock=clock, answer=answer, seconds=seconds)
    begun = given[0][1]
    assert max(age for _, age in given) <= begun + seconds + answer + 1
    gaps = [after - before for (before, _), (after, _) in pairwise(given)]
    assert min(gaps) >= 0.1 / MOST_RATE - 1e-6  # never in a burst
    settled = gaps[(40 * 10) :]
    assert max(settled) < 0.1 + 0.6  # nor with a pause for each segment


@pytest.mark.parametrize("seconds", [1.0, 6.0])
def test_what_a_hang_of_the_server_held_up_is_caught_up_with(seconds: float) -> None:
    lasts = 5 * seconds + 4
    given = played(20, seconds=seconds, hangs=[(100, lasts), (300, lasts), (500, lasts)])
    before = max(age for when, age in given if 60 < when < 95)
    assert max(age for _, age in given) > before + 3
    for when in (300, 500, 700):
        (age,) = [age for at, age in given if when - 6 <= at < when - 5.9][:1]
        assert age < before + 1
    gaps = [after - before for (before, _), (after, _) in pairwise(given)]
    assert min(gaps) >= 0.1 / MOST_RATE - 1e-6


@pytest.mark.parametrize("work", [0.101, 0.105, 0.12, 0.2, 1.0])
@pytest.mark.parametrize("seconds", [1.0, 2.0, 6.0, 10.0])
@pytest.mark.parametrize("begins", [0.0, 10.0, 20.0, 100.0])
def test_where_decoding_is_too_slow_some_is_left_out_and_the_lag_is_bounded(
    work: float, seconds: float, begins: float
) -> None:
    given = [each for each in played(15, seconds=seconds, works=[(begins, 1e9, work)]) if each[0] < 850]
    # More than was held in the first seconds, by a segment and by what comes until it is known.
    assert max(age for _, age in given) <= 3.5 * seconds + EXCESS_SECONDS + seconds + 8
    left_out = skipped(given)
    assert left_out or work < 0.12
    assert all(left < SKIP_SECONDS + 0.1 for _, left in left_out), "no jump of the clock"
    # No more than there is too much of.
    assert sum(left for _, left in left_out) <= max(given[-1][0] * (1 - 0.1 / work), 0) + EXCESS_SECONDS


@pytest.mark.parametrize("work", [0.105, 0.2])
@pytest.mark.parametrize(("seconds", "room"), [(2.0, 8.0), (6.0, 22.0), (6.0, 12.0), (10.0, 30.0)])
def test_the_lag_is_bounded_also_where_no_more_can_be_held(seconds: float, room: float, work: float) -> None:
    """A stream of many bytes: what is too much is never there."""
    given = played(15, seconds=seconds, room=room, works=[(20, 1e9, work)])
    assert max(age for when, age in given if when < 850) <= 3.5 * seconds + EXCESS_SECONDS + seconds + 8
    assert not skipped(played(15, seconds=seconds, room=room, works=[(0, 1e9, 0.06)]))


@pytest.mark.parametrize("seconds", [1.0, 2.0, 6.0, 10.0])
def test_an_overload_in_the_beginning_does_not_make_its_lag_the_usual_one(seconds: float) -> None:
    given = played(10, seconds=seconds, works=[(0, 40, 0.14)])
    before, after = given[0][1], [age for when, age in given if when > 240]
    assert max(after) <= before + seconds + 2


def test_a_hang_in_the_beginning_does_not_make_its_lag_the_usual_one() -> None:
    given = played(10, hangs=[(8, 20)])
    assert max(age for when, age in given if when > 240) <= given[0][1] + 3


@pytest.mark.parametrize("work", [0.0, 0.04, 0.08])
@pytest.mark.parametrize("seconds", [1.0, 2.0, 6.0, 10.0])
def test_what_can_be_caught_up_with_is_not_left_out(work: float, seconds: float) -> None:
    """After a hang of the server, and after some seconds in which nothing was decoded."""
    hangs = [(100, 60), (400, 34)]
    given = played(20, seconds=seconds, hangs=hangs, works=[(0, 1e9, work), (700, 700.05, 4)])
    assert not skipped(given)
    assert given[-1][1] <= given[0][1] + seconds + 1


@pytest.mark.parametrize("loads", [1.2, 1.4, 3])
@pytest.mark.parametrize("seconds", [2.0, 6.0, 10.0])
@pytest.mark.parametrize("hiccup", [1.1, 4.0])
def test_a_hiccup_costs_nothing_where_the_list_was_joined_slowly(
    loads: float, seconds: float, hiccup: float
) -> None:
    """As where many cameras are joined at once over one line."""
    for begins in range(15, 40, 2):
        assert not skipped(played(3, seconds=seconds, loads=loads, works=[(begins, begins + 0.1, hiccup)]))


def test_where_the_time_jumps_nothing_is_waited_for() -> None:
    pace = Pace()
    assert pace.due(None, 6, 100) == 100
    assert pace.due(0.04, 6, 100) == pytest.approx(100.04)
    assert pace.due(None, 6, 100.01) == 100.01
    assert pace.due(0.04, 6, 100.02) == pytest.approx(100.05)


def stepped(*at: float, dts: bool = True, longest: float = 10) -> list[float | None]:
    """The steps of packets at those seconds."""
    steps, found = Steps(0, longest), list[float | None]()
    for seconds in at:
        pts = round(seconds * 1000)
        made = SimpleNamespace(pts=pts, dts=pts if dts else None, time_base=Fraction(1, 1000))
        made.stream = SimpleNamespace(index=0)
        found.append(steps.after(made))  # type: ignore[arg-type]
    return [None if each is None else round(each, 3) for each in found]


def test_a_jump_of_the_time_is_none_to_be_slept_through_nor_is_the_next() -> None:
    assert stepped(0, 0.04, 0.08, 60, 260, 860, 860.04) == [None, 0.04, 0.04, None, None, None, 0.04]
    assert stepped(0, 1, 2, 103, 404, 405, 406) == [None, 1, 1, None, None, 1, 1]
    assert stepped(5, 5.04, 1, 1.04) == [None, 0.04, None, 0.04]


def test_a_hole_before_a_key_picture_is_time_that_passed_and_its_pictures_are_counted() -> None:
    def holes(
        *at: float, keys: frozenset[float] = frozenset(), hole: float = 9
    ) -> list[tuple[float | None, int]]:
        steps, found = Steps(0, 10, hole), list[tuple[float | None, int]]()
        for seconds in at:
            made = SimpleNamespace(
                pts=round(seconds * 1000), dts=round(seconds * 1000), time_base=Fraction(1, 1000),
                is_keyframe=seconds in keys, stream=SimpleNamespace(index=0),
            )  # fmt: skip
            step = steps.after(made)  # type: ignore[arg-type]
            found.append((step and round(step, 3), steps.missing))
        return found[2:]

    at = 0, 0.04, 0.08, 2.12, 2.16, 4.2
    assert holes(*at, keys=frozenset({0, 2.12})) == [(0.04, 0), (2.04, 50), (0.04, 0), (None, 0)]
    assert holes(*at, keys=frozenset({0, 2.12}), hole=2) == [(0.04, 0), (None, 0), (0.04, 0), (None, 0)]
    assert holes(0, 2, 4, 6, 20, keys=frozenset(range(21))) == [(2, 0), (2, 0), (None, 0)]  # a slow camera
    assert holes(0, 5, 5.04, keys=frozenset({0, 5})) == [(0.04, 0)]  # at first nothing is known


def test_no_step_is_longer_than_silence_may_be() -> None:
    steps = [0.9 * 3.5**n for n in range(8)]
    at = [sum(steps[:n]) for n in range(len(steps) + 1)]
    assert max(each or 0 for each in stepped(*at, longest=10)) <= 10


def test_a_slow_camera_has_steps_as_long_each_time() -> None:
    assert stepped(0, 5, 10, 15, 20) == [None, None, 5, 5, 5]


def test_without_times_of_decoding_pictures_shown_earlier_take_no_time() -> None:
    shown = [0, 0.12, 0.04, 0.08, 0.24, 0.16, 0.2, 0.36, 0.28, 0.32]
    assert stepped(*shown, dts=False) == [None, 0.12, 0, 0, 0.12, 0, 0, 0.12, 0, 0]
    assert stepped(100, 100.04, 0, 0.04, dts=False) == [None, 0.04, None, 0.04]


@contextlib.contextmanager
def ahead(path: Path, stop: threading.Event, error: Exception | None = None) -> Iterator[Ahead]:
    """Reads a clip, and then fails."""
    with av.open(str(path)) as container:

        def packets() -> Iterator[Packet]:
            yield from container.demux(container.streams.video[0])
            if error is not None:
                raise error

        reader = Ahead(Flags(packets(), 0, segments=False), Steps(0, 60), stop, Pace())
        ended = threading.Event()
        try:
            yield reader
        finally:
            reader.close(ended.set, 0.1)
            assert ended.wait(20)


def test_all_that_is_read_ahead_is_given_and_then_how_it_ended(tmp_path: Path, monkeypatch) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=30)
    with av.open(str(path)) as container:
        wanted = [each.pts for each in container.demux() if each.size]
    for most in (1 << 30, 1):  # with a byte there is room for one packet
        monkeypatch.setattr(readahead, "MOST_BYTES", most)
        with ahead(path, threading.Event(), av.error.ExitError(1, "silence")) as reader:
            given = []
            with pytest.raises(av.error.ExitError):
                for each in reader:
                    given.extend([each.pts] * bool(each.size))
            assert given == wanted
    with ahead(path, threading.Event()) as reader:
        assert len(list(reader)) >= 30


@pytest.mark.parametrize("asked", [None, True, False])
def test_what_is_left_out_is_counted_and_the_rest_is_whole(live: Live, monkeypatch, asked) -> None:
    """Where every picture counts (``asked`` is False), nothing is left out."""
    live.add(3)
    live.show()
    monkeypatch.setattr(Pace, "leaves", lambda _, held, *__, **___: 0.2 if held > 0.7 else None)
    with http_server(live.folder) as server:
        url = f"{server.url}/list.m3u8"
        config = StreamConfig(source=url, stall_timeout=0.5, live=asked)
        given = list[Picture | Missed]()
        with (
            open_source(parse_source(url), config, threading.Event()) as source,
            pytest.raises(SourceReadError, match="no data"),
        ):
            for each in islice(source, 3 * EACH):
                assert not isinstance(each, Unreadable)
                given.append(each)
    pictures = [each for each in given if isinstance(each, Picture)]
    numbers = [read_number(each.image) for each in pictures]
    missed = len(given) - len(pictures)
    if asked is False:
        assert numbers == list(range(3 * EACH))[: len(numbers)] and len(numbers) > 2 * EACH and not missed
        return
    assert missed > 0 and not any(each.damaged for each in pictures)
    after = next(n for n, each in enumerate(numbers) if each != n)
    assert numbers[after] % EACH == 0 and numbers[after] == after + missed
    assert numbers[after:] == list(range(numbers[after], numbers[after] + len(numbers) - after))


def test_no_more_is_read_ahead_than_there_is_room_for(tmp_path: Path, monkeypatch) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=30)
    with av.open(str(path)) as container:
        largest = max(each.size for each in container.demux())
    monkeypatch.setattr(readahead, "MOST_BYTES", largest)
    with ahead(path, threading.Event()) as reader:
        list(islice(reader, 5))
        deadline = time.monotonic() + 20
        while not reader.held_bytes and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # it could have read all the others
        assert 0 < reader.held_bytes < 2 * largest


def test_the_stop_ends_the_wait(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=4, fps=Fraction(1, 50))  # a picture every 50 s
    stop, begun = threading.Event(), time.monotonic()
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    with ahead(path, stop) as reader:
        for _ in reader:
            reader.wait()  # two for nothing, the third as long as the second took
    assert 0.04 < time.monotonic() - begun < 20
    timer.join()


def test_the_stop_ends_the_wait_for_data(tmp_path: Path) -> None:
    stop, over = threading.Event(), threading.Event()

    def silence() -> Iterator[Packet]:
        over.wait(20)
        yield from ()

    reader = Ahead(Flags(silence(), 0, segments=False), Steps(0, 60), stop, Pace())
    timer = threading.Timer(0.05, stop.set)
    timer.start()
    assert next(reader, None) is None
    timer.join()
    ended = threading.Event()
    reader.close(ended.set, 0.1)
    assert not ended.wait(0.05), "it reads still"
    over.set()
    assert ended.wait(20)


def test_the_pictures_of_a_burst_come_at_their_pace_and_are_as_old_as_they_are(live: Live) -> None:
    """Three segments lie there when the list is joined."""
    live.add(3)
    live.show()
    with http_server(live.folder) as server:
        url = f"{server.url}/list.m3u8"
        capture = Capture(parse_source(url), StreamConfig(source=url, stall_timeout=1), StreamAccount("cam"))
        frames = [each for each in islice(capture(), 25) if isinstance(each, Frame)]
    assert [read_number(frame.image) for frame in frames] == list(range(25))
    taken = [frame.captured_at for frame in frames]
    assert taken[-1] - taken[0] > 0.9 * 24 / 25


def test_what_follows_is_read_while_pictures_wait_for_their_time(live: Live) -> None:
    live.add(3)
    live.show()
    asked: list[str] = []
    with http_server(live.folder, asked=asked) as server:
        url = f"{server.url}/list.m3u8"
        stop = threading.Event()
        with open_source(parse_source(url), StreamConfig(source=url, stall_timeout=1), stop) as source:
            pictures = iter(source)
            next(pictures)
            deadline = time.monotonic() + 20
            while "/2.ts" not in asked and time.monotonic() < deadline:
                time.sleep(0.02)
    assert "/2.ts" in asked


def test_a_list_that_is_silent_says_what_may_be_amiss(live: Live) -> None:
    live.add()
    live.show()
    with http_server(live.folder) as server:
        numbers, error = read(f"{server.url}/list.m3u8", Remembered(), stall_timeout=0.5)
    assert error is not None and error.cause == "timeout"
    assert "--stall-timeout" in str(error) and len(numbers) >= EACH - 2


# Repeats


@pytest.mark.parametrize("isolate", [False, True])
def test_a_list_that_is_not_renewed_gives_nothing_twice(live: Live, isolate: bool) -> None:
    if isolate and sys.platform != "linux":
        pytest.skip("sources are isolated on Linux alone")
    remembered, stream = Remembered(), {"isolate": isolate, "stall_timeout": 0.6}
    live.add()
    live.show()
    with http_server(live.folder) as server:
        url = f"{server.url}/list.m3u8"
        first, error = read(url, remembered, **stream)
        # While nothing follows, FFmpeg keeps the last ones.
        assert len(first) >= EACH - 2
        assert first == list(range(len(first)))
        assert error is not None and error.cause == "timeout"
        again, error = read(url, remembered, **stream)
        assert again == []
        assert error is not None and error.cause == "timeout"
        assert "no new picture: the playlist is not renewed" in str(error)


@pytest.mark.parametrize("isolate", [False, True])
def test_of_a_list_that_was_live_and_is_closed_nothing_is_given_until_it_goes_on(
    live: Live, isolate: bool
) -> None:
    """FFmpeg joins one that has an end at its beginning: at pictures that are long past."""
    if isolate and sys.platform != "linux":
        pytest.skip("sources are isolated on Linux alone")
    remembered, stream = Remembered(), {"isolate": isolate, "stall_timeout": 0.6}
    live.add(4)
    live.show()
    with http_server(live.folder) as server:
        url = f"{server.url}/list.m3u8"
        given, _ = read(url, remembered, **stream)
        assert given[0] == EACH, "joined at the third from the end"
        live.show(closed=True)
        for _ in range(2):
            with pytest.raises(SourceOpenError, match="the playlist is closed") as closed:
                read(url, remembered, **stream)
            assert closed.value.cause == "ended"
        live.add()
        live.show()
        more, error = read(url, remembered, **stream)
    assert error is not None and error.cause == "timeout"
    assert given + more == list(range(EACH, EACH + len(given + more)))
    assert len(given + more) >= 4 * EACH - 2


def test_a_list_that_has_an_end_is_read_again_whole(live: Live) -> None:
    """``loop``, and what is paused and resumed."""
    remembered = Remembered()
    live.add(2)
    live.show(closed=True)
    with http_server(live.folder) as server:
        for _ in range(2):
            assert read(f"{server.url}/list.m3u8", remembered) == (list(range(2 * EACH)), None)


def test_a_server_that_begins_anew_gives_other_pictures_with_the_same_times(live: Live) -> None:
    remembered = Remembered()
    live.add(2)
    live.show(closed=True)
    with http_server(live.folder) as server:
        url = f"{server.url}/list.m3u8"
        assert read(url, remembered)[0] == list(range(20))
        live.count = 0
        live.add(begins=500)
        live.add(begins=510)
        live.show(closed=True)
        assert read(url, remembered)[0] == list(range(500, 520))


def test_pictures_that_the_decoder_holds_back_are_not_given_twice_either(live: Live) -> None:
    """B-frames: the last of what was read before comes out after the first of what is new."""
    keys = {"options": {"preset": "ultrafast", "bf": "3", "x264-params": "bframes=3:b-adapt=0"}}
    remembered = Remembered()
    live.add(2, **keys)
    live.show()
    with http_server(live.folder) as server:
        url = f"{server.url}/list.m3u8"
        given = read(url, remembered, stall_timeout=0.6)[0]
        live.add(**keys)
        live.show()
        more = read(url, remembered, stall_timeout=0.6)[0]
    assert given and more and given + more == list(range(len(given + more)))
    assert len(given + more) >= 3 * EACH - 2


def test_a_list_that_is_not_renewed_is_not_live_again(live: Live) -> None:
    live.add()
    live.show()
    with http_server(live.folder) as server:
        url = f"{server.url}/list.m3u8"
        config = StreamConfig(source=url, backoff=0.01, backoff_max=0.01, stall_timeout=0.5)
        account = StreamAccount("cam")
        capture = Capture(parse_source(url), config, account)
        count = 0

        def take() -> None:
            nonlocal count
            for _ in capture():
                count += 1

        thread = threading.Thread(target=take)
        thread.start()
        deadline = time.monotonic() + 20
        while sum(account.link.failures.values()) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        status = account.link.status()
        capture.stop.set()
        thread.join(20)
    assert EACH - 2 <= count <= EACH
    assert not account.link.reconnects and sum(account.link.failures.values()) >= 3
    assert status.error is not None and "not renewed" in status.error


def packet(number: int, data: bytes | None = None) -> Packet:
    made = Packet(random.Random(number).randbytes(50) if data is None else data)
    made.pts = number
    return made


def said(seen: list[int], *numbers: int) -> list[bool]:
    repeats = Repeats(seen)
    return [repeats.again(packet(number), 0.04) for number in numbers]


def test_what_was_read_before_is_told_until_something_new_comes() -> None:
    seen: list[int] = []
    assert said(seen, *range(20)) == [False] * 20
    assert said(seen, *range(10, 25)) == [True] * 10 + [False] * 5
    assert said(seen, 24, 3, 100, 3, 24) == [True, True, False, False, False]


def test_time_and_bytes_both_count_and_a_clock_that_wraps_does_not() -> None:
    seen: list[int] = []
    assert not Repeats(seen).again(packet(5, b"same"), None)
    assert not Repeats(list(seen)).again(packet(6, b"same"), None)
    assert not Repeats(list(seen)).again(packet(5, b"else"), None)
    assert Repeats(list(seen)).again(packet(5 + 2**33, b"same"), None)


def test_a_stream_that_goes_round_in_a_circle_is_not_silent_for_ever() -> None:
    seen: list[int] = []
    said(seen, *range(10))
    assert said(seen, *range(10), *range(10)) == [True] * 10 + [False] * 10


def test_no_more_is_remembered_than_is_needed() -> None:
    seen: list[int] = []
    last = MOST_SEEN + 1500
    said(seen, *range(last + 1))
    assert MOST_SEEN <= len(seen) < MOST_SEEN + 1000
    assert said(seen, last) == [True]
    assert said(seen, last - MOST_SEEN - 1000) == [False]


def test_what_begins_anew_with_the_same_bytes_is_hidden_for_no_longer_than_three_segments() -> None:
    """Of a camera that shows 4 pictures a second, all remembered; a clock that jumps tells of no time."""
    numbers = range(1000)
    seen: list[int] = []
    said(seen, *numbers)
    repeats = Repeats(seen)
    hidden = [repeats.again(packet(number), 0.25 if number % 10 else None) for number in numbers]
    assert hidden == sorted(hidden, reverse=True)
    assert sum(hidden) == 401, "360 steps, and those that tell of no time"


def test_a_list_of_many_pictures_that_is_not_renewed_is_hidden_whole() -> None:
    """Three segments of 30 s, 60 pictures a second, and sound."""
    seen: list[int] = []
    made = [packet(number) for number in range(3 * 30 * 60)]
    first = Repeats(seen)
    assert not any(first.again(each, 1 / 60) for each in made)
    then = Repeats(seen)
    assert all(then.again(each, 1 / 60 if n else None) for n, each in enumerate(made))


def test_a_picture_of_a_packet_without_a_time_is_hidden_too() -> None:
    seen: list[int] = []
    for _ in range(2):
        repeats, made = Repeats(seen), packet(7)
        made.pts = None
        again = repeats.again(made, None)
        made.pts = -5  # as it is given one before it is decoded
        repeats.decodes(made)
    assert again and repeats.hides(-5) and not repeats.hides(-5)


def test_what_is_remembered_fits_into_a_message_to_another_process() -> None:
    remembered = Remembered("udp", True, [random.Random(1).getrandbits(32) for _ in range(MOST_SEEN + 999)])
    told = json.dumps(remembered.told())
    assert len(told) < 120_000
    learnt = Remembered()
    learnt.learn(json.loads(told))
    assert learnt == remembered
    with pytest.raises(ValueError, match="multiple of item size"):
        learnt.learn({"transport": "", "live": False, "seen": "AA=="})


# Flags


def test_a_list_that_grows_is_read_without_a_loss(tmp_path: Path) -> None:
    live = Live(tmp_path, target=6, claimed=0.4)
    live.add(6)
    whole, live.count = live.count, 3
    live.show()
    over = threading.Event()

    def grow() -> None:
        while live.count < whole and not over.wait(0.4):
            live.count += 1
            live.show(closed=live.count == whole)

    thread = threading.Thread(target=grow)
    with http_server(live.folder) as server:
        thread.start()
        try:
            url = f"{server.url}/list.m3u8"
            # A list that a busy machine lets grow late is asked for again after half its target.
            config = StreamConfig(source=url, stall_timeout=20)
            source = open_source(parse_source(url), config, threading.Event())
            numbers: list[int] = []
            with source, pytest.raises(SourceReadError, match="the playlist was closed"):
                numbers.extend(read_number(each.image) for each in source if isinstance(each, Picture))
        finally:
            over.set()
            thread.join()
    assert numbers == list(range(6 * EACH))
    assert source.corrupt_packets == 0


@pytest.mark.parametrize("between", ["", "#EXT-X-DISCONTINUITY\n"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("lengths", ["0", "1"])
def test_segments_that_count_their_packets_anew_are_whole(
    live: Live, between: str, codec: str, lengths: str
) -> None:
    """``lengths``: whether the video's data declares how long it is, as it may."""
    live.add(4, codec=codec, container_options={"omit_video_pes_length": str(1 - int(lengths))})
    live.show(closed=True, between=between)
    with http_server(live.folder) as server:
        url = f"{server.url}/list.m3u8"
        source = open_source(parse_source(url), StreamConfig(source=url, stall_timeout=2), threading.Event())
        with source:
            pictures = [each for each in source if isinstance(each, Picture)]
    assert [read_number(each.image) for each in pictures] == list(range(40))
    assert source.corrupt_packets == 0
    assert not any(each.damaged for each in pictures)


def test_a_loss_within_a_segment_is_one(live: Live) -> None:
    live.add(3)
    data = (live.folder / "1.ts").read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    video = [n for n, each in enumerate(packets) if (each[1] & 0x1F) << 8 | each[2] == 256]
    starts = [n for n in video if packets[n][1] & 0x40]
    del packets[starts[4] + 1 if starts[4] + 1 in video else starts[4]]
    (live.folder / "1.ts").write_bytes(b"".join(packets))
    live.show(closed=True)
    with http_server(live.folder) as server:
        url = f"{server.url}/list.m3u8"
        source = open_source(parse_source(url), StreamConfig(source=url, stall_timeout=2), threading.Event())
        with source:
            pictures = [each for each in source if isinstance(each, Picture)]
    assert source.corrupt_packets >= 1
    damaged = [read_number(each.image) for each in pictures if each.damaged]
    assert damaged and damaged[-1] == 19 and damaged[0] >= 13


def test_an_end_behind_a_flag_is_told_after_all_that_came() -> None:
    class Flagged:
        is_corrupt, is_keyframe, size = True, False, 10
        stream = SimpleNamespace(index=0)

    given = [Flagged(), Flagged()]

    def packets() -> Iterator[Packet]:
        yield from given  # type: ignore[misc]
        raise av.error.ExitError(1, "over")

    flags = Flags(packets(), 0, segments=True)
    assert [next(flags), next(flags)] == given and flags.counts(given[1])  # type: ignore[arg-type]
    with pytest.raises(av.error.ExitError):
        next(flags)
