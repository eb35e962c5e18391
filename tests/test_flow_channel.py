"""Channels and merges: policies, endings, fairness, and that nothing is lost uncounted."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.flow import Cancelled, Channel, EndOfStream, Merge


def test_first_in_first_out() -> None:
    channel: Channel[int] = Channel("c", 3)
    for item in (1, 2, 3):
        channel.put(item)
    assert channel.take() == [1]
    assert channel.take(limit=5) == [2, 3]


def test_close_drains_then_ends() -> None:
    channel: Channel[int] = Channel("c", 3)
    channel.put(1)
    channel.close()
    assert channel.take(limit=2) == [1]
    for _ in range(2):
        with pytest.raises(EndOfStream):
            channel.take()
    with pytest.raises(Cancelled):
        channel.put(2)


def test_cancel_clears_reports_and_refuses() -> None:
    dropped: list[tuple[int, str]] = []
    channel: Channel[int] = Channel("c", 3, on_drop=lambda item, reason: dropped.append((item, reason)))
    channel.put(1)
    channel.put(2)
    channel.cancel()
    assert dropped == [(1, "cancelled"), (2, "cancelled")]
    with pytest.raises(Cancelled):
        channel.take()
    with pytest.raises(Cancelled):
        channel.put(3)
    assert channel.statistics().depth == 0


def test_drop_oldest_that_is_behind_keeps_the_freshest_alone() -> None:
    dropped: list[tuple[int, str]] = []
    channel: Channel[int] = Channel(
        "c", 2, "drop_oldest", on_drop=lambda item, reason: dropped.append((item, reason))
    )
    for item in range(5):
        channel.put(item)
    assert dropped == [(item, "drop_oldest") for item in range(4)]
    assert channel.take(limit=9) == [4]
    channel.put(5)  # the taker came late again: it did not wait
    channel.put(6)
    assert channel.take(limit=9) == [6]
    statistics = channel.statistics()
    assert (statistics.puts, statistics.drops, statistics.high_watermark) == (7, 5, 2)


@pytest.mark.parametrize("merged", [False, True])
def test_a_burst_that_fits_loses_nothing_once_the_taker_has_caught_up(merged: bool) -> None:
    dropped: list[int] = []
    merge: Merge[int] = Merge(lambda item, _: dropped.append(item))
    make = merge.channel if merged else Channel
    channel = make("c", 3, "drop_oldest", lambda item, _: dropped.append(item))
    outlet = merge if merged else channel
    for item in range(4):
        channel.put(item)
    assert (dropped, outlet.take()) == ([0, 1, 2], [3])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(outlet.take)
        until(lambda: outlet._asked)
        channel.put(4)
        assert waiting.result(timeout=5) == [4]
    for item in (5, 6, 7):
        channel.put(item)
    assert (dropped, outlet.take(limit=9)) == ([0, 1, 2], [5, 6, 7])


def test_a_channel_whose_window_is_full_has_not_caught_up() -> None:
    """Its taker waits, but not for what lies here."""
    merge: Merge[int] = Merge()
    channel = merge.channel("c", 2, "drop_oldest", window=1)
    channel.put(0)
    assert merge.take() == [0]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(merge.take)
        until(lambda: merge._asked)
        for item in range(1, 5):
            channel.put(item)
        channel.release()
        assert waiting.result(timeout=5) == [4]  # and not 3, with 4 behind it


def until(true: Callable[[], object]) -> None:
    """Wait for another thread, 5 s at most."""
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_what_is_promised_is_what_the_taker_waits_for() -> None:
    channel: Channel[int] = Channel("c", 9)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(channel.promise)
        with pytest.raises(TimeoutError):
            first.result(timeout=0.02)  # nobody waits for anything
        taking = pool.submit(channel.take)
        first.result(timeout=5)
        second = pool.submit(channel.promise)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.02)  # it waits for one
        channel.put(1)
        channel.settle()
        assert taking.result(timeout=5) == [1]
        assert not second.done()
        taking = pool.submit(channel.take)
        second.result(timeout=5)
        channel.promise(spare=1)
        channel.settle()  # one that cannot be kept leaves room for another
        channel.promise(spare=1)
        third = pool.submit(channel.promise)
        channel.cancel()
        for ended in (third, taking):
            with pytest.raises(Cancelled):
                ended.result(timeout=5)


def test_who_waits_to_promise_takes_nobodys_space() -> None:
    channel: Channel[int] = Channel("c", 1)
    channel.put(1)
    with ThreadPoolExecutor(2) as pool:
        promising = pool.submit(channel.promise)
        until(lambda: len(channel._space._waiters) == 1)  # type: ignore[attr-defined]
        putting = pool.submit(channel.put, 2)
        until(lambda: channel.back_pressure)
        assert channel.take() == [1]
        putting.result(timeout=5)
        assert channel.take() == [2]
        channel.cancel()
        with pytest.raises(Cancelled):
            promising.result(timeout=5)


def test_block_waits_for_space() -> None:
    channel: Channel[int] = Channel("c", 1)
    channel.put(1)
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(channel.put, 2)
        time.sleep(0.05)
        assert not second.done()
        assert channel.take() == [1]
        second.result(timeout=5)
    assert channel.take() == [2]


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_endings_wake_a_waiting_putter(end: str) -> None:
    channel: Channel[int] = Channel("c", 1)
    channel.put(1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(channel.put, 2)
        time.sleep(0.02)
        getattr(channel, end)()
        with pytest.raises(Cancelled):
            waiting.result(timeout=5)


@pytest.mark.parametrize(("end", "raised"), [("cancel", Cancelled), ("close", EndOfStream)])
def test_endings_wake_a_waiting_taker(end: str, raised: type[Exception]) -> None:
    channel: Channel[int] = Channel("c", 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(channel.take)
        time.sleep(0.02)
        getattr(channel, end)()
        with pytest.raises(raised):
            waiting.result(timeout=5)


def test_patience_ends_an_idle_wait_with_nothing() -> None:
    channel: Channel[int] = Channel("c", 1)
    started = time.monotonic()
    assert channel.take(patience=0.05) == []
    assert time.monotonic() - started >= 0.05
    channel.put(1)
    assert channel.take(patience=60) == [1]


def test_linger_fills_a_batch_larger_than_the_capacity() -> None:
    channel: Channel[int] = Channel("c", 1)
    with ThreadPoolExecutor(1) as pool:
        feeding = pool.submit(lambda: [channel.put(item) for item in range(4)])
        assert channel.take(limit=4, linger=5) == [0, 1, 2, 3]
        feeding.result(timeout=5)


def test_linger_ends_with_what_there_is() -> None:
    channel: Channel[int] = Channel("c", 4)
    channel.put(1)
    started = time.monotonic()
    assert channel.take(limit=4, linger=0.05) == [1]
    assert time.monotonic() - started >= 0.05
    channel.put(2)
    channel.close()
    assert channel.take(limit=4, linger=60) == [2]


def test_cancel_during_linger_reports_what_was_in_hand() -> None:
    dropped: list[int] = []
    channel: Channel[int] = Channel("c", 4, on_drop=lambda item, _: dropped.append(item))
    channel.put(1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(channel.take, 4, 60)
        while channel.statistics().depth:
            time.sleep(0.001)
        channel.cancel()
        with pytest.raises(Cancelled):
            waiting.result(timeout=5)
    assert dropped == [1]


def test_more_capacity_wakes_a_putter_that_waits_for_space() -> None:
    channel: Channel[int] = Channel("c", 1)
    channel.put(0)
    putter = threading.Thread(target=channel.put, args=(1,))
    putter.start()
    while not channel.back_pressure:
        pass
    channel.resize(2)
    putter.join(5)
    assert not putter.is_alive()
    assert channel.take(2) == [0, 1]


def test_merge_serves_streams_in_turn() -> None:
    merge: Merge[str] = Merge()
    fast, slow = merge.channel("fast", 8), merge.channel("slow", 8)
    for number in range(6):
        fast.put(f"f{number}")
    slow.put("s0")
    slow.put("s1")
    assert merge.take(limit=8) == ["f0", "s0", "f1", "s1", "f2", "f3", "f4", "f5"]


def overrun(merge: Merge[str], *names: str, capacity: int = 1) -> list[Channel[str]]:
    """Channels that are behind: each has had one item too many."""
    channels = [merge.channel(name, capacity, "drop_oldest") for name in names]
    for channel in channels:
        for number in range(capacity + 1):
            channel.put(f"{channel.name}{number}")
        assert channel.behind
    return channels


def test_of_streams_that_are_behind_the_freshest_is_served_first() -> None:
    merge: Merge[str] = Merge()
    one, two, three = overrun(merge, "a", "b", "c")
    two.put("b2")
    assert merge.take() == ["b2"]
    one.put("a2")
    three.put("c2")
    assert [merge.take() for _ in range(2)] == [["c2"], ["a2"]]


@pytest.mark.parametrize("seed", range(20))
def test_a_fresher_stream_gets_no_larger_share(seed: int) -> None:
    """Whatever the moments at which they send, all of which come between two takes or not at all."""
    dice = random.Random(seed)
    merge: Merge[str] = Merge()
    channels = overrun(merge, "a", "b", "c", "d")
    served: Counter[str] = Counter()
    for _ in range(400):
        # Always the same order, so that one is always the freshest.
        for channel in channels if dice.random() < 0.9 else channels[1:]:
            channel.put(channel.name)
        (item,) = merge.take()
        served[item[0]] += 1
    assert all(served[each.name] == pytest.approx(100, abs=3) for each in channels), served


class Cameras:
    """Channels that are behind, with an item a second each, unless it is held; the last one's comes last."""

    def __init__(self, *names: str) -> None:
        self.now = 0.0
        self.merge: Merge[str] = Merge(clock=lambda: self.now)
        self.channels = overrun(self.merge, *names)
        for _ in range(40):
            self.tick()

    def tick(self, *held: str) -> None:
        """A second goes by."""
        self.now += 1.0
        for number, channel in enumerate(self.channels):
            if channel.name not in held:
                self.now += 0.001
                channel.put(f"{channel.name}@{self.now - number / 1000:.0f}")

    def take(self) -> str:
        (item,) = self.merge.take()
        return item[0]


