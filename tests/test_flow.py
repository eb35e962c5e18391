"""Whole flows: order, drain, cancel, failure; each item is emitted or dropped once, whatever happens."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.flow import Dropped, Flow

COUNT = 200


class Books:
    """An observer that only counts."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.captured: Counter[int] = Counter()
        self.finished: Counter[int] = Counter()
        self.drops: Counter[int] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.retirements: Counter[str] = Counter()

    def fed(self, stage: str, item: Any) -> None:
        with self.lock:
            self.captured[item] += 1

    def served(self, stage: str, items: list[Any], seconds: float) -> None:
        assert seconds >= 0

    def dropped(self, stage: str, item: Any, reason: str) -> None:
        with self.lock:
            self.drops[item] += 1
            self.reasons[stage, reason] += 1

    def emitted(self, stage: str, item: Any) -> None:
        with self.lock:
            self.finished[item] += 1

    def retired(self, stage: str, cpu_seconds: float) -> None:
        with self.lock:
            self.retirements[stage] += 1

    def check(self) -> None:
        assert self.captured == self.finished + self.drops
        assert set(self.captured.values()) <= {1}


def make(
    books: Books,
    *,
    numbers: Callable[[], Iterator[Any]] = lambda: iter(range(COUNT)),
    call: Callable[[list[int]], list[Any]] = lambda items: items,
    workers: int = 1,
    capacity: int = 2,
    limit: int = 1,
) -> tuple[Flow, Any]:
    flow = Flow(books)
    first = flow.channel("first", "feed", capacity)
    middle = flow.channel("middle", "work", capacity)
    last = flow.channel("last", "work", capacity)
    flow.feed("feed", "feeder", numbers, first)
    flow.stage("work", [call] * workers, first, middle, limit=limit)
    flow.stage("rest", [lambda items: items], middle, last)
    return flow, last


def run(flow: Flow, last: Any, call: Callable[[list[int]], list[Any]] = lambda items: items) -> list[Any]:
    """To the end, joined; what came out."""
    flow.start()
    try:
        return list(flow.consume("out", last, call))
    finally:
        flow.cancel()
        assert flow.abandon_feeders(5) == []
        flow.join_workers()


def wobble(items: list[int]) -> list[int]:
    time.sleep(random.Random(items[0]).random() * 0.002)
    return items


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("limit", [1, 3])
def test_order_and_completeness_with_any_number_of_workers(workers: int, limit: int) -> None:
    books = Books()
    flow, last = make(books, call=wobble, workers=workers, limit=limit)
    assert run(flow, last) == list(range(COUNT))
    flow.raise_errors()
    books.check()
    assert not books.drops
    assert books.retirements == Counter(feed=1, work=workers, rest=1, out=1)


def test_a_slow_item_holds_up_those_of_its_lane_alone() -> None:
    books = Books()
    out: list[int] = []
    others = threading.Event()

    def slow_first(items: list[int]) -> list[int]:
        if items == [0]:
            assert others.wait(20), "the odd ones waited for an even one"
        return items

    def note(items: list[int]) -> list[int]:
        out.extend(items)
        if {1, 3, 5} <= set(out):
            others.set()
        return items

    flow = Flow(books)
    first, last = flow.channel("first", "feed", 2), flow.channel("last", "work", 2)
    flow.feed("feed", "feeder", lambda: iter(range(20)), first)
    flow.stage("work", [slow_first] * 4, first, last, lane=lambda item: item % 2)
    assert run(flow, last, note) == out
    flow.raise_errors()
    for lane in (0, 1):
        assert [item for item in out if item % 2 == lane] == list(range(lane, 20, 2))
    assert out.index(5) < out.index(0)


def test_a_frame_is_not_held_until_the_next_one_comes() -> None:
    books = Books()
    gate, seen = threading.Event(), threading.Event()

    def one_then_wait() -> Iterator[int]:
        yield 1
        assert seen.wait(5), "the first item did not come out before the second one was there"
        gate.set()
        yield 2

    flow, last = make(books, numbers=one_then_wait, workers=3)
    flow.start()
    results = flow.consume("out", last, lambda items: items)
    assert next(results) == 1
    seen.set()
    assert list(results) == [2]
    assert gate.is_set()
    flow.join_workers()
    flow.raise_errors()


