"""The books: histograms against sorted samples, and violations that are found."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.accounts import Accounts
from pipeline.detections import Detections
from pipeline.errors import AccountingError
from pipeline.frame import Frame, Result
from pipeline.histogram import BUCKETS, Histogram

durations = st.lists(st.floats(1e-6, 30.0), min_size=1, max_size=200)


@given(durations, st.floats(0, 1))
def test_quantile_is_the_nearest_rank_within_a_bucket(values: list[float], q: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    exact = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    found = histogram.quantile(q)
    assert found is not None
    assert found >= min(exact, max(values)) - 1e-12
    if 1e-4 <= exact <= 10:
        assert found <= exact * 1.03


@given(durations)
def test_exported_buckets_are_exact(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    cumulative, count, total = histogram.buckets()
    assert [bound for bound, _ in cumulative] == list(BUCKETS)
    for bound, number in cumulative:
        assert number == sum(value <= bound for value in values)
    assert count == len(values)
    assert total == pytest.approx(sum(values))


def test_buckets_reach_from_a_tenth_of_a_millisecond_to_ten_seconds() -> None:
    assert BUCKETS[0] == 0.0001
    assert BUCKETS[-1] == 10.0
    assert list(BUCKETS) == sorted(set(BUCKETS))


@given(durations, durations)
def test_adding_histograms_is_observing_both(first: list[float], second: list[float]) -> None:
    one, two, both = Histogram(), Histogram(), Histogram()
    for value in first:
        one.observe(value)
        both.observe(value)
    for value in second:
        two.observe(value)
        both.observe(value)
    one.add(two)
    assert one.buckets()[:2] == both.buckets()[:2]
    assert one.quantile(0.5) == both.quantile(0.5)


@given(durations, durations)
def test_what_was_observed_since_then(first: list[float], second: list[float]) -> None:
    whole, alone = Histogram(), Histogram()
    for value in first:
        whole.observe(value)
    then = whole.copy()
    for value in second:
        whole.observe(value)
        alone.observe(value)
    since = whole.since(then)
    assert since.buckets()[:2] == alone.buckets()[:2]
    assert since.mean() == pytest.approx(alone.mean(), rel=1e-6, abs=1e-6)
    median, own = since.quantile(0.5), alone.quantile(0.5)
    assert median is not None
    assert own is not None
    assert own <= median + 1e-12
    assert then.count == len(first)  # a copy: what comes later is not in it


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None


def frame(seq: int) -> Frame:
    image = np.zeros((4, 6, 3), np.uint8)
    return Frame("s", seq, image, seq, Fraction(1, 25), time.monotonic(), time.time(), {"capture": 0.001})


def test_a_lost_frame_and_a_double_one_are_found() -> None:
    books = Accounts(["s"], ["capture", "emit"])
    for seq in range(3):
        books.fed("capture", frame(seq))
    results = [Result(frame(seq), Detections.empty()) for seq in range(3)]
    books.emitted("emit", results[0])
    books.dropped("emit", results[1], "failed")
    assert books.streams["s"].counts().in_flight == 1
    with pytest.raises(AccountingError, match=r"1 frames never left the line, such as \[2\]"):
        books.check(0)
    books.dropped("emit", results[2], "failed")
    books.check(0)
    with pytest.raises(AccountingError, match="2 frames were left in channels"):
        books.check(2)
    books.emitted("emit", results[2])
    assert books.streams["s"].counts().unaccounted == -1
    with pytest.raises(
        AccountingError, match=r"captured 3 ≠ emitted 2 \+ dropped 2 \+ in flight 0: .* twice"
    ):
        books.check(0)


def test_dropped_before_counts_the_gap() -> None:
    account = Accounts(["s"], []).streams["s"]
    assert [account.dropped_before(seq) for seq in (0, 1, 5, 6)] == [0, 0, 3, 0]


def test_timings_and_labels_are_written_down() -> None:
    books = Accounts(["s"], ["capture", "infer", "emit"])
    item = frame(0)
    books.fed("capture", item)
    books.served("infer", [item], 0.02)
    names = ("cat", "dog")
    found = Detections(
        np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.array([1, 1], np.int32), names
    )
    books.emitted("emit", Result(item, found))
    assert item.timings == {"capture": 0.001, "infer": 0.02}
    assert books.stages["infer"].count == 1
    assert books.batches == {1: 1}
    assert books.streams["s"].detections() == {"dog": 2}
    assert (books.streams["s"].width, books.streams["s"].height) == (6, 4)