def test_a_stream_whose_next_item_is_overdue_lets_each_of_the_others_go_first_once() -> None:
    cameras = Cameras("a", "b", "c")
    assert [cameras.take() for _ in range(2)] == ["c", "b"]
    cameras.tick("a")
    cameras.tick("a")  # whose item is two of its intervals old, and some milliseconds
    assert [cameras.take() for _ in range(2)] == ["c", "b"]
    cameras.tick("a")
    assert cameras.take() == "a"  # the others have had a turn more
    assert [cameras.take(), cameras.take()] == ["c", "b"]  # where they would have had it, but for the third


def test_a_stream_that_is_late_by_less_keeps_its_turn() -> None:
    cameras = Cameras("a", "b", "c")
    assert [cameras.take() for _ in range(2)] == ["c", "b"]
    cameras.tick("a")
    assert cameras.take() == "a"


def test_where_all_are_overdue_the_one_whose_turn_it_is_keeps_it_if_none_is_fresher() -> None:
    cameras = Cameras("a", "b", "c")
    assert [cameras.take() for _ in range(2)] == ["c", "b"]
    cameras.tick()
    cameras.tick("b", "c")
    cameras.now += 3
    assert cameras.take() == "a"


@pytest.mark.parametrize("seed", range(10))
def test_streams_share_alike_also_where_they_are_often_overdue(seed: int) -> None:
    dice = random.Random(seed)
    cameras = Cameras("a", "b", "c", "d")
    served: Counter[str] = Counter()
    for _ in range(300):
        cameras.tick()
        overdue = dice.random() < 0.3
        for _ in range(3 * overdue):
            cameras.tick("a")
        served[cameras.take()] += 1
        assert max(served.values()) - min(served[name] for name in "abcd") <= 2