def test_a_feeder_closes_its_iterator_in_its_own_thread() -> None:
    closed_in: list[str] = []

    def endless() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            closed_in.append(threading.current_thread().name)

    books = Books()
    flow, last = make(books, numbers=endless)
    flow.start()
    results = flow.consume("out", last, lambda items: items)
    next(results)
    results.close()
    flow.cancel()
    assert flow.abandon_feeders(5) == []
    flow.join_workers()
    assert closed_in == ["feeder"]


class Fault(Exception):
    """What the tests throw."""


def failing(at: int) -> Callable[[list[int]], list[int]]:
    def call(items: list[int]) -> list[int]:
        if at in items:
            raise Fault(f"at {at}")
        return items

    return call


@pytest.mark.parametrize("at", [0, COUNT // 2, COUNT - 1])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("where", ["feed", "work", "out"])
def test_a_fault_anywhere_ends_the_flow_and_is_named(where: str, at: int, workers: int) -> None:
    books = Books()

    def numbers() -> Iterator[int]:
        for number in range(COUNT):
            if where == "feed" and number == at:
                raise Fault(f"at {at}")
            yield number

    flow, last = make(
        books, numbers=numbers, call=failing(at) if where == "work" else wobble, workers=workers
    )
    came = run(flow, last, failing(at) if where == "out" else lambda items: items)
    assert came == list(range(len(came)))
    assert len(came) <= at
    with pytest.raises(ExceptionGroup) as raised:
        flow.raise_errors()
    (fault,) = raised.value.exceptions
    assert isinstance(fault, Fault)
    assert fault.__notes__ == [f"raised in stage {where!r}"]
    books.check()
    if where != "feed":
        assert books.reasons[where, "failed"] == 1


def test_quick_calls_share_a_take_and_slow_ones_do_not() -> None:
    """Items that are there together: a call gets no more than its limit, whatever is taken in one go."""
    for seconds, shared in ((0.0, True), (0.003, False)):
        books = Books()
        flow = Flow(books)
        first, last = flow.channel("first", "feed", 100), flow.channel("last", "work", 100)
        calls: list[list[int]] = []
        depths: list[int] = []

        def work(items: list[int], seconds: float = seconds) -> list[int]:
            time.sleep(seconds)
            calls.append(items)  # noqa: B023
            depths.append(first.statistics().depth)  # noqa: B023
            return items

        for number in range(40):
            first.put(number)
        first.close()
        flow.stage("work", [work], first, last, limit=2, most=20)
        flow.start()
        assert list(flow.consume("out", last, lambda items: items)) == list(range(40))
        flow.join_workers()
        assert max(map(len, calls)) == 2 and list(itertools.chain(*calls)) == list(range(40))
        # With one take a call, two more items are gone at each call; with one for many, they go at once.
        steps = {before - after for before, after in itertools.pairwise(depths)}
        assert (steps == {2}) == (not shared)


@pytest.mark.parametrize(
    ("work_seconds", "varies", "together"), [(0.0, False, False), (0.0005, False, True), (0.0, True, True)]
)
def test_cheap_stages_work_one_at_a_time_and_others_side_by_side(
    work_seconds: float, varies: bool, together: bool
) -> None:
    """Cheap ones would only fight for the interpreter's lock; one whose work varies may be dear next time."""
    inside, meetings = 0, 0
    lock = threading.Lock()

    def work(items: list[int]) -> list[int]:
        nonlocal inside, meetings
        for item in items:
            with lock:
                meetings += inside > 0 and item >= COUNT  # by then it is known what an item takes
                inside += 1
            hashlib.sha256(bytes(4096))  # lets go of the interpreter, as native calls do
            if work_seconds:
                time.sleep(work_seconds)
            with lock:
                inside -= 1
        return items

    flow = Flow(Books())
    first, second, third = (flow.channel(f"c{n}", "a", 8) for n in range(3))
    flow.feed("feed", "feed", lambda: iter(range(3 * COUNT)), first)
    flow.stage("a", [work], first, second, limit=4, varies=varies)
    flow.stage("b", [work] * 2, second, third, limit=4, varies=varies)
    assert run(flow, third) == list(range(3 * COUNT))
    assert (meetings > 0) == together


def test_a_stage_that_loses_an_item_is_found_out() -> None:
    books = Books()
    flow, last = make(books, call=lambda items: [] if items == [5] else items)
    run(flow, last)
    with pytest.raises(ExceptionGroup) as raised:
        flow.raise_errors()
    assert "took 1 items and returned 0" in str(raised.value.exceptions[0])
    books.check()


def test_a_stage_may_give_an_item_up_with_a_reason() -> None:
    books = Books()
    flow, last = make(
        books,
        numbers=lambda: iter([0, Dropped(1, "skipped"), 2, 3]),
        call=lambda items: [Dropped(item, "odd") if item % 2 else item for item in items],
        workers=2,
    )
    assert run(flow, last) == [0, 2]
    flow.raise_errors()
    books.check()
    assert books.reasons == Counter({("feed", "skipped"): 1, ("work", "odd"): 1})


@pytest.mark.parametrize("after", [0, 1, 50])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_consumer_that_leaves_cancels_and_counts(after: int, workers: int) -> None:
    books = Books()
    flow, last = make(books, numbers=lambda: iter(range(10_000_000)), call=wobble, workers=workers)
    flow.start()
    results = flow.consume("out", last, lambda items: items)
    for _ in range(after):
        next(results)
    results.close()  # type: ignore[attr-defined]
    flow.cancel()
    assert flow.abandon_feeders(5) == []
    flow.join_workers()
    flow.raise_errors()
    books.check()
    assert sum(books.finished.values()) == after
    assert {reason for _, reason in books.reasons} <= {"cancelled"}


def test_cancel_from_another_thread_while_everybody_waits() -> None:
    books = Books()
    hold = threading.Event()

    def held() -> Iterator[int]:
        yield 0
        hold.wait(10)

    flow, last = make(books, numbers=held, workers=2)
    flow.start()
    timer = threading.Timer(0.05, lambda: (flow.cancel(), hold.set()))
    timer.start()
    list(flow.consume("out", last, lambda items: items))
    timer.join()
    assert flow.abandon_feeders(5) == []
    flow.join_workers()
    books.check()


def test_a_feeder_that_does_not_answer_is_left_behind_and_the_rest_drains() -> None:
    books = Books()
    hold = threading.Event()

    def stuck() -> Iterator[int]:
        yield 0
        hold.wait(10)
        yield 1

    flow, last = make(books, numbers=stuck)
    flow.start()
    results = flow.consume("out", last, lambda items: items)
    assert next(results) == 0
    assert flow.abandon_feeders(0.05) == ["feeder"]
    assert list(results) == []
    flow.join_workers()
    hold.set()
    assert flow.abandon_feeders(5) == []
    books.check()  # the late item was refused, and counted


def test_back_pressure_reaches_the_feeder() -> None:
    books = Books()
    release = threading.Event()

    def slow(items: list[int]) -> list[int]:
        release.wait(10)
        return items

    flow, last = make(books, call=slow, workers=2, capacity=2)
    flow.start()
    time.sleep(0.1)
    # One in each worker's hand, two in the channel, one in the feeder's hand.
    assert sum(books.captured.values()) == 2 + 2 + 1
    release.set()
    assert list(flow.consume("out", last, lambda items: items)) == list(range(COUNT))
    flow.join_workers()
    books.check()


@pytest.mark.parametrize(("items", "left", "ahead"), [(3, [0, 1, 2], 1), (4, [3], 0)])
def test_on_demand_one_is_made_ready_ahead_unless_the_source_is_behind(
    items: int, left: list[int], ahead: int
) -> None:
    """The first channel holds three; a fourth one makes it run over."""
    flow = Flow(Books())
    flow.live = True
    first = flow.channel("first", "feed", 3, "drop_oldest")
    target = flow.channel("target", "work", 9)
    flow.stage("work", [wobble] * 2, first, target, demand=target)
    for item in range(items):
        first.put(item)
    flow.start()
    for taken, item in enumerate(left):
        # Two workers: one promise each beside those ahead.
        wanted = min(ahead + 1, len(left) - taken)
        deadline = time.monotonic() + 5
        while target.statistics().depth != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert first.statistics().depth == len(left) - taken - wanted
        assert target.take() == [item]
    flow.cancel()
    flow.join_workers()


def test_the_consumer_may_do_something_else_while_nothing_comes() -> None:
    books = Books()
    idled = threading.Event()

    def waits() -> Iterator[int]:
        yield 0
        assert idled.wait(5)
        yield 1

    flow, last = make(books, numbers=waits)
    flow.start()
    assert list(flow.consume("out", last, lambda items: items, idle=idled.set)) == [0, 1]
    flow.join_workers()
    flow.raise_errors()
