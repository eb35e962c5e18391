"""When frames of a written video are shown: real distances, always forward."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.frame import Frame
from pipeline.sinks.timeline import Timeline

MS = Fraction(1, 1000)
IMAGE = np.zeros((2, 2, 3), np.uint8)


def place(pts, captured=None, *, tick=MS, fps=None, seqs=None):
    """Ticks of frames with these PTS (ms) and capture times (s)."""
    timeline = Timeline(tick, fps)
    captured = captured or [0.0] * len(pts)
    return [
        timeline.place(Frame("a", seqs[i] if seqs else i, IMAGE, value, MS, captured[i], 0.0))
        for i, value in enumerate(pts)
    ]


@given(
    st.lists(
        st.tuples(st.none() | st.integers(-(2**45), 2**45) | st.integers(0, 5000), st.floats(0, 1e5)),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([MS, Fraction(1, 90_000), Fraction(1, 30)]),
    st.sampled_from([None, Fraction(25), Fraction(30_000, 1001)]),
)
def test_ticks_begin_at_0_rise_strictly_and_never_leap_further_than_a_file_can_say(frames, tick, fps):
    ticks = place([pts for pts, _ in frames], [at for _, at in frames], tick=tick, fps=fps)
    assert ticks[0] == 0
    steps = [after - before for before, after in pairwise(ticks)]
    assert all(0 < step < 2**31 for step in steps)


@given(st.integers(-(2**40), 2**40), st.lists(st.integers(1, 3_600_000), max_size=30))
def test_rising_pts_keep_their_distances_exactly(start, steps):
    pts = [start]
    for step in steps:
        pts.append(pts[-1] + step)
    assert place(pts) == [value - start for value in pts]


@given(st.integers(2, 200))
def test_rounding_does_not_add_up(count):
    ticks = place([0, 33, 67] + [100 * n // 3 for n in range(3, count)], tick=Fraction(1, 90_000))
    for n, tick in enumerate(ticks):
        assert abs(tick - 3000 * n) < 90


def test_one_frame_out_of_order_moves_no_other():
    assert place([0, 40, 20, 120, 160]) == [0, 40, 41, 120, 160]
    assert place([0, 40, 40, 120, 160]) == [0, 40, 41, 120, 160]


def test_a_clock_set_back_is_joined_on_by_real_time():
    pts = [90_000, 90_040, 0, 40, 80]
    assert place(pts, [0.0, 0.04, 5.04, 5.08, 5.12]) == [0, 40, 5040, 5080, 5120]


def test_a_clock_set_back_a_little_is_found_at_its_second_frame():
    assert place([0, 100, 200, 0, 100, 200], [0, 0.1, 0.2, 0.3, 0.4, 0.5]) == [0, 100, 200, 201, 301, 401]


def test_a_clock_that_leaps_ahead_is_joined_on_by_real_time():
    assert place([0, 40, 10**12, 10**12 + 40], [0, 0.04, 0.08, 0.12]) == [0, 40, 80, 120]


def test_a_pause_of_hours_is_cut_to_one():
    assert place([9000, 9040, 0], [0, 0.04, 50_000]) == [0, 40, 3_600_040]


def test_a_stuck_clock_is_replaced_by_real_time():
    ticks = place([7] * 6, [n / 10 for n in range(6)])
    assert ticks[-1] == pytest.approx(500, abs=110)


def test_without_pts_a_nominal_rate_or_else_the_captures_tell():
    assert place([None] * 4, [0.0, 0.1, 0.5, 0.6]) == [0, 100, 500, 600]
    assert place([None] * 4, [0.0, 9.0, 9.1, 9.2], fps=Fraction(25), seqs=[0, 1, 2, 7]) == [0, 40, 80, 280]


def test_a_missing_pts_in_between_is_bridged():
    assert place([0, 40, None, 120], [0.0, 0.04, 0.08, 0.12]) == [0, 40, 80, 120]