def test_a_stream_that_comes_back_has_saved_up_no_turns() -> None:
    merge: Merge[str] = Merge()
    (idle,) = overrun(merge, "idle")
    merge.take()
    busy, other = overrun(merge, "x", "y")
    for _ in range(50):
        for channel in (busy, other):
            channel.put(channel.name)
        merge.take()
    taken = []
    for _ in range(20):
        for channel in (idle, busy, other):
            channel.put(channel.name)
        taken += merge.take()
    assert 5 <= taken.count("idle") <= 8


@pytest.mark.parametrize("fresher", [0, 1])
@pytest.mark.parametrize("quiet", [0, 1, 2, 1000])
def test_what_was_served_before_an_overload_counts_for_nothing(quiet: int, fresher: int) -> None:
    merge: Merge[int] = Merge()
    old = merge.channel("old", 2, "drop_oldest")
    for _ in range(quiet):  # it keeps up
        old.put(0)
        merge.take()
    pair = [old, merge.channel("new", 2, "drop_oldest")]
    served: Counter[int] = Counter()
    for _ in range(100):
        for _ in range(3):
            for number in (1 - fresher, fresher):
                pair[number].put(number)
        served.update(merge.take())
    assert abs(served[0] - served[1]) <= 2


@pytest.mark.parametrize("rates", [[50, 100], [10, 30], [15, 30, 60, 120], [25, 25, 60]])
def test_streams_of_different_rates_share_alike_under_overload(rates: list[int]) -> None:
    """Each has more than its share of what is taken; the moments are as they are with real cameras."""
    dice = random.Random(sum(rates))
    merge: Merge[int] = Merge()
    channels = [merge.channel(str(rate), 2, "drop_oldest") for rate in rates]
    takes_per_second = 0.6 * len(rates) * min(rates)
    due = [dice.random() / rate for rate in rates]
    served: Counter[int] = Counter()
    for take in range(1, 601):
        while min(due) <= 1 + take / takes_per_second:
            number = due.index(min(due))
            channels[number].put(number)
            due[number] += dice.uniform(0.75, 1.25) / rates[number]
        served.update(merge.take())
    assert all(served[number] == pytest.approx(600 / len(rates), rel=0.03) for number in range(len(rates)))


