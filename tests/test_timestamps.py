"""Presentation times rise, whatever comes; those of a good stream stay as they are."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources import Timestamps

TS = Fraction(1, 90_000)
FRAME = 3600  # ticks of a 25 fps stream


def through(pts: list[int | None], arrived: list[float] | None = None, **how: bool) -> tuple[list, dict]:
    timestamps = Timestamps()
    times = arrived or [100 + index / 25 for index in range(len(pts))]
    out = [timestamps(each, TS, at, **how) for each, at in zip(pts, times, strict=True)]
    return out, dict(timestamps.repaired)


@given(st.lists(st.integers(1, 10 * 90_000), min_size=1), st.integers(-(2**40), 2**40))
def test_a_good_stream_keeps_its_times(steps, start):
    pts = [start]
    for step in steps:
        pts.append(pts[-1] + step)
    assert through(pts) == (pts, {})


@given(
    st.lists(st.none() | st.integers(0, 2**33 - 1), min_size=1, max_size=60),
    st.lists(st.floats(0, 100), min_size=60, max_size=60),
    st.booleans(),
    st.sets(st.integers(0, 59)),
)
def test_times_rise_whatever_comes(pts, waits, pauses, restarts):
    timestamps, now, out = Timestamps(), 0.0, []
    for index, (each, wait) in enumerate(zip(pts, waits, strict=False)):
        now += wait
        if index in restarts:
            timestamps.restart()
        out.append(timestamps(each, TS, now, pauses=pauses))
    known = [each for each in out if each is not None]
    assert all(a < b for a, b in pairwise(known))
    first = next((index for index, each in enumerate(pts) if each is not None), len(pts))
    assert [each is None for each in out] == [index < first for index in range(len(pts))]


def test_missing_and_duplicate_times_follow_the_last():
    out, repaired = through([0, FRAME, None, 3 * FRAME, 3 * FRAME, 5 * FRAME])
    assert out == [index * FRAME for index in range(6)]
    assert repaired == {"missing": 1, "duplicate": 1}


def test_after_a_gap_they_follow_by_the_usual_step_and_not_by_the_gap():
    gap = 80 * FRAME
    out, _ = through([0, FRAME, gap, gap, gap + 2 * FRAME, None, gap + 4 * FRAME])
    assert out == [0, FRAME, *(gap + index * FRAME for index in range(5))]


def test_a_counter_that_wraps_goes_on():
    for bits in (32, 33):
        start = 2**bits - 3 * FRAME + 7
        out, repaired = through([(start + index * FRAME) % 2**bits for index in range(8)])
        assert out == [start + index * FRAME for index in range(8)]
        assert repaired == {"wrap": 1}


def test_a_jump_goes_on_by_the_time_that_passed():
    pts = [0, FRAME, 10**12, 10**12 + FRAME, 500, 500 + FRAME]
    out, repaired = through(pts, [0.0, 0.04, 0.54, 0.58, 0.62, 0.66])
    second = FRAME + 45_000  # half a second later
    assert out == [0, FRAME, *(second + index * FRAME for index in range(4))]
    assert repaired == {"jump": 2}


def test_a_pause_that_really_was_is_none():
    pts = [0, FRAME, FRAME + 60 * 90_000]
    assert through(pts, [0.0, 0.04, 60.04]) == (pts, {})
    assert through(pts, [0.0, 0.001, 0.002], pauses=True) == (pts, {})  # of a file, read fast


def test_a_new_connection_goes_on_and_is_no_jump():
    timestamps = Timestamps()
    assert timestamps(5_000_000, TS, 10.0) == 5_000_000
    timestamps.restart()
    assert timestamps(0, TS, 12.0) == 5_000_000 + 2 * 90_000
    assert timestamps(FRAME, TS, 12.04) == 5_000_000 + 2 * 90_000 + FRAME
    # In another time base, too.
    assert timestamps(7, Fraction(1, 1000), 13.04) == round((5_000_000 + 3 * 90_000 + FRAME) / 90)
    assert timestamps.repaired == {}


def test_a_gap_counts_where_the_first_pictures_behind_it_have_no_time():
    """As over RTSP, until the sender has told what time it is."""
    timestamps = Timestamps()
    assert timestamps(5_000_000, TS, 10.0) == 5_000_000
    timestamps.restart()
    assert timestamps(None, TS, 12.0) == 5_000_000 + 2 * 90_000
    assert timestamps(None, TS, 12.04) == 5_000_000 + 2 * 90_000 + FRAME
    assert timestamps(77, TS, 12.08) == 5_000_000 + 2 * 90_000 + 2 * FRAME
    assert timestamps(77 + FRAME, TS, 12.12) == 5_000_000 + 2 * 90_000 + 3 * FRAME
    assert timestamps.repaired == {"missing": 2}
    # A file is read faster than it plays: the clock says nothing of it.
    timestamps = Timestamps()
    assert timestamps(0, TS, 10.0) == 0
    timestamps.restart()
    assert timestamps(None, TS, 12.0, pauses=True) == FRAME


def test_without_a_clock_there_are_no_times():
    timestamps = Timestamps()
    assert [timestamps(None, None, at) for at in (0.0, 1.0)] == [None, None]
    assert timestamps.repaired == {}