def test_a_stream_that_is_not_behind_waits_for_no_fresher_one() -> None:
    merge: Merge[str] = Merge()
    first, *_ = overrun(merge, "a", "b", "c")
    slow = merge.channel("slow", 5, "drop_oldest")
    slow.put("slow")
    taken = []
    for _ in range(4):
        taken += merge.take()
        first.put("a")
    assert taken[3] == "slow"


def test_a_stream_whose_window_is_full_has_no_turn_until_one_is_released() -> None:
    merge: Merge[str] = Merge()
    slow, other = merge.channel("slow", 8, window=2), merge.channel("other", 8)
    for number in range(4):
        slow.put(f"s{number}")
        other.put(f"o{number}")
    assert merge.take(limit=8) == ["s0", "o0", "s1", "o1", "o2", "o3"]
    assert merge.take(patience=0.01) == []
    taken: list[list[str]] = []
    taker = threading.Thread(target=lambda: taken.append(merge.take()))
    taker.start()
    slow.release()
    taker.join(5)
    assert taken == [["s2"]]
    slow.close()
    other.close()
    merge.seal()
    assert merge.take(patience=0.01) == [], "s3 is still to come: not the end"
    slow.release()
    assert merge.take() == ["s3"]
    with pytest.raises(EndOfStream):
        merge.take()


def test_one_each_ends_a_take_where_a_second_turn_would_begin() -> None:
    merge: Merge[str] = Merge(one_each=True)
    busy, calm = merge.channel("busy", 8), merge.channel("calm", 8)
    for number in range(3):
        busy.put(f"b{number}")
    calm.put("c0")
    assert [merge.take(limit=8) for _ in range(3)] == [["b0", "c0"], ["b1"], ["b2"]]


def test_what_is_taken_past_the_merge_gives_its_turn_back() -> None:
    merge: Merge[int] = Merge()
    one, other = merge.channel("one", 8), merge.channel("other", 8)
    for number in (1, 2, 30, 4):
        one.put(number)
    other.put(5)
    assert one.take_while(lambda item: item < 10) == [1, 2]
    assert merge.take(limit=8) == [30, 5, 4]
    one.put(6)
    assert one.take_while(lambda _: True) == [6]
    assert merge.take(patience=0.01) == []
    one.put(7)
    assert merge.take() == [7]


def test_merge_ends_when_sealed_and_all_are_drained() -> None:
    merge: Merge[int] = Merge()
    first, second = merge.channel("a", 2), merge.channel("b", 2)
    first.put(1)
    first.close()
    merge.seal()
    assert merge.take() == [1]
    second.put(2)
    second.close()
    assert merge.take() == [2]
    with pytest.raises(EndOfStream):
        merge.take()
    with pytest.raises(Cancelled, match="ended"):
        merge.channel("c", 1)


def test_a_channel_may_come_while_the_merge_has_not_ended() -> None:
    merge: Merge[int] = Merge()
    first = merge.channel("a", 2)
    merge.seal()
    second = merge.channel("b", 2)
    first.close()
    second.put(1)
    assert merge.take() == [1]
    assert merge.hold()
    second.close()
    assert merge.take(patience=0.01) == []  # held open, though nothing is there
    third = merge.channel("c", 2)
    merge.let_go()
    third.put(3)
    third.close()
    assert merge.take() == [3]
    with pytest.raises(EndOfStream):
        merge.take()
    assert not merge.hold()


def test_a_taker_that_waits_hears_that_a_merge_is_let_go() -> None:
    merge: Merge[int] = Merge()
    merge.channel("a", 2).close()
    assert merge.hold()
    merge.seal()
    letting_go = threading.Timer(0.05, merge.let_go)
    letting_go.start()
    with pytest.raises(EndOfStream):
        merge.take()
    letting_go.join()


def test_merge_drops_within_a_stream_only() -> None:
    dropped: list[str] = []
    merge: Merge[str] = Merge(lambda item, _: dropped.append(item))
    flood, calm = merge.channel("flood", 1, "drop_oldest"), merge.channel("calm", 1, "drop_oldest")
    calm.put("c")
    for number in range(10):
        flood.put(f"f{number}")
    assert sorted(merge.take(limit=5)) == ["c", "f9"]
    assert dropped == [f"f{number}" for number in range(9)]


def test_cancelled_merge_drops_everything_once() -> None:
    dropped: Counter[int] = Counter()
    merge: Merge[int] = Merge(lambda item, _: dropped.update([item]))
    for start in (0, 10):
        channel = merge.channel(str(start), 4)
        for number in range(3):
            channel.put(start + number)
    merge.cancel()
    assert dropped == Counter([0, 1, 2, 10, 11, 12])
    with pytest.raises(Cancelled):
        merge.take()


@settings(max_examples=40, deadline=None)
@given(
    streams=st.integers(1, 4),
    count=st.integers(0, 60),
    capacity=st.integers(1, 4),
    limit=st.integers(1, 5),
    policy=st.sampled_from(["block", "drop_oldest"]),
    cancel_after=st.one_of(st.none(), st.integers(0, 80)),
    seed=st.integers(0, 2**16),
)
def test_every_item_is_taken_dropped_or_refused_once(
    streams: int, count: int, capacity: int, limit: int, policy: str, cancel_after: int | None, seed: int
) -> None:
    """With real threads, any interleaving: each item ends in exactly one place, in order per stream."""
    lock = threading.Lock()
    dropped: Counter[tuple[int, int]] = Counter()

    def on_drop(item: tuple[int, int], _reason: str) -> None:
        with lock:
            dropped[item] += 1

    merge: Merge[tuple[int, int]] = Merge(on_drop)
    channels = [merge.channel(str(index), capacity, policy) for index in range(streams)]  # type: ignore[arg-type]
    merge.seal()
    refused: Counter[tuple[int, int]] = Counter()

    def feed(index: int) -> None:
        jitter = random.Random(seed + index)
        for number in range(count):
            try:
                channels[index].put((index, number))
            except Cancelled:
                with lock:
                    refused[index, number] += 1
            if jitter.random() < 0.1:
                time.sleep(0)
        channels[index].close()

    taken: list[tuple[int, int]] = []
    with ThreadPoolExecutor(streams) as pool:
        feeding = [pool.submit(feed, index) for index in range(streams)]
        try:
            while True:
                taken += merge.take(limit)
                if cancel_after is not None and len(taken) >= cancel_after:
                    merge.cancel()
        except (EndOfStream, Cancelled):
            pass
        for future in feeding:
            future.result(timeout=10)
    everything = Counter((index, number) for index in range(streams) for number in range(count))
    assert Counter(taken) + dropped + refused == everything
    for index in range(streams):
        numbers = [number for stream, number in taken if stream == index]
        assert numbers == sorted(numbers)
    if policy == "block" and cancel_after is None:
        assert not dropped
